"""An answer as it is read: its head, then its body as the upstream's reads bring it."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any, Protocol

import httptools
from requests import Response
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout
from requests.structures import CaseInsensitiveDict

from llmproxy.headers import Headers
from llmproxy.transport.connection import Connection, Timeouts
from llmproxy.transport.parser import ParsedAnswer
from llmproxy.transport.pool import ConnectionPool
from llmproxy.transport.request import OnInterim, UpstreamRequest

MAX_HEAD_BYTES = 256 * 1024


class Fields(CaseInsensitiveDict[str]):
    """requests' mapping (of 2.34.2), filled in one go: 2 µs instead of 12."""

    def __init__(self, headers: Headers) -> None:
        self._store = {name.lower(): (name, value) for name, value in headers}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a header in any case; the inherited one takes three calls to find it."""
        entry = self._store.get(key.lower())
        return default if entry is None else entry[1]


class EndedBeforeAnswer(ConnectionError):
    """The upstream closed its side without a byte of an answer."""

    def __init__(self) -> None:
        super().__init__("the upstream closed the connection before it answered")


class UpstreamAnswer:
    """
    The raw side of a response: its head, and its body as the upstream's reads bring it.

    Attributes:
        status, reason, headers: As sent; headers in order, with repetitions.
        fields: The last header of each name.
        is_complete: The whole body has arrived, though maybe not been read from here yet.

    Args:
        on_interim, may_upgrade: See UpstreamRequest.
    """

    def __init__(
        self,
        connection: Connection,
        pool: ConnectionPool,
        timeouts: Timeouts,
        on_interim: OnInterim | None = None,
        *,
        may_upgrade: bool = False,
    ) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self._timeouts = timeouts
        self._on_interim = on_interim
        self._answer = ParsedAnswer()
        self._answer.may_upgrade = may_upgrade
        self._head_bytes = 0

    def has_begun(self) -> bool:
        """True when the answer's head has arrived, or nothing ever will. Never waits."""
        assert self._connection is not None  # noqa: S101
        data = self._connection.receive_now()
        if data:
            self._take_head(data)
        return data == b"" or self._answer.head_done

    def receive_head(self, *, method: str, body_sent: bool) -> None:
        """
        Wait for the answer's head, for as long as the first byte may take.

        Args:
            method: Of the request.
            body_sent: The upstream got the whole request, so the connection may be used again.
        """
        answer = self._answer
        assert self._connection is not None  # noqa: S101
        left_s = self._timeouts.first_byte_s
        deadline = time.monotonic() + left_s
        while not answer.head_done:
            if left_s <= 0:  # a head that comes byte by byte, or one hint after the other
                raise TimeoutError
            data = self._connection.receive(left_s)
            if not data:
                raise EndedBeforeAnswer
            self._take_head(data)
            left_s = deadline - time.monotonic()
        if method == "HEAD":  # llhttp does not know what was asked: no body belongs to this, whatever it says
            answer.is_excess |= bool(answer.body)
            answer.body.clear()
        self._may_reuse = body_sent
        self.fields = Fields(answer.headers)
        self._ends_with_connection = "content-length" not in self.fields and "transfer-encoding" not in self.fields
        self.is_complete = answer.is_done or method == "HEAD"
        self.status = answer.status
        self.reason = answer.reason
        self.headers = answer.headers

    def _take_head(self, data: bytes) -> None:
        assert self._connection is not None  # noqa: S101
        self._connection.was_used = False  # from here on, a failure is not that of an idle connection
        self._head_bytes += len(data)
        self._parse(data)
        if self._answer.interim:
            self._tell_interim()
        if self._head_bytes > MAX_HEAD_BYTES and not self._answer.head_done:
            raise RequestsConnectionError("the upstream's headers are too long")

    def _tell_interim(self) -> None:
        interim, self._answer.interim = self._answer.interim, []
        if self._on_interim is not None:
            for status, headers in interim:
                self._on_interim(status, headers)

    def _parse(self, data: bytes) -> None:
        try:
            self._answer.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            if not self._answer.is_done:
                raise RequestsConnectionError("the upstream switched protocols unasked") from None
            # What follows the head is of the other protocol; this connection is never one of HTTP again.
            self._answer.is_excess = True
            if rest := data[exc.args[0] :]:
                self._answer.body.append(rest)
        except httptools.HttpParserError as exc:
            if self._answer.is_done:  # the answer is whole; what follows it is not ours
                self._answer.is_excess = True
                return
            raise RequestsConnectionError(f"the upstream's answer is not HTTP ({type(exc).__name__})") from exc

    @property
    def trailers(self) -> Headers:
        """Fields that followed a chunked body, as sent; complete once `is_complete`."""
        return self._answer.trailers

    @property
    def is_drained(self) -> bool:
        """True when nothing of the body is left to read."""
        return self.is_complete and not self._answer.body

    def has_body_bytes(self) -> bool:
        """True when `read1` would not wait."""
        return self.is_complete or bool(self._answer.body)

    def read1(self, _amount: int = -1, *, decode_content: bool = False) -> bytes:
        """
        What one read of the upstream brought, or b"" at the end of the body.

        Raises:
            ReadTimeout: nothing came for the idle time.
            ConnectionError: the body broke off.
        """
        answer = self._answer
        while not answer.body and not self.is_complete:
            self._receive()
        data = answer.body[0] if len(answer.body) == 1 else b"".join(answer.body)
        answer.body.clear()
        return data

    def _receive(self) -> None:
        if self._connection is None:
            raise RequestsConnectionError("the answer was closed")
        try:
            data = self._connection.receive(self._timeouts.idle_s)
        except TimeoutError as exc:
            raise ReadTimeout(f"nothing came from the upstream for {self._timeouts.idle_s} s") from exc
        except OSError as exc:
            raise RequestsConnectionError(f"the upstream's answer broke off ({exc})") from exc
        if data:
            self._parse(data)
            self.is_complete = self._answer.is_done
        elif self._ends_with_connection:
            self.is_complete, self._may_reuse = True, False
        else:
            raise RequestsConnectionError("the upstream closed the connection within its answer")

    def take_over(self) -> tuple[socket.socket, bytes]:
        """The connection's socket after a 101, for the new protocol, and what has come of that already."""
        assert self._connection is not None  # noqa: S101
        connection, self._connection = self._connection, None
        return connection.detach(), b"".join(self._answer.body)

    def release(self) -> None:
        """
        Give the connection back to the pool when its exchange ended cleanly, else close it.

        Never done by reading: whoever guards the connection must let go of it first.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        answer = self._answer
        # Parser and answer know each other: left so, all of it would lie about until the collector comes.
        del answer.parser
        clean = self._may_reuse and self.is_complete and not answer.is_excess and not answer.body
        if clean and answer.keeps_alive:
            self._pool.put_back(connection)
        else:
            connection.close()

    close = release


class AnswerHead(Protocol):
    """What a response takes over of its raw side."""

    status: int
    reason: str
    fields: Fields


class UpstreamResponse(Response):
    """requests' response (of 2.34.2) around what is read, without a cookie jar: nobody may keep cookies."""

    def __init__(self, request: UpstreamRequest, answer: AnswerHead) -> None:
        self._content = False  # type: ignore[assignment] # requests' own way to say: not read
        self._content_consumed = False
        self._next = None
        self.status_code = answer.status
        self.headers = answer.fields
        self.raw = answer
        self.url = request.url or ""
        self.encoding = None
        self.history = []
        self.reason = answer.reason
        self.request = request


def lost() -> str | None:
    """What an upgrade of requests took away from `Fields` and `UpstreamResponse`; see `server.overrides`."""
    head: Any = SimpleNamespace(status=200, reason="OK", fields=Fields([("A", "b")]))
    request: Any = SimpleNamespace(url="")
    response = UpstreamResponse(request, head)
    if not vars(Response()).keys() <= vars(response).keys() | {"cookies", "elapsed"}:
        return "sets more in a response than is set here"
    return None if dict(response.headers) == {"A": "b"} else "keeps headers elsewhere than in `_store`"
