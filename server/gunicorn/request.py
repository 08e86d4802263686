"""
How requests are read: with their headers as they were sent, and most of them at a glance.

gunicorn's own parser is the strictest of those tried, and costs a fifth of a call. Nearly every head is of one plain
shape, which a regular expression recognises as a whole; whatever differs from it in the least (chunks, expectations,
repeated or doubtful fields, a head in pieces) goes to gunicorn's parser with not a byte of it consumed. So what is
refused is what gunicorn refuses.
"""

from __future__ import annotations

import io
import re
import socket
import time
from functools import lru_cache
from typing import Any

from gunicorn.config import Config
from gunicorn.http import body as gunicorn_body
from gunicorn.http import errors, message
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader, Unreader
from gunicorn.http.wsgi import base_environ
from gunicorn.util import unquote_to_wsgi_str

from llmproxy.client.request_body import ByteStream
from llmproxy.errors import ProxyError
from llmproxy.headers import Headers, lists_close
from llmproxy.turns import give_way
from server.gunicorn.body import Body, ChunkedReader, LengthReader
from server.lingering import DRAINED_BYTES, LINGER_S

Environ = dict[str, Any]
Address = tuple[Any, ...]  # as sockets tell it

# Longer request lines are answered with 414, longer or more headers with 431.
MAX_LINE_BYTES = 8190
MAX_FIELDS = 100
# All of a head. gunicorn looks through what has come of it at each read: a hundred clients with 700 KB each, and a
# byte now and then, would keep everybody else waiting.
MAX_HEAD_BYTES = 64 * 1024
MAX_LENGTH_DIGITS = 18
# No underscore, and no longer name than any that is used: what is found of names is remembered.
_FIELD = rb"[-!#$%&'*+.^`|~0-9A-Za-z]{1,64}+:[\t\x20-\x7e\x80-\xff]*+"
# The target without a fragment, nor a second slash that would begin a host.
_HEAD = re.compile(
    rb"((?!CONNECT )[A-Z]{3,20}) (/(?!/)[\x21\x22\x24-\x7e]*) HTTP/1\.1\r\n"
    rb"(" + _FIELD + rb"(?:\r\n" + _FIELD + rb")*+)\r\n\r\n"
)
# Fields that change what else holds, so that gunicorn itself shall judge.
_UNUSUAL = frozenset({"EXPECT", "TRANSFER-ENCODING", "UPGRADE"})


class Request(message.Request):  # type: ignore[misc]
    """
    gunicorn's request, which keeps what a proxy passes on.

    Attributes:
        received: The headers as sent, names with underscores and repetitions included.
    """

    received: Headers = []
    body: Any
    _line_is_read = False

    def __init__(self, cfg: Config, unreader: Unreader, peer_addr: Address | str, number: int) -> None:
        try:
            super().__init__(cfg, unreader, peer_addr, number)
        except errors.ParseException as exc:
            # For the record. Where the request line itself is at fault, anything may stand in its place.
            exc.request = (self.method, self.uri) if self._line_is_read else ("", "")
            raise

    def parse(self, unreader: Unreader) -> bytes:
        """gunicorn's reading of a head, of MAX_HEAD_BYTES or so at most."""
        self.max_buffer_headers = MAX_HEAD_BYTES
        unused: bytes = super().parse(unreader)
        return unused

    def parse_request_line(self, line_bytes: bytes) -> None:
        """gunicorn's method, target and version."""
        super().parse_request_line(line_bytes)
        self._line_is_read = True

    def set_body_reader(self) -> None:
        """gunicorn's body, of which can be read what has arrived; in no coding but `chunked`."""
        super().set_body_reader()
        # gunicorn takes `gzip, chunked`, and leaves the first of them on the body, for which no header speaks then.
        codings = [value.lower() for name, value in self.headers if name == "TRANSFER-ENCODING"]
        if codings not in ([], ["chunked"]):
            raise errors.UnsupportedTransferCoding(", ".join(codings))
        reader = self.body.reader
        is_chunked = isinstance(reader, gunicorn_body.ChunkedReader)
        own = ChunkedReader(self, self.unreader) if is_chunked else LengthReader(self.unreader, reader.length)
        self.body = Body(own)

    def should_close(self) -> bool:
        """Whether the client wants no further request; gunicorn's overlooks a `close` that is not alone."""
        return super().should_close() or any(
            name == "CONNECTION" and lists_close(value) for name, value in self.headers
        )

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Headers:
        """gunicorn's headers."""
        # What is wrong with a line is found by gunicorn; no line is folded after that.
        headers: Headers = super().parse_headers(data, from_trailer)
        if not from_trailer:
            self.received = _pairs(data.decode("latin-1"))
        return headers


class OrdinaryRequest(message.HeaderPolicy):  # type: ignore[misc]
    """
    A request that gunicorn would take, with the attributes that it looks at.

    Attributes:
        received: As `Request` has it.
        fields: The same by their keys in WSGI's environ.
    """

    version = (1, 1)
    fragment = ""
    trailers = ()
    proxy_protocol_info = None
    scheme: str

    def __init__(
        self, cfg: Config, peer_addr: Address, method: str, target: str, received: Headers, fields: dict[str, str]
    ) -> None:
        self.cfg = cfg
        self.peer_addr = self.remote_addr = peer_addr
        self.method = method
        self.uri = target
        self.path, _, self.query = target.partition("?")
        self.received = received
        self.fields = fields
        self.body: ByteStream | None = None

    @property
    def headers(self) -> Headers:
        """The fields as gunicorn tells them."""
        return [(key.removeprefix("HTTP_").replace("_", "-"), value) for key, value in self.fields.items()]

    def should_close(self) -> bool:
        """Whether the client wants no further request on its connection."""
        connection = self.fields.get("HTTP_CONNECTION")
        return connection is not None and lists_close(connection)

    def let_go_of_head(self) -> None:
        """Forget the fields, but for what they say of the connection."""
        self.received = []
        self.fields = {key: value for key, value in self.fields.items() if key == "HTTP_CONNECTION"}

    def learn_scheme(self) -> bool:
        """Take over what a trusted front server says of it. False when it says two things."""
        self.scheme = _base(self.cfg)["wsgi.url_scheme"]
        if _scheme_keys(self.cfg).isdisjoint(self.fields):
            return True
        secure, _ = self._peer_trusted_for_forwarded()
        told = {self.fields[key] == secure[name] for name in secure if (key := _key(name)) in self.fields}
        if told:
            self.scheme = "https" if True in told else "http"
        return len(told) < 2

    def environ(self, sock: socket.socket, peer: Address, server: Address) -> Environ:
        """
        WSGI's environ, key by key what gunicorn makes of the same request, but for early hints.

        Args:
            sock: The connection.
            peer, server: Names of its ends, as sockets tell them.
        """
        return {
            **_base(self.cfg),
            "wsgi.input": self.body,
            "wsgi.url_scheme": self.scheme,
            "llmproxy.headers": self.received,
            "gunicorn.socket": sock,
            "REQUEST_METHOD": self.method,
            "QUERY_STRING": self.query,
            "RAW_URI": self.uri,
            "SERVER_PROTOCOL": "HTTP/1.1",
            **self.fields,
            "REMOTE_ADDR": peer[0],
            "REMOTE_PORT": str(peer[1]),
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
            "PATH_INFO": unquote_to_wsgi_str(self.path) if "%" in self.path else self.path,
            "SCRIPT_NAME": "",
        }


class Parser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser, which reads ordinary requests at a glance."""

    def __init__(self, cfg: Config, source: socket.socket, source_addr: Address | str) -> None:
        super().__init__(cfg, source, source_addr)
        self.unreader = _Unreader(source)
        # No line can be longer than is allowed where the whole head is not.
        self._max_head_bytes = min(cfg.limit_request_line, cfg.limit_request_field_size)
        self._max_fields = cfg.limit_request_fields
        # Who the peer is stands elsewhere then, and gunicorn knows where.
        if not isinstance(source_addr, tuple) or cfg.proxy_protocol != "off":
            self._max_head_bytes = 0

    def mesg_class(
        self, cfg: Config, unreader: Unreader, peer_addr: Address | str, number: int
    ) -> OrdinaryRequest | Request:
        """The next request. StopIteration at the end of the connection."""
        if self.unreader.buf.tell():  # else the unreader does
            give_way()  # to those who wait while this one's requests come one behind the other
        data = unreader.read()
        if not data:
            raise StopIteration
        if (request := self._ordinary_request(data)) is not None:
            return request
        unreader.unread(data)
        return Request(cfg, unreader, peer_addr, number)

    def _ordinary_request(self, data: bytes) -> OrdinaryRequest | None:
        """The request at the beginning of `data`, or None when that is not an ordinary one."""
        head = _HEAD.match(data)
        if head is None or head.end() > self._max_head_bytes:
            return None
        received = _pairs(head[3].decode("latin-1"))
        fields = {_key(name): value for name, value in received}
        if not len(fields) == len(received) <= self._max_fields or "" in fields:
            return None
        length = fields.get("CONTENT_LENGTH", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > MAX_LENGTH_DIGITS:
            return None
        request = OrdinaryRequest(self.cfg, self.source_addr, head[1].decode(), head[2].decode(), received, fields)
        if not request.learn_scheme():
            return None
        request.body = self._body(data[head.end() :], int(length))
        return request

    def _body(self, rest: bytes, length: int) -> ByteStream:
        """The body at the beginning of `rest`. What follows goes to the unreader."""
        if len(rest) < length:
            self.unreader.unread(rest)
            body: ByteStream = Body(LengthReader(self.unreader, length))
            return body
        if len(rest) > length:
            self.unreader.unread(rest[length:])
        return io.BytesIO(rest[:length])

    def finish_body(self, *_: object) -> bool:
        """
        Discard what was not read of the last body, if that is little and comes soon.

        What had arrived with its head is no longer in the way.
        """
        body = getattr(self.mesg, "body", None)
        try:
            return isinstance(body, io.BytesIO) or bool(
                super().finish_body(time.monotonic() + LINGER_S, DRAINED_BYTES + 1)
            )
        except ProxyError:
            return False  # the request has had its response, and where the next one begins nobody knows


class _Unreader(SocketUnreader):  # type: ignore[misc]
    """gunicorn's, which lets others run before it reads on: what a client sends without a pause is read for long."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        """What one read brings."""
        give_way()
        data: bytes = super().chunk(size_hint)
        return data


def unread_bytes(body: ByteStream | None) -> float:
    """How much of a request's body may still be to come; infinity where nobody can tell."""
    return body.unread_bytes if isinstance(body, Body) else 0  # another has come with its head


def _pairs(lines: str) -> Headers:
    return [(name, value.strip(" \t")) for name, _, value in [line.partition(":") for line in lines.split("\r\n")]]


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    """A field's key in WSGI's environ; empty for an unusual one."""
    name = name.upper()
    if name in _UNUSUAL:
        return ""
    key = name.replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


@lru_cache(maxsize=8)
def _base(cfg: Config) -> Environ:
    return {
        **base_environ(cfg),
        "wsgi.multithread": True,
        "wsgi.url_scheme": "https" if cfg.is_ssl else "http",
    }


@lru_cache(maxsize=8)
def _scheme_keys(cfg: Config) -> frozenset[str]:
    return frozenset(_key(name) for name in cfg.secure_scheme_headers)
