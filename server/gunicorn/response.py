"""
How responses are written: `Server` and `Date` are left to the upstream where it sent them, and the head leaves
together with the first piece of the body, which is one packet and one system call less.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.message import TOKEN_RE

from llmproxy.headers import Headers, field_lines
from llmproxy.relay import SendNow
from llmproxy.sockets import RealSocket, real, send_ready
from server.gunicorn.request import OrdinaryRequest, unread_bytes
from server.lingering import DRAINED_BYTES

# gunicorn takes these two for the connection's own and would drop the upstream's.
util.hop_headers -= {"server", "date"}
_is_plain_text = re.compile(r"[\r\n\t\x20-\x7e\x80-\xff]*").fullmatch
_has_plain_status = re.compile(r"[2-5][0-9]{2} [\t\x20-\x7e\x80-\xff]*").fullmatch


class _Shape(NamedTuple):
    """What the names of a response's headers alone say: `length_at` is where its length stands, if it does."""

    is_plain: bool
    length_at: int | None
    names: frozenset[str]


# Upstreams choose the names; a head that is longer than nearly all are is looked at anew each time.
MAX_REMEMBERED_CHARS = 4096


@lru_cache(maxsize=128)
def _shape_of(names: tuple[str, ...]) -> _Shape:
    lower = [name.lower() for name in names]
    is_plain = (
        all(TOKEN_RE.fullmatch(name) for name in names)
        and util.hop_headers.isdisjoint(lower)
        and lower.count("content-length") < 2
    )
    return _Shape(is_plain, lower.index("content-length") if "content-length" in lower else None, frozenset(lower))


class Response(wsgi.Response):  # type: ignore[misc]
    """
    gunicorn's response.

    Attributes:
        is_last: Set on the class when the worker is to end: every response closes its connection.
        trailers: Fields to send after the last chunk; the application fills them in before its body ends.
    """

    is_last = False
    trailers: Headers
    status: str | None
    headers_sent: bool
    _unsent = b""  # goes first with what is sent next
    _text: str | None = None

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], None]:
        """gunicorn's, with one look at all headers instead of two at each. A doubtful one is left to gunicorn."""
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        names = tuple([name for name, _ in headers])
        shape = _shape_of(names) if len(text) <= MAX_REMEMBERED_CHARS else _shape_of.__wrapped__(names)
        self._names = shape.names
        if (
            exc_info
            or self.status is not None
            or self.req.method == "HEAD"
            or not (shape.is_plain and _has_plain_status(status) and _is_plain_text(text))
            or not text.count("\r") == text.count("\n") == len(headers)
            or status.startswith(("204", "304"))
        ):
            write: Callable[[bytes], None] = super().start_response(status, headers, exc_info)
            return write
        self.status, self.status_code = status, int(status[:3])
        self.headers, self._text = headers, text
        if shape.length_at is None:
            self.chunked = self.req.version > (1, 0)
        else:
            self.response_length = int(headers[shape.length_at][1])
        return self.write

    def default_headers(self) -> list[str]:
        """gunicorn's, without what the application told itself."""
        if self.is_last or unread_bytes(self.req.body) > DRAINED_BYTES:
            self.force_close()
        told = self._names & {"server", "date"}
        if len(told) < 2 or self.upgrade:
            return [line for line in super().default_headers() if line.partition(":")[0].lower() not in told]
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n",
        ]
        return [*lines, "Transfer-Encoding: chunked\r\n"] if self.chunked else lines

    def send_headers(self) -> None:
        """Keep the head for the first piece of the body."""
        if not self.headers_sent:
            text = self._text
            if text is None:
                text = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
            self._unsent = f"{''.join(self.default_headers())}{text}\r\n".encode("latin-1")
            self.headers_sent = True

    def let_go_of_heads(self) -> None:
        """Forget what the request and the response said, once that has been sent."""
        self.headers, self._text = [], None
        if isinstance(self.req, OrdinaryRequest):
            self.req.let_go_of_head()

    def write(self, arg: bytes) -> None:
        """Send a piece of the body; an empty one sends the head that waits for it."""
        super().write(arg)
        if not arg:
            self._send(b"")

    def _emit_body(self, data: bytes) -> None:
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def sender(self) -> SendNow | None:
        """
        What sends pieces of the body from within the event loop, once the head has gone.

        None where nothing can: over TLS, which may wait, and for a body without chunks, which `write` looks after.
        """
        if not self.chunked or isinstance(self.sock, ssl.SSLSocket):
            return None
        return partial(self._send_now, real(self.sock))

    def _send_now(self, sock: RealSocket, piece: bytes) -> bool:
        self.sent += len(piece)
        self._unsent = send_ready(sock, b"%x\r\n%b\r\n" % (len(piece), piece))
        return not self._unsent

    def close(self) -> None:
        """Send what is left: the head of a response without a body, the end of a chunked one."""
        self.send_headers()
        self._send(b"0\r\n%b\r\n" % field_lines(self.trailers) if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        if not data:
            return
        if not isinstance(self.sock, ssl.SSLSocket):
            # What need not wait goes past gevent's socket, which takes twice as long.
            data = send_ready(real(self.sock), data)
            if not data:
                return
        # gevent's sendall asks for the socket's buffer size first, every time.
        try:
            sent = self.sock.send(data)
            if sent < len(data):
                self.sock.sendall(memoryview(data)[sent:])
        except TimeoutError as exc:
            # gunicorn knows the end of a connection by its number, and tells of anything else with a traceback.
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read") from exc
