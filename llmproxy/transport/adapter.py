"""The adapter: sends a request over a kept connection or a fresh one, and returns the response with its head."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from typing import Any

from requests.adapters import BaseAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout

from llmproxy.egress import Egress
from llmproxy.transport.connection import Connection, NothingSent, Timeouts
from llmproxy.transport.pool import MAX_IDLE_FOR_STREAMED_S, MAX_IDLE_S, ConnectionPool
from llmproxy.transport.request import UpstreamRequest, framed, head_of
from llmproxy.transport.response import EndedBeforeResponse, UpstreamResponse, WireResponse
from llmproxy.transport.tunnel import refusal

# RFC 9110 section 9.2.2: sent twice they have the effect of once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class UpstreamAdapter(BaseAdapter):
    """
    requests' adapter for an UpstreamRequest.

    Args:
        timeouts: Used instead of what requests passes, which knows no idle time.
        context: Verifies upstream certificates.
        egress: The way to upstreams; direct to all without one.
    """

    def __init__(self, timeouts: Timeouts, context: ssl.SSLContext, egress: Egress | None = None) -> None:
        super().__init__()
        self._timeouts = timeouts
        self._pool = ConnectionPool(timeouts.connect_s, context, egress or Egress())

    def send(self, request: UpstreamRequest, **_: Any) -> UpstreamResponse:  # type: ignore[override]
        """The response, its body unread. Raises what the docstring of `llmproxy.transport` names."""
        max_idle_s = MAX_IDLE_FOR_STREAMED_S if request.body.held is None else MAX_IDLE_S
        connection = self._pool.idle(request.origin, max_idle_s)
        if connection is not None and request.may_upgrade and connection.forwarder is not None:
            connection.close()  # what forwards requests passes on no other protocol
        elif connection is not None:
            try:
                return self._exchange(request, connection)
            except _DeadConnection:
                pass  # it died idle; a fresh one tells whether the upstream is there
        request.on_connection(None)
        return self._exchange(request, self._pool.connect(request.origin, tunnels=request.may_upgrade))

    def _exchange(self, request: UpstreamRequest, connection: Connection) -> UpstreamResponse:
        raw = WireResponse(request, self._pool, self._timeouts)
        try:
            request.on_connection(connection)
            body_sent = self._send_request(request, connection, raw)
            raw.receive_head(connection, body_sent=body_sent)
            if connection.forwarder is not None and raw.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                raise refusal(raw.status, request.origin, connection.forwarder)
        except TimeoutError as exc:
            connection.close()
            raise ReadTimeout(f"no response from {connection.origin.host} in time") from exc
        except OSError as exc:
            may_repeat = _may_repeat(request, connection, exc)
            connection.close()
            if isinstance(exc, RequestsConnectionError):
                raise
            if may_repeat:
                raise _DeadConnection(str(exc)) from exc
            raise RequestsConnectionError(f"no response from {connection.origin.host}: {exc}") from exc
        except BaseException:
            connection.close()
            raise
        return UpstreamResponse(request, raw)

    def _send_request(self, request: UpstreamRequest, connection: Connection, raw: WireResponse) -> bool:
        """Send head and body; False when the upstream responded before it had the whole body."""
        body, idle_s = request.body, self._timeouts.idle_s
        if body.held is not None:
            connection.send(head_of(request, len(body.held), connection.forwarder) + body.held, idle_s)
            return True
        connection.send(head_of(request, body.length, connection.forwarder), idle_s)
        for piece in framed(body):
            if raw.has_begun(connection):
                return False
            try:
                connection.send(piece, idle_s)
            except TimeoutError:
                raise
            except OSError:
                return False  # it may have responded and closed; reading tells
        return True

    def count_open(self) -> int:
        """How many connections this process has, whoever opened them."""
        return Connection.open_now

    def count_idle(self) -> int:
        """How many connections wait for a next call."""
        return self._pool.count_idle()

    def close(self) -> None:
        """Close every idle connection."""
        self._pool.close()


class _DeadConnection(Exception):
    """A kept connection died before any byte of a response, and the request may be sent again."""


def _may_repeat(request: UpstreamRequest, connection: Connection, error: OSError) -> bool:
    """
    Whether a request may be sent once more, whose connection ended before any byte of a response.

    Only a kept one's end says nothing of the upstream. A POST may only when it cannot have reached that: the kernel
    knows. The end of the other side (FIN) says what that side had received until then, and if that was nothing of the
    request, nobody there read it. A reset proves nothing: it may come from an upstream that read the request and then
    died, and its acknowledgement of what it read is lost.
    """
    if not connection.was_used or connection.is_aborted:
        return False
    if isinstance(error, NothingSent):
        return True
    held = request.body.held
    if held is None:
        return False  # some of it has been read of the client, and is gone
    if request.method in IDEMPOTENT:
        return True
    sent = len(head_of(request, len(held), connection.forwarder)) + len(held)
    return isinstance(error, EndedBeforeResponse) and connection.unacknowledged() >= sent
