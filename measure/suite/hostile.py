"""
What one client or upstream may send to keep a worker from its other clients, each by name: the shapes, nothing else.

A client sends its opening, then its piece again and again; without a piece it reads the response to its end and asks
anew. The upstream takes the request and sends what belongs to the shape.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from measure.suite.sample import BODY, RESPONSE, request

MIB = 1 << 20
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nConnection: close\r\n%b\r\n"
_UPLOAD = b"POST /v1/files?shape=%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%b\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_WEBSOCKET = (
    b"GET /v1/realtime?shape=%b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
# A masked text frame of one byte, as a client sends it, and the same without a mask.
_CLIENT_FRAME, _SERVER_FRAME = b"\x81\x81\0\0\0\0x", b"\x81\x01x"


@dataclass(frozen=True)
class Shape:
    """
    One of them.

    Attributes:
        opening: What the client sends at once, with a good token where it uses one.
        piece: What it goes on sending.
        response: What the upstream answers with; nothing is the sample's.
    """

    name: str
    opening: Callable[[bytes], bytes]
    piece: bytes = b""
    response: Callable[[], bytes] = lambda: b""


def shapes() -> list[Shape]:
    """All of them: what needs no token, what a caller sends, what an upstream answers."""
    return [*_without_a_token(), *_of_callers(), *_of_upstreams()]


def _without_a_token() -> list[Shape]:
    endless = b"Content-Length: 1000000000000\r\n"
    refused = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n%b\r\n"
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n%b\r\n"
    chunks = b"10000\r\n%b\r\n" % bytes(65536)
    posts = b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    headers = b"".join(b"x-%d: %b\r\n" % (number, b"v" * 8000) for number in range(90))
    cookies = b"".join([b"Cookie: %b\r\n" % (b"a=b;" * 2000)] * 7)
    return [
        Shape("seven lines of cookies", lambda _: b"", b"GET /admin/ HTTP/1.1\r\nHost: x\r\n%b\r\n" % cookies),
        Shape("a refused upload that goes on", lambda _: _UPLOAD % (b"", b"wrong", endless), bytes(65536)),
        Shape("a refused upload in chunks", lambda _: _UPLOAD % (b"", b"wrong", _CHUNKED), chunks),
        Shape("a body behind GET /healthz", lambda _: health % endless, bytes(65536)),
        Shape("refused calls, one behind the other", lambda _: b"", refused % b"" * 200),
        Shape("refused calls with bodies, one behind the other", lambda _: b"", posts * 200),
        Shape("GET /healthz, one behind the other", lambda _: b"", health % b"" * 200),
        Shape("refused calls with 90 headers of 8 KB", lambda _: b"", refused % headers),
        Shape("empty lines", lambda _: b"", b"\r\n" * 32768),
    ]


def _of_callers() -> list[Shape]:
    members = b'"a":1,' * (4 * MIB // 6 - 20)
    repeated = b'{"stream":true,"stream_options":{},%b"model":"gpt-4o"}' % members
    nested = b'{"stream":true,"stream_options":{},"a":%b1%b,"model":"gpt-4o"}' % (b"[" * 2 * MIB, b"]" * 2 * MIB)
    return [
        _upload("an upload in chunks of one byte", _CHUNKED, b"1\r\nx\r\n" * 10_000),
        _upload("an upload with chunk extensions", _CHUNKED, b"1;%b\r\nx\r\n" % (b"e" * 4000) * 16),
        _upload("an upload beyond what is allowed", b"Content-Length: %d\r\n" % (1 << 40), bytes(65536)),
        _asked("4 MiB of members, usage to be asked for", repeated),
        _asked("4 MiB of brackets, usage to be asked for", nested),
        _asked("a form with a boundary of 60 KB", b"--" + b"x" * 60_000 + b"\r\n"),
        _websocket("a WebSocket's small frames, upwards", _CLIENT_FRAME * 8192, lambda: _SWITCHED),
    ]


def _of_upstreams() -> list[Shape]:
    usage = json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}).encode()
    logprob = b'{"token":" a","logprob":-0.1,"bytes":[32,97],"top_logprobs":[]},'
    bodies: dict[str, tuple[bytes, bytes, Callable[[], bytes]]] = {
        "27 MB of log probabilities": (b"application/json", b"", lambda: _logprobs(logprob * (27 * MIB // 64))),
        "20 MB of brackets": (b"application/json", b"", lambda: b"[" * 20 * MIB),
        "20 MB of usage members": (b"application/json", b"", lambda: b"{" + b'"usage":{},' * (20 * MIB // 11)),
        "20 MB of small events": (b"text/event-stream", b"", lambda: b"data: {}\n\n" * (2 * MIB)),
        "20 MB of events with usage": (b"text/event-stream", b"", lambda: b"data: %b\n\n" % usage * (20 * MIB // 80)),
        "20 MB of empty lines in a stream": (b"text/event-stream", b"", lambda: b"\n" * 20 * MIB),
        "20 MB of events of many lines": (
            b"text/event-stream", b"", lambda: (b'data: {"usage":1}\n' + b":\n" * 30_000 + b"\n") * 330,
        ),
        "one event of 20 MB": (b"text/event-stream", b"", lambda: b"data: " + b"x" * 20 * MIB),
        "200 MB of JSON, compressed": (
            b"application/json", b"Content-Encoding: gzip\r\n", lambda: _compressed(b"[1," * MIB, times=66),
        ),
        "2 MB in chunks of one byte": (
            b"application/json", b"Transfer-Encoding: chunked\r\n", lambda: b"1\r\n \r\n" * 2 * MIB + b"0\r\n\r\n",
        ),
    }  # fmt: skip
    return [
        *(_response(name, *parts) for name, parts in bodies.items()),
        Shape(
            "20 MB of line ends, usage asked for",
            lambda bearer: _request(bearer, "20 MB of line ends, usage asked for", b'{"stream":true}'),
            response=lambda: _OK % (b"text/event-stream", b"") + b"x: y\n" + b"\r" * 20 * MIB,
        ),
        Shape(
            "100,000 interim responses",
            lambda bearer: _request(bearer, "100,000 interim responses"),
            response=lambda: b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100_000 + _sample(),
        ),
        _websocket("a WebSocket's small frames, downwards", b"", lambda: _SWITCHED + _SERVER_FRAME * 4 * MIB),
    ]


def query_of(name: str) -> bytes:
    """How a request says which shape it is part of."""
    return name.translate(str.maketrans(" ,'/", "----")).encode()


def _upload(name: str, framing: bytes, piece: bytes) -> Shape:
    return Shape(name, lambda bearer: _UPLOAD % (query_of(name), bearer, framing), piece)


def _asked(name: str, body: bytes) -> Shape:
    return Shape(name, lambda bearer: _request(bearer, name, body), response=_sample)


def _response(name: str, kind: bytes, headers: bytes, body: Callable[[], bytes]) -> Shape:
    return Shape(name, lambda bearer: _request(bearer, name), response=lambda: _OK % (kind, headers) + body())


def _websocket(name: str, piece: bytes, response: Callable[[], bytes]) -> Shape:
    return Shape(name, lambda bearer: _WEBSOCKET % (query_of(name), bearer), piece, response)


def _request(bearer: bytes, name: str, body: bytes = BODY) -> bytes:
    asked = request(bearer.decode(), body=body, query=f"?shape={query_of(name).decode()}")
    return asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def _sample() -> bytes:
    return _OK % (b"application/json", b"Content-Length: %d\r\n" % len(RESPONSE)) + RESPONSE.encode()


def _logprobs(content: bytes) -> bytes:
    return b'{"choices":[{"logprobs":{"content":[%bnull]}}]}' % content


def _compressed(piece: bytes, *, times: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(piece) for _ in range(times)) + packer.flush()
