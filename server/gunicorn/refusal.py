"""What a client is told whose request no application sees: in OpenAI's form, with an id and a record as any call."""

from __future__ import annotations

import logging
import socket
import uuid
from contextlib import suppress

from gunicorn.http import errors

from llmproxy.call import Call
from llmproxy.client.guard import CallGuard
from llmproxy.errors import (
    BadRequest,
    ExpectationFailed,
    HeadersTooLarge,
    ProxyError,
    RequestLineTooLong,
    UnknownTransferCoding,
)
from llmproxy.headers import endpoint_of
from server.gunicorn.request import Address
from server.lingering import linger
from services import Services

_log = logging.getLogger(__name__)

_REASONS: dict[type[Exception], type[ProxyError]] = {
    errors.LimitRequestLine: RequestLineTooLong,
    errors.LimitRequestHeaders: HeadersTooLarge,
    errors.ExpectationFailed: ExpectationFailed,
    errors.UnsupportedTransferCoding: UnknownTransferCoding,
}
# These are no fault of the client's.
_FAULTS = (errors.ConfigurationProblem, errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)


def tell(parts: Services, sock: socket.socket, peer: Address, error: Exception, log: logging.Logger = _log) -> None:
    """
    Answer a request that ended with `error` outside of the application. The connection is the caller's to close.

    What the parser refuses is recorded. Anything else is a fault of ours, and `log` says what it was.
    """
    if isinstance(error, errors.ParseException) and not isinstance(error, _FAULTS):
        _refuse(parts, sock, peer, error)
    else:
        request_id = str(uuid.uuid4())
        log.error("request %s failed", request_id, exc_info=error)
        _send(sock, ProxyError(), request_id)
    linger(sock)


def _refuse(parts: Services, sock: socket.socket, peer: Address, error: errors.ParseException) -> None:
    # What is wrong is not quoted: it may hold a token.
    reason = _REASONS.get(type(error), _NoHttp)()
    # The parser tells them where they could be read.
    method, target = getattr(error, "request", ("", ""))
    endpoint = endpoint_of(target) if target else ""
    # What a proxy of the operator's says of it was not read.
    address = parts.client_address({"REMOTE_ADDR": peer[0] if peer else ""})
    call = Call(
        method,
        endpoint,
        log=parts.log,
        live=parts.live,
        guard=CallGuard(None),
        client_address=address if parts.settings.log_client_address else None,
    )
    call.end(reason, bytes_out=_send(sock, reason, call.request_id))


def _send(sock: socket.socket, reason: ProxyError, request_id: str) -> int:
    """Write a response past any application, as the last one of its connection; how long its body is."""
    status, headers, body = reason.response(request_id)
    lines = [f"HTTP/1.1 {status}", "Connection: close", *[f"{name}: {value}" for name, value in headers], "", ""]
    with suppress(OSError):
        sock.sendall("\r\n".join(lines).encode() + body)
    return len(body)


class _NoHttp(BadRequest):
    message = "The request is not the HTTP/1.1 that it should be, or its framing is doubtful."
