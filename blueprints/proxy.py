"""
The way through: any method on `/v1/*`, forwarded with the project's key in place of the token.

bearer → admission → headers → upstream → relay → record. A refusal at any of these is answered in OpenAI's
form, and recorded like everything else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol, cast

import orjson
import requests
from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import Rule

from llmproxy.admission import Grant, Refused
from llmproxy.call import Call
from llmproxy.client.guard import HangupWatch
from llmproxy.client.interim import InterimSender
from llmproxy.client.request_body import RequestBody
from llmproxy.client.upload_pace import PacedStream
from llmproxy.errors import (
    BadRequest,
    ClientGone,
    LogUnavailable,
    MethodRefused,
    ProxyDraining,
    ProxyError,
    UpstreamAuthFailed,
)
from llmproxy.headers import (
    Headers,
    checked_target,
    endpoint_of,
    origin_of,
    request_headers,
    response_headers,
    with_header,
)
from llmproxy.observe.asked_usage import UsageChunkFilter, ask_for_usage
from llmproxy.observe.usage import observe
from llmproxy.relay import Relay
from llmproxy.telemetry import tracing
from llmproxy.transport.request import UpstreamRequest
from services import Services

log = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
# To ask for usage the body must be read as a whole; a larger one goes up as it is, and its usage stays unknown.
MAX_ASKING_BODY_BYTES = 4 * 1024 * 1024

# More than any body has; Python refuses to read thousands of them.
MAX_LENGTH_DIGITS = 20

# The answer to TRACE shows the request, which bears the project's key; CONNECT asks for a tunnel.
REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})

bp = Blueprint("proxy", __name__)

Environ = Mapping[str, Any]
# PEP 3333's start_response, whose answer is a function that writes.
StartResponse = Callable[[str, Headers], Callable[[bytes], object]]
ForwardCall = Callable[[Services, Call, HangupWatch, Environ], "Answer"]


@bp.record
def _list_the_route(state: BlueprintSetupState) -> None:
    # For whoever asks which routes there are: `serves` decides, before Flask looks at any.
    state.app.url_map.add(Rule("/v1/<path:rest>", endpoint=f"{bp.name}.forward", methods=None))


def serves(path: str) -> bool:
    """Whether a WSGI path is forwarded. Leading slashes count as one, as they do for every other route."""
    return path.startswith("/v1/") or path.lstrip("/").startswith("v1/")


class AnswerBody(Protocol):
    """What a server iterates over, and closes whatever happened. Its end is the call's end."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End the call."""


@dataclass(slots=True)
class Answer:
    """
    A status line, headers and an iterable, given to the server as they are.

    Attributes:
        head_first: Send the head now, though the body's first bytes are still to come.
    """

    body: AnswerBody
    status: str
    headers: Headers
    head_first: bool = False

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Send the head; the body is left to the server."""
        try:
            write = start_response(self.status, self.headers)
            if self.head_first:
                write(b"")
        except BaseException:
            # The server has not seen the body yet, so nobody else would end the call.
            self.body.close()
            raise
        return self.body


def forward(parts: Services, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """
    Forward one request; whatever happens, it leaves one record.

    A WSGI application of its own: nothing that Flask wraps around a request is for calls that are passed on as
    they are, and it costs as much as the claim.
    """
    return answer(parts, environ, _forward).send(start_response)


def answer(parts: Services, environ: Environ, forward_call: ForwardCall) -> Answer:
    """The answer to a call that `forward_call` forwards, or why it does not."""
    watch = HangupWatch(environ.get("gunicorn.socket"))
    call = Call(environ["REQUEST_METHOD"], endpoint_of(environ["RAW_URI"]), parts.log, parts.live, watch.cut)
    call.span = tracing.begin(environ, arrived_at=call.arrived_at)
    try:
        return forward_call(parts, call, watch, environ)
    except Refused as refusal:
        call.token_id, call.project_id = refusal.token_id, refusal.project_id
        reason: ProxyError = refusal.reason
    except ProxyError as exc:
        reason = exc
    except Exception:
        # A fault of ours must not cost the caller its answer, nor the operator the record.
        log.exception("forwarding failed")
        reason = ProxyError()
    watch.stop()
    return refuse(call, watch.ended_by or reason)


def _forward(parts: Services, call: Call, watch: HangupWatch, environ: Environ) -> Answer:
    target = admit_request(parts, call, watch, environ)
    grant = admit_caller(parts, call, environ.get("HTTP_AUTHORIZATION"))
    origin = origin_of(grant.base_url or parts.settings.upstream_url)
    headers = request_headers(environ["llmproxy.headers"], host=origin.host_header, api_key=grant.api_key)
    if call.span:
        headers = call.span.pass_on(headers)
    body = cast(RequestBody, call.body)
    if grant.stream_usage == "ask" and call.endpoint == CHAT:
        asked = _ask_for_usage(body)
        if asked:  # what is compressed cannot be taken apart
            headers = with_header(headers, "Accept-Encoding", "identity")
    else:
        body.hold_if_small()
        asked = False
    if body.held is None:
        watch.start_while_sending()
    client = None if _is_1_0(environ) else environ.get("gunicorn.socket")
    on_interim = InterimSender(client) if client else None
    call.asks()
    request = UpstreamRequest(call.method, origin, target, headers, body, watch.guard, on_interim)
    response = parts.upstream.open(request)
    note_answer(call, watch, response)
    return relayed(call, watch, response, environ, asked=asked)


def admit_request(parts: Services, call: Call, watch: HangupWatch, environ: Environ) -> str:
    """The target to forward to, if it may be and this process takes calls. The call has its body then."""
    _check_head(environ)
    target = checked_target(environ["RAW_URI"], environ.get("HTTP_HOST"))
    if parts.refusing.is_set():
        raise ProxyDraining
    call.body = RequestBody(
        PacedStream(environ["wsgi.input"], parts.upload_pace),
        length=_body_length(environ),
        max_bytes=parts.settings.max_body_bytes,
        client_is_gone=watch.has_hung_up,
        on_end=watch.start,
    )
    if parts.settings.log_strict and not parts.log.can_write():
        raise LogUnavailable
    return target


def admit_caller(parts: Services, call: Call, authorization: str | None) -> Grant:
    """The caller's grant. Raises Refused."""
    grant = parts.admission.admit(authorization, datetime.now(UTC))
    call.granted(grant)
    return grant


def note_answer(call: Call, watch: HangupWatch, response: requests.Response) -> None:
    """Note what the upstream's head tells. Raises UpstreamAuthFailed."""
    call.answered(response.status_code, response.headers.get("x-request-id"))
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        # It speaks of the operator's key; told to the caller it would cost a good token.
        watch.stop()
        response.raw.close()
        log.error("the upstream refused the API key of project %s", call.project_id)
        raise UpstreamAuthFailed


def _check_head(environ: Environ) -> None:
    """Raise what speaks against forwarding a request whatever its target: MethodRefused or BadRequest."""
    if environ["REQUEST_METHOD"] in REFUSED_METHODS:
        raise MethodRefused
    if "HTTP_HOST" not in environ and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise BadRequest("A request of HTTP/1.1 must have a Host header.")  # RFC 9112 section 3.2


def _is_1_0(environ: Environ) -> bool:
    return bool(environ["SERVER_PROTOCOL"] == "HTTP/1.0")


def _ask_for_usage(body: RequestBody) -> bool:
    """Ask for a chat stream's usage where its caller did not; True when the answer is to be taken out again."""
    body.hold_if_small(MAX_ASKING_BODY_BYTES)
    changed = ask_for_usage(body.held) if body.held else None
    if changed is None:
        return False
    body.held = changed
    return True


def relayed(
    call: Call, watch: HangupWatch, response: requests.Response, environ: Environ, *, asked: bool = False
) -> Answer:
    """The upstream's answer as the client gets it; `asked` when it holds usage that the client did not ask for."""
    headers = response.headers
    observer = observe(
        call.endpoint,
        status=response.status_code,
        content_type=headers.get("content-type"),
        content_encoding=headers.get("content-encoding"),
    )

    def end(cut: ProxyError | None) -> None:
        if cut is not None and _is_1_0(environ):
            watch.reset_client()
        call.bytes_out = relay.bytes_out
        call.end(cut, status=response.status_code, observer=observer)

    hides_usage = asked and observer.is_stream and "content-encoding" not in headers
    relay = Relay(
        response,
        observer=observer,
        watch=watch,
        on_first_byte=call.saw_first_byte,
        on_end=end,
        body_filter=UsageChunkFilter() if hides_usage else None,
        trailers=None if hides_usage else environ["llmproxy.trailers"],  # a checksum would not fit
    )
    down = response_headers(response.raw.headers.items(), request_id=call.request_id)
    if hides_usage:
        down = [pair for pair in down if pair[0].lower() != "content-length"]
    status = f"{response.status_code} {response.reason or ''}"
    call.is_stream = observer.is_stream
    call.answers()
    # A client of a stream wants the head at once; a small answer had better leave in one packet.
    return Answer(relay, status, down, head_first=relay.is_waiting)


def _body_length(environ: Environ) -> int | None:
    """The request body's length: None when it is chunked, 0 when there is none. Raises BadRequest."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    raw = environ.get("CONTENT_LENGTH") or "0"
    if not (raw.isascii() and raw.isdigit()) or len(raw) > MAX_LENGTH_DIGITS:
        raise BadRequest("Content-Length must be a whole number.")
    return int(raw)


class _Refusal:
    """The body of a refusal; its end is the call's end."""

    def __init__(self, call: Call, reason: ProxyError, body: bytes) -> None:
        self._call = call
        self._reason = reason
        self._pieces = iter((body,) if body else ())

    def __iter__(self) -> _Refusal:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self._call.bytes_out += len(piece)
        return piece

    def close(self) -> None:
        """Write the record."""
        self._call.end(self._reason, status=self._reason.status)


def refuse(call: Call, reason: ProxyError) -> Answer:
    """The answer to a call that gets none from the upstream."""
    body = b"" if call.method == "HEAD" else orjson.dumps(reason.body)
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("x-request-id", call.request_id),
        ("x-proxy-request-id", call.request_id),
        *reason.extra_headers,
    ]
    return Answer(_Refusal(call, reason, body), f"{reason.status} {_phrase(reason.status)}", headers)


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == ClientGone.status else HTTPStatus(status).phrase
