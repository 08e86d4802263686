"""
HTTP/1.1 to the upstream: a transport adapter for `requests` on bare sockets and llhttp.

urllib3 under requests costs 240 µs of CPU a call, waits for a buffer to fill on bodies without chunks, and
escapes paths anew. This adapter costs a fifth, hands over what each read brought, sends the target as it is
and keeps order and repetition of response headers. It does what a proxy needs and nothing else: no redirects,
no cookies, no decoding, no proxies. It knows nothing of OpenAI.

Errors are those of requests: ConnectTimeout, ReadTimeout, ConnectionError.
"""

from __future__ import annotations

import _socket
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import certifi
import httptools
from gevent import monkey
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout, ReadTimeout
from requests.structures import CaseInsensitiveDict

from llmproxy.headers import Headers, Origin
from llmproxy.request_body import RequestBody

READ_BYTES = 64 * 1024
MAX_HEAD_BYTES = 256 * 1024
# Most servers and load balancers close an idle connection after a minute or more.
MAX_IDLE_S = 50.0
MAX_IDLE_PER_ORIGIN = 256

# gevent's poll would go through the hub; a look that never waits need not.
_poll = monkey.get_original("select", "poll")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, for the first byte of an answer, and between two bytes of it."""

    connect_s: float
    first_byte_s: float
    idle_s: float


class UpstreamRequest(PreparedRequest):
    """
    A prepared request that keeps what preparing would change.

    Attributes:
        origin: Where to connect.
        target: Path and query, sent as they are.
        body: A RequestBody.
        on_connection: Called with each connection before it is used, so that a caller may abort it.
    """

    def __init__(
        self,
        method: str,
        origin: Origin,
        target: str,
        headers: dict[str, str],
        body: RequestBody,
        on_connection: Callable[[Connection], None],
    ) -> None:
        super().__init__()
        self.method = method
        self.origin = origin
        self.target = target
        self.url = f"{origin.scheme}://{origin.host_header}{target}"
        self.headers = headers  # type: ignore[assignment]
        self.body = body  # type: ignore[assignment]
        self.on_connection = on_connection


class Connection:
    """One connection to an origin; at most one exchange at a time."""

    __slots__ = ("_poll", "_sock", "idle_since", "is_aborted", "origin", "was_used")

    def __init__(self, origin: Origin, timeout_s: float, context: ssl.SSLContext) -> None:
        self.origin = origin
        self.was_used = False
        self.is_aborted = False
        self.idle_since = 0.0
        sock = socket.create_connection((origin.host, origin.port), timeout=timeout_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if origin.scheme == "https":
                sock = context.wrap_socket(sock, server_hostname=origin.host)
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        self._poll = _poll()
        self._poll.register(sock.fileno(), select.POLLIN)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data`; `timeout_s` without progress raises TimeoutError."""
        self._sock.settimeout(timeout_s)
        # Most requests fit the socket's buffer; gevent's sendall asks for its size first, every time.
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(memoryview(data)[sent:])

    def receive(self, timeout_s: float) -> bytes:
        """What one read brings; b"" at the end of the stream, unless an abort was what ended it."""
        self._sock.settimeout(timeout_s)
        data = self._sock.recv(READ_BYTES)
        if not data and self.is_aborted:
            raise ConnectionAbortedError("the exchange was aborted")
        return data

    def receive_now(self) -> bytes | None:
        """What has arrived already; None when nothing has. Never waits."""
        if not self.is_readable():
            return None
        try:
            return self.receive(0)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # a message of TLS itself, such as the session tickets that follow a handshake

    def is_readable(self) -> bool:
        """True when there is something to read, the end of the stream included. Never waits."""
        return bool(self._poll.poll(0))

    def abort(self) -> None:
        """End the exchange from outside: whoever waits in `send` or `receive` gets an OSError. Never waits."""
        self.is_aborted = True
        if self._sock.fileno() < 0:  # closed, and then gevent's socket has no real one inside
            return
        # Past TLS and gevent, down to the socket: the others may switch greenlets, or wait for the peer.
        with suppress(OSError):
            _socket.socket.shutdown(getattr(self._sock, "_sock", self._sock), socket.SHUT_RDWR)

    def close(self) -> None:
        """Close without waiting for the peer."""
        with suppress(OSError):
            self._sock.close()


class ConnectionPool:
    """Idle connections by origin, the youngest first. Nobody ever waits for one."""

    def __init__(self, timeout_s: float, context: ssl.SSLContext) -> None:
        self._timeout_s = timeout_s
        self._context = context
        self._idle: dict[Origin, deque[Connection]] = {}

    def idle(self, origin: Origin) -> Connection | None:
        """A kept connection that is still good, or None. What the upstream has closed meanwhile is dropped."""
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if time.monotonic() - connection.idle_since < MAX_IDLE_S and not connection.is_readable():
                return connection
            connection.close()
        return None

    def connect(self, origin: Origin) -> Connection:
        """A new connection. Raises ConnectTimeout or ConnectionError."""
        try:
            return Connection(origin, self._timeout_s, self._context)
        except TimeoutError as exc:
            raise ConnectTimeout(f"no connection to {origin.host}:{origin.port} in {self._timeout_s} s") from exc
        except (OSError, UnicodeError) as exc:
            raise RequestsConnectionError(f"no connection to {origin.host}:{origin.port}: {exc}") from exc

    def put_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange ended cleanly."""
        kept = self._idle.setdefault(connection.origin, deque())
        now = time.monotonic()
        # The youngest is taken first, so after a burst the others would lie here for good.
        while kept and (len(kept) >= MAX_IDLE_PER_ORIGIN or now - kept[0].idle_since >= MAX_IDLE_S):
            kept.popleft().close()
        connection.was_used = True
        connection.idle_since = now
        kept.append(connection)

    def close(self) -> None:
        """Close every idle connection."""
        for kept in self._idle.values():
            while kept:
                kept.pop().close()


class _Pairs(Headers):
    """Fields in order, with repetitions; `items` gives them as urllib3's own kind does."""

    def items(self) -> _Pairs:
        """The fields."""
        return self


class _Answer:
    """What llhttp tells of one response; its callbacks are named by httptools."""

    __slots__ = ("body", "head_done", "headers", "is_done", "is_excess", "keeps_alive", "parser", "reason", "status")

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.reason = ""
        self.headers = _Pairs()
        self.body: list[bytes] = []
        self.head_done = self.is_done = self.is_excess = self.keeps_alive = False

    def on_message_begin(self) -> None:
        if self.is_done:
            raise ValueError("a second answer to one request")

    def on_status(self, reason: bytes) -> None:
        self.reason = reason.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_done:  # after the head it is a trailer, which WSGI cannot pass on
            self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.head_done = self.status >= 200
        # llhttp forgets it when the message is over.
        self.keeps_alive = self.parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.is_done = True
        else:  # an informational answer; the one that counts follows
            self.headers.clear()
            self.reason = ""


class _Fields(CaseInsensitiveDict[str]):
    """requests' mapping, filled in one go: 2 µs instead of 12."""

    def __init__(self, headers: Headers) -> None:
        self._store = {name.lower(): (name, value) for name, value in headers}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a header in any case; the inherited one takes three calls to find it."""
        entry = self._store.get(key.lower())
        return default if entry is None else entry[1]


class UpstreamAnswer:
    """
    The raw side of a response: its head, and its body as the upstream's reads bring it.

    Attributes:
        status, reason, headers: As sent; headers in order, with repetitions.
        fields: The last header of each name.
        is_complete: The whole body has arrived, though maybe not been read from here yet.
    """

    def __init__(self, connection: Connection, pool: ConnectionPool, timeouts: Timeouts) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self._timeouts = timeouts
        self._answer = _Answer()
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
        Wait for the answer's head; interim answers are passed over.

        Args:
            method: Of the request.
            body_sent: The upstream got the whole request, so the connection may be used again.
        """
        answer = self._answer
        assert self._connection is not None  # noqa: S101
        while not answer.head_done:
            data = self._connection.receive(self._timeouts.first_byte_s)
            if not data:
                raise ConnectionResetError("the upstream closed the connection before it answered")
            self._take_head(data)
        if method == "HEAD":  # llhttp does not know what was asked: no body belongs to this, whatever it says
            answer.is_excess |= bool(answer.body)
            answer.body.clear()
        self._may_reuse = body_sent
        self.fields = _Fields(answer.headers)
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
        if self._head_bytes > MAX_HEAD_BYTES and not self._answer.head_done:
            raise RequestsConnectionError("the upstream's headers are too long")

    def _parse(self, data: bytes) -> None:
        try:
            self._answer.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise RequestsConnectionError("the upstream switched protocols unasked") from None
        except httptools.HttpParserError as exc:
            if self._answer.is_done:  # the answer is whole; what follows it is not ours
                self._answer.is_excess = True
                return
            raise RequestsConnectionError(f"the upstream's answer is not HTTP ({type(exc).__name__})") from exc

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

    def release(self) -> None:
        """
        Give the connection back to the pool when its exchange ended cleanly, else close it.

        Never done by reading: whoever guards the connection must let go of it first.
        """
        connection, self._connection = self._connection, None
        if connection is None:
            return
        answer = self._answer
        clean = self._may_reuse and self.is_complete and not answer.is_excess and not answer.body
        if clean and answer.keeps_alive:
            self._pool.put_back(connection)
        else:
            connection.close()

    close = release


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

    def send(  # type: ignore[override]
        self,
        request: UpstreamRequest,
        stream: bool = True,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer's head, its body unread. Raises what the module's docstring names."""
        connection = self._pool.idle(request.origin)
        if connection is not None:
            try:
                return self._exchange(request, connection)
            except _DeadConnection:
                pass  # it died idle; a fresh one tells whether the upstream is there
        return self._exchange(request, self._pool.connect(request.origin))

    def _exchange(self, request: UpstreamRequest, connection: Connection) -> Response:
        can_repeat = request.body.held is not None  # type: ignore[union-attr]
        answer = UpstreamAnswer(connection, self._pool, self._timeouts)
        try:
            request.on_connection(connection)
            body_sent = self._send_request(request, connection, answer)
            answer.receive_head(method=request.method or "", body_sent=body_sent)
        except TimeoutError as exc:
            connection.close()
            raise ReadTimeout("the upstream did not answer in time") from exc
        except OSError as exc:
            connection.close()
            if isinstance(exc, RequestsConnectionError):
                raise
            if can_repeat and connection.was_used and not connection.is_aborted:
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
            connection.send(_head(request, len(body.held)) + body.held, idle_s)
            return True
        connection.send(_head(request, body.length), idle_s)
        for piece in _framed(body):
            if answer.has_begun():
                return False
            try:
                connection.send(piece, idle_s)
            except TimeoutError:
                raise
            except OSError:
                return False  # it may have answered and closed; reading tells
        return True

    def close(self) -> None:
        """Close every idle connection."""
        self._pool.close()


class _DeadConnection(Exception):
    """A kept connection died before any byte of an answer, and the request can be sent again."""


def _head(request: UpstreamRequest, length: int | None) -> bytes:
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif length or request.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {length}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def _framed(body: RequestBody) -> Iterable[bytes]:
    """The body's pieces as they go on the wire."""
    if body.length is not None:
        yield from body
        return
    for piece in body:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


class UpstreamResponse(Response):
    """requests' response around an UpstreamAnswer, without a cookie jar of its own: nobody may keep cookies."""

    def __init__(self, request: UpstreamRequest, answer: UpstreamAnswer) -> None:
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


def verifying_context() -> ssl.SSLContext:
    """Trusts certifi's roots, the machine's, and those that OpenSSL's own SSL_CERT_FILE and SSL_CERT_DIR name."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.set_default_verify_paths()
    context.set_alpn_protocols(["http/1.1"])
    return context
