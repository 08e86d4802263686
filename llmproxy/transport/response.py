"""A response as it is read: its head, then its body as the upstream's reads bring it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import httptools
from requests import Response
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout, RequestException
from requests.structures import CaseInsensitiveDict

from llmproxy.headers import Headers, field_lines
from llmproxy.transport.connection import Connection, Timeouts
from llmproxy.transport.parser import ParsedResponse
from llmproxy.transport.pool import ConnectionPool
from llmproxy.transport.request import UpstreamRequest
from llmproxy.turns import give_way

# Of a head, and of what brings nothing of a body behind it: sizes of chunks, and trailers.
MAX_HEAD_BYTES = 64 * 1024


class Fields(CaseInsensitiveDict[str]):
    """requests' mapping (of 2.34.2), filled in one go: 2 µs instead of 12."""

    def __init__(self, headers: Headers) -> None:
        self._store = {name.lower(): (name, value) for name, value in headers}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a header in any case; the inherited one takes three calls to find it."""
        entry = self._store.get(key.lower())
        return default if entry is None else entry[1]

    def __contains__(self, key: object) -> bool:
        """True for the name of a header in any case; the inherited one raises and catches an error for others."""
        return isinstance(key, str) and key.lower() in self._store


_NO_FIELDS = Fields([])


class EndedBeforeResponse(ConnectionError):
    """The upstream closed its side without a byte of a response."""

    def __init__(self) -> None:
        super().__init__("the upstream closed the connection before it responded")


class WireResponse(ParsedResponse):
    """
    The raw side of a response. It has a connection from its head to its `close`.

    Args:
        request: What it responds to.
        pool: Gets the connection back.
        timeouts: For its head, and between two bytes of its body.

    Attributes:
        origin: Whose it is.
        fields: The last header of each name, once `receive_head` has returned.
        is_complete: The whole body has arrived, though maybe not been read from here yet.
    """

    __slots__ = (
        "_connection", "_ends_with_connection", "_framing_bytes", "_head_bytes", "_is_to_head", "_may_reuse",
        "_on_interim", "_pool", "_take", "_timeouts", "fields", "is_complete", "origin",
    )  # fmt: skip

    def __init__(self, request: UpstreamRequest, pool: ConnectionPool, timeouts: Timeouts) -> None:
        super().__init__(conceals=request.conceals, may_upgrade=request.may_upgrade)
        # And no more of it: a stream may stay for long after what asked for it.
        self.origin = request.origin
        self._is_to_head = request.method == "HEAD"
        self._on_interim = request.on_interim
        self._pool = pool
        self._timeouts = timeouts
        self._connection: Connection | None = None
        self._head_bytes = 0
        self._framing_bytes = 0  # since the last bytes of the body

    def has_begun(self, connection: Connection) -> bool:
        """True when the head has arrived, or nothing ever will. Never waits."""
        data = connection.receive_now()
        if data:
            self._take_head(connection, data)
        return data == b"" or self.head_done

    def receive_head(self, connection: Connection, *, body_sent: bool) -> None:
        """
        Wait for the head, for as long as the first byte may take, and keep the connection.

        Args:
            body_sent: The upstream got the whole request, so the connection may be used again.

        Raises:
            TimeoutError: it did not come in time.
            EndedBeforeResponse, OSError: it never will, or is no head.
        """
        left_s = self._timeouts.first_byte_s
        deadline = time.monotonic() + left_s
        while not self.head_done:
            if left_s <= 0:  # a head that comes byte by byte, or one hint after the other
                raise TimeoutError
            data = connection.receive(left_s)
            if not data:
                raise EndedBeforeResponse
            self._take_head(connection, data)
            left_s = deadline - time.monotonic()
        if self._is_to_head:  # llhttp does not know what was asked: no body belongs to this, whatever it says
            self.is_excess |= bool(self.body)
            self.body.clear()
        self.fields = Fields(self.headers)
        self._check_head()
        self.is_complete = self.is_done or self._is_to_head
        self._ends_with_connection = "content-length" not in self.fields and "transfer-encoding" not in self.fields
        self._may_reuse = body_sent
        self._connection = connection

    def _check_head(self) -> None:
        # What has been read may hold some of the body, too.
        if self._head_bytes > MAX_HEAD_BYTES and len(field_lines(self.headers)) > MAX_HEAD_BYTES:
            raise RequestsConnectionError("the upstream's headers are too long")
        if "transfer-encoding" in self.fields:
            codings = [value.strip().lower() for name, value in self.headers if name.lower() == "transfer-encoding"]
            # Another coding would be taken off with the header that names it, and left on the body.
            if codings != ["chunked"]:
                raise RequestsConnectionError("the upstream's response is in a transfer coding that is not known")

    def _take_head(self, connection: Connection, data: bytes) -> None:
        connection.was_used = False  # from here on, a failure is not that of an idle connection
        # A key may stand across two reads: a head that comes in several is looked at in any case.
        self._is_to_conceal = self._head_bytes > 0 or self._conceals.concerns(data)
        self._head_bytes += len(data)
        self._parse(data)
        if self.interim:
            interim, self.interim = self.interim, []
            if self._on_interim is not None:
                for status, headers in interim:
                    self._on_interim(status, headers)
                    give_way()
        if self._head_bytes > MAX_HEAD_BYTES and not self.head_done:
            raise RequestsConnectionError("the upstream's headers are too long")

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            if not self.is_done:
                raise RequestsConnectionError("the upstream switched protocols unasked") from None
            # What follows the head is of the other protocol; this connection is never one of HTTP again.
            self.is_excess = True
            if rest := data[exc.args[0] :]:
                self.body.append(rest)
        except httptools.HttpParserError as exc:
            if self.is_done:  # the response is whole; what follows it is not ours
                self.is_excess = True
                return
            raise RequestsConnectionError(f"the upstream's response is not HTTP ({type(exc).__name__})") from exc

    @property
    def is_drained(self) -> bool:
        """True when nothing of the body is left to read."""
        return self.is_complete and not self.body

    def has_body_bytes(self) -> bool:
        """True when `read1` would not wait."""
        return self.is_complete or bool(self.body)

    def let_go_of_head(self) -> None:
        """Forget the headers, which have had their use: the body may go on for long."""
        self.headers, self.fields = [], _NO_FIELDS

    def read1(self) -> bytes:
        """
        What one read of the upstream brought, or b"" at the end of the body.

        Raises:
            ReadTimeout: nothing came for the idle time.
            ConnectionError: the body broke off. Both are requests' own.
        """
        while not self.body and not self.is_complete:
            self._receive()
        return self._taken()

    def pump(self, take: Callable[[bytes], bool]) -> None:
        """
        Give each piece of the body that comes to `take`, in the event loop, until that returns False.

        The last piece is left to `read1`, as is what has come before this call; all of it where no loop can read.
        Raises as `read1` does.

        Args:
            take: May neither wait nor take long.
        """
        if self._connection is None or self.has_body_bytes():
            return
        self._take = take
        try:
            self._connection.watch(self._on_readable, self._timeouts.idle_s)
        except RequestException:
            raise
        except OSError as exc:
            raise self._broken_off(exc) from exc
        finally:
            del self._take

    def _on_readable(self) -> None:
        # Runs in the event loop. What goes wrong is raised where the greenlet sleeps.
        connection = self._connection
        assert connection is not None  # noqa: S101
        try:
            data = connection.receive_ready(self._timeouts.idle_s)
            if data is None:
                return
            self._received(data)
            # Of the last piece it is known that it is the last: there is more to do than to pass it on.
            if not self.is_complete and (not self.body or self._take(self._taken())):
                return
        except Exception as exc:
            connection.wake(exc)
        else:
            connection.wake()

    def _taken(self) -> bytes:
        body = self.body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return data

    def hold(self, most: int) -> bytes:
        """The body's beginning, to its end or somewhat over `most` bytes, which is left to be read all the same."""
        held = sum(map(len, self.body))
        with suppress(RequestException):  # which comes again when it is read
            while not self.is_complete and held <= most:
                self._receive()
                held = sum(map(len, self.body))
        return b"".join(self.body)

    def _receive(self) -> None:
        if self._connection is None:
            raise RequestsConnectionError("the response was closed")
        try:
            data = self._connection.receive(self._timeouts.idle_s)
        except OSError as exc:
            raise self._broken_off(exc) from exc
        self._received(data)

    def _received(self, data: bytes) -> None:
        if data:
            self._parse(data)
            self.is_complete = self.is_done
            self._framing_bytes = 0 if self.body else self._framing_bytes + len(data)
            if self._framing_bytes > MAX_HEAD_BYTES:
                raise RequestsConnectionError("the upstream's chunks or trailers are too long")
        elif self._ends_with_connection:
            self.is_complete, self._may_reuse = True, False
        else:
            end = ConnectionError("the end of its side")
            raise RequestsConnectionError("the upstream closed the connection within its response") from end

    def _broken_off(self, error: OSError) -> RequestException:
        if isinstance(error, TimeoutError):
            return ReadTimeout(f"nothing came from the upstream for {self._timeouts.idle_s} s")
        return RequestsConnectionError(f"the upstream's response broke off ({error})")

    def take_over(self) -> tuple[socket.socket, bytes]:
        """The connection's socket after a 101, for the new protocol, and what has come of that already."""
        connection, self._connection = self._connection, None
        assert connection is not None  # noqa: S101
        del self.parser  # see close
        return connection.detach(), b"".join(self.body)

    def close(self) -> None:
        """
        Give the connection back to the pool when its exchange ended cleanly, else close it.

        Never done by reading: whoever guards the connection must let go of it first.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # It and its parser know each other: left so, all of it would lie about until the collector comes.
        del self.parser
        if self._may_reuse and self.is_drained and not self.is_excess and self.keeps_alive:
            self._pool.put_back(connection)
        else:
            connection.close()


class UpstreamResponse(Response):
    """
    requests' response (of 2.34.2) around what is read, without a cookie jar: nobody may keep cookies.

    Attributes:
        raw: The body, and the headers in order and with repetitions; `headers` has the last of each name.
    """

    raw: WireResponse

    def __init__(self, request: UpstreamRequest, raw: WireResponse) -> None:
        self._content = False  # type: ignore[assignment] # requests' own way to say: not read
        self._content_consumed = False
        self._next = None
        self.status_code = raw.status
        self.headers = raw.fields
        self.raw = raw
        self.url = request.url or ""
        self.encoding = None
        self.history = []
        self.reason = raw.reason
        self.request = request


def lost() -> str | None:
    """What an upgrade of requests took away from `Fields` and `UpstreamResponse`; see `server.overrides`."""
    head: Any = SimpleNamespace(status=200, reason="OK", fields=Fields([("A", "b")]))
    request: Any = SimpleNamespace(url="")
    response = UpstreamResponse(request, head)
    if not vars(Response()).keys() <= vars(response).keys() | {"cookies", "elapsed"}:
        return "sets more in a response than is set here"
    return None if dict(response.headers) == {"A": "b"} else "keeps headers elsewhere than in `_store`"
