"""The adapter: sends a request over a kept connection or a fresh one, and returns the answer's head."""

from __future__ import annotations

import ssl
from typing import Any

from requests import Response
from requests.adapters import BaseAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout

from llmproxy.client.request_body import RequestBody
from llmproxy.transport.answer import EndedBeforeAnswer, UpstreamAnswer, UpstreamResponse
from llmproxy.transport.connection import Connection, NothingSent, Timeouts
from llmproxy.transport.pool import MAX_IDLE_FOR_STREAMED_S, MAX_IDLE_S, ConnectionPool
from llmproxy.transport.request import UpstreamRequest, framed, head_of

# RFC 9110 section 9.2.2: sent twice they have the effect of once.
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class UpstreamAdapter(BaseAdapter):
    """
    Sends an UpstreamRequest and returns a `requests.Response` whose ``raw`` is an UpstreamAnswer.

    Args:
        timeouts: Used instead of what requests passes, which knows no idle time.
        context: Verifies upstream certificates.
    """

    def __init__(self, timeouts: Timeouts, context: ssl.SSLContext) -> None:
        super().__init__()
        self._timeouts = timeouts
        self._pool = ConnectionPool(timeouts.connect_s, context)

    def send(self, request: UpstreamRequest, **_: Any) -> Response:  # type: ignore[override]
        """The answer's head, its body unread. Raises what the docstring of `llmproxy.transport` names."""
        is_held = request.body.held is not None  # type: ignore[union-attr]
        connection = self._pool.idle(request.origin, MAX_IDLE_S if is_held else MAX_IDLE_FOR_STREAMED_S)
        if connection is not None:
            try:
                return self._exchange(request, connection)
            except _DeadConnection:
                pass  # it died idle; a fresh one tells whether the upstream is there
        return self._exchange(request, self._pool.connect(request.origin, request.on_connection))

    def _exchange(self, request: UpstreamRequest, connection: Connection) -> Response:
        answer = UpstreamAnswer(
            connection, self._pool, self._timeouts, request.on_interim, may_upgrade=request.may_upgrade
        )
        try:
            request.on_connection(connection)
            body_sent = self._send_request(request, connection, answer)
            answer.receive_head(method=request.method or "", body_sent=body_sent)
        except TimeoutError as exc:
            connection.close()
            raise ReadTimeout("the upstream did not answer in time") from exc
        except OSError as exc:
            may_repeat = _may_repeat(request, connection, exc)
            connection.close()
            if isinstance(exc, RequestsConnectionError):
                raise
            if may_repeat:
                raise _DeadConnection(str(exc)) from exc
            raise RequestsConnectionError(f"no answer from {connection.origin.host}: {exc}") from exc
        except BaseException:
            connection.close()
            raise
        return UpstreamResponse(request, answer)

    def _send_request(self, request: UpstreamRequest, connection: Connection, answer: UpstreamAnswer) -> bool:
        """Send head and body; False when the upstream answered before it had the whole body."""
        body: RequestBody = request.body  # type: ignore[assignment]
        idle_s = self._timeouts.idle_s
        if body.held is not None:
            connection.send(head_of(request, len(body.held)) + body.held, idle_s)
            return True
        connection.send(head_of(request, body.length), idle_s)
        for piece in framed(body):
            if answer.has_begun():
                return False
            try:
                connection.send(piece, idle_s)
            except TimeoutError:
                raise
            except OSError:
                return False  # it may have answered and closed; reading tells
        return True

    def count_open(self) -> int:
        """How many connections this process has, by whatever adapter of this kind."""
        return Connection.open_now

    def count_idle(self) -> int:
        """How many connections wait for a next call."""
        return self._pool.count_idle()

    def close(self) -> None:
        """Close every idle connection."""
        self._pool.close()


class _DeadConnection(Exception):
    """A kept connection died before any byte of an answer, and the request may be sent again."""


def _may_repeat(request: UpstreamRequest, connection: Connection, error: OSError) -> bool:
    """
    Whether a request may be sent once more, whose connection ended before any byte of an answer.

    Only a kept one's end says nothing of the upstream. A POST may only when it cannot have reached that: the kernel
    knows. The end of the other side (FIN) says what that side had received until then, and if that was nothing of the
    request, nobody there read it. A reset proves nothing: it may come from an upstream that read the request and then
    died, and its acknowledgement of what it read is lost.
    """
    if not connection.was_used or connection.is_aborted:
        return False
    if isinstance(error, NothingSent):
        return True
    held = request.body.held  # type: ignore[union-attr]
    if held is None:
        return False  # some of it has been read of the client, and is gone
    if request.method in IDEMPOTENT:
        return True
    sent = len(head_of(request, len(held))) + len(held)
    return isinstance(error, EndedBeforeAnswer) and connection.unacknowledged() >= sent
