"""
One response on its way out: heads, framing, compression, and everything that can go wrong on purpose.

A plain JSON response leaves in one write; everything else goes piece by piece, an event of a stream or a part of a
body, so that a test can act between two of them.
"""

import http
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import brotli
import gevent
import orjson
from backports import zstd

from mock_openai import shapes
from mock_openai.connection import Connection
from mock_openai.reply import JSON_TYPE, Reply, padded, reply_to
from mock_openai.request import Request
from mock_openai.state import State

# Up to here a pause is slept through.
SHORT_PAUSE_S = 0.1
REASONS = {int(status): status.phrase for status in http.HTTPStatus}

# What OpenAI's edge sends with every response. The date stands still so that two equal calls get equal heads.
_COMMON = (
    b"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Server: cloudflare\r\n"
    b"openai-organization: org-mock\r\n"
    b"openai-processing-ms: 12\r\n"
    b"openai-project: proj_mock\r\n"
    b"openai-version: 2020-10-01\r\n"
    b"x-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 2000000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\n"
    b"x-ratelimit-remaining-tokens: 1999988\r\n"
    b"x-ratelimit-reset-requests: 6ms\r\n"
    b"x-ratelimit-reset-tokens: 0s\r\n"
    b"strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
    b"Set-Cookie: __cf_bm=mock; path=/; HttpOnly; Secure\r\n"
    b"Set-Cookie: _cfuvid=mock; path=/; HttpOnly; Secure\r\n"
    b"x-repeat: first\r\n"
    b"x-repeat: second\r\n"
    b'alt-svc: h3=":443"; ma=86400\r\n'
)


class ClientGone(Exception):
    """The client hung up while the response waited."""


class _Cut(Exception):
    """The control headers want the connection to end here."""


def plain_answer(status: int, payload: Any, *, close: bool = False) -> bytes:
    """A JSON response with nothing of OpenAI's around it."""
    body = orjson.dumps(payload)
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {JSON_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + body


class Encoder(Protocol):
    """Compresses a body piece by piece; each piece can be decoded when it arrives."""

    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class _Identity:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Zlib:
    def __init__(self, wbits: int) -> None:
        self._compressor = zlib.compressobj(wbits=wbits)

    def feed(self, data: bytes) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._compressor.flush()


class _Brotli:
    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=4)

    def feed(self, data: bytes) -> bytes:
        return bytes(self._compressor.process(data) + self._compressor.flush())

    def finish(self) -> bytes:
        return bytes(self._compressor.finish())


class _Zstd:
    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor()

    def feed(self, data: bytes) -> bytes:
        return self._compressor.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._compressor.flush(zstd.ZstdCompressor.FLUSH_FRAME)


def _encoder(encoding: str | None) -> Encoder:
    match encoding:
        case None:
            return _Identity()
        case "gzip":
            return _Zlib(31)
        case "deflate":
            return _Zlib(15)
        case "br":
            return _Brotli()
        case "zstd":
            return _Zstd()
    raise ValueError(f"x-mock-encoding: {encoding} is none of gzip, deflate, br, zstd")


_STAMP = b": sent_ns=%020d event=%06d of=%06d\n"
_STAMP_BYTES = len(_STAMP % (0, 0, 0))
_PING = b": ping\n\n"


class Exchange:
    """One request's response on its way out. `run` says whether the connection may carry another."""

    def __init__(self, state: State, connection: Connection, request: Request) -> None:
        self._state = state
        self._connection = connection
        self._request = request
        self._controls = self._controls_in_force()
        self._framing = ""
        self._next_at = 0.0

    def _controls_in_force(self) -> dict[str, str]:
        controls = self._request.controls
        if once := controls.get("once"):
            if once in self._state.used_once:
                return {}
            self._state.used_once.add(once)
        return controls

    def run(self) -> bool:
        """Sends the response. Raises ClientGone or OSError when nobody is there to take it."""
        try:
            if self._controls:
                self._before_answer()
            reply = reply_to(self._request, self._controls, self._state.api_key)
            if self._is_plain(reply):
                self._send_at_once(reply)
            else:
                self._send_in_pieces(reply)
        except _Cut:
            self._state.ledger.set_outcome(self._request, "cut")
            self._connection.close(reset=self._framing == "close" or self._controls.get("cut-with") == "reset")
            return False
        return self._keep_alive and "close-idle" not in self._controls

    def _is_plain(self, reply: Reply) -> bool:
        return not (
            self._controls or reply.is_stream or reply.binary_size is not None or self._request.method == "HEAD"
        )

    @property
    def _keep_alive(self) -> bool:
        return self._request.keep_alive and self._request.complete and self._framing != "close"

    # --- waiting ---

    def _before_answer(self) -> None:
        controls, sock = self._controls, self._connection.sock
        self._state.ledger.set_outcome(self._request, "waiting")
        if "drop" in controls:
            raise _Cut
        if "hold" in controls:
            self._hang()
        self._pause(controls.get("delay-ms"))
        for status in controls.get("informational", "").split(","):
            if status.strip():
                reason = REASONS.get(int(status), "Informational")
                sock.sendall(f"HTTP/1.1 {int(status)} {reason}\r\nLink: </v1/hint>\r\n\r\n".encode())

    def _hang(self) -> None:
        self._connection.watch().wait()
        raise ClientGone

    def _pause(self, wait_ms: str | None) -> None:
        if wait_ms:
            self._pause_s(float(wait_ms) / 1000)

    def _pause_s(self, wait_s: float) -> None:
        gone = self._connection.watch()
        if wait_s > SHORT_PAUSE_S:
            gone.wait(wait_s)
        else:
            # A third of what it costs to wait for either; whoever left is noticed that little later.
            gevent.sleep(wait_s)
        if gone.is_set():
            raise ClientGone

    def _between(self) -> None:
        if gap_ms := self._controls.get("gap-ms"):
            self._keep_pace(float(gap_ms) / 1000)
        if (name := self._controls.get("gate")) and not self._state.gates[name].pass_one(self._connection.watch()):
            raise ClientGone

    def _keep_pace(self, gap_s: float) -> None:
        # By the clock, or the time that sending takes would add up. Events that are late are not made up for.
        now = time.monotonic()
        self._next_at = max(self._next_at + gap_s, now)
        self._pause_s(self._next_at - now)

    # --- sending ---

    def _head(self, reply: Reply, framing_headers: str) -> bytes:
        self._state.responses += 1
        status = reply.status
        connection = "keep-alive" if self._keep_alive else "close"
        type_ = f"Content-Type: {reply.content_type}\r\n" if reply.events is not None else ""
        extra = "".join(f"{line}\r\n" for line in (*reply.headers, *self._asked_headers()))
        return b"".join(
            (
                f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}\r\n"
                f"{type_}{framing_headers}Connection: {connection}\r\n"
                f"x-request-id: req_{self._state.run_id}{self._state.responses:016x}\r\n".encode(),
                _COMMON,
                f"{extra}\r\n".encode("latin-1"),
            )
        )

    def _asked_headers(self) -> Iterator[str]:
        if asked := self._controls.get("header"):
            yield from asked.split("\n")
        if "stamp" in self._controls:
            yield f"x-mock-sent-ns: {time.monotonic_ns()}"

    def _send_at_once(self, reply: Reply) -> None:
        body = reply.events[0] if reply.events else b""
        self._connection.sock.sendall(self._head(reply, f"Content-Length: {len(body)}\r\n") + body)
        self._request.pieces_sent = 1

    def _send_in_pieces(self, reply: Reply) -> None:
        if reply.events is None:
            self._connection.sock.sendall(self._head(reply, ""))
            return
        self._framing = self._choose_framing(reply)
        encoding = self._controls.get("encoding")
        encoder = _encoder(encoding)
        pieces = self._pieces(reply)
        framing_headers = f"Content-Encoding: {encoding}\r\n" if encoding else ""
        if self._framing == "length":
            length, pieces, encoder = self._measured(reply, pieces, encoder)
            framing_headers += f"Content-Length: {length}\r\n"
        elif self._framing == "chunked":
            framing_headers += "Transfer-Encoding: chunked\r\n"
            framing_headers += "Trailer: x-mock-trailer\r\n" if "trailer" in self._controls else ""
        self._connection.sock.sendall(self._head(reply, framing_headers))
        if self._request.method != "HEAD":
            self._send_body(pieces, encoder, reply)

    def _choose_framing(self, reply: Reply) -> str:
        framing = self._controls.get("framing") or ("chunked" if reply.is_stream else "length")
        return "close" if framing == "chunked" and self._request.version == "1.0" else framing

    def _pieces(self, reply: Reply) -> Iterable[bytes]:
        if reply.is_stream:
            return reply.events or []
        if reply.binary_size is not None:
            return shapes.binary_pieces(reply.binary_size)
        body = (reply.events or [b""])[0]
        if reply.content_type == JSON_TYPE and "size" in self._controls:
            body = padded(body, int(self._controls["size"]))
        # Whatever acts between two pieces needs two of them.
        step = shapes.PIECE_BYTES
        if self._controls.keys() & {"cut-after", "hang-after", "gate"}:
            step = min(step, (len(body) + 1) // 2)
        return [body[start : start + step] for start in range(0, len(body), step)]

    def _measured(
        self, reply: Reply, pieces: Iterable[bytes], encoder: Encoder
    ) -> tuple[int, Iterable[bytes], Encoder]:
        """The body's length on the wire, and the body: compressed beforehand, since its length must be known."""
        if not isinstance(encoder, _Identity):
            if self._stamps(reply) or self._pings(reply):
                raise ValueError("x-mock-stamp, x-mock-ping: a compressed stream of known length can carry neither")
            encoded = [encoder.feed(piece) for piece in pieces] or [b""]
            pieces, encoder = [*encoded[:-1], encoded[-1] + encoder.finish()], _Identity()
        elif reply.binary_size is not None:
            return reply.binary_size, pieces, encoder
        pieces = list(pieces)
        stamps = _STAMP_BYTES * len(pieces) if self._stamps(reply) else 0
        pings = len(_PING) * len(pieces) if self._pings(reply) else 0
        return sum(map(len, pieces)) + stamps + pings, pieces, encoder

    def _stamps(self, reply: Reply) -> bool:
        return reply.is_stream and "stamp" in self._controls

    def _pings(self, reply: Reply) -> bool:
        return reply.is_stream and "ping" in self._controls

    def _send_body(self, pieces: Iterable[bytes], encoder: Encoder, reply: Reply) -> None:
        stamped, pinged, count = self._stamps(reply), self._pings(reply), len(reply.events or ())
        self._state.ledger.set_outcome(self._request, "answering")
        self._next_at = time.monotonic()
        for number, piece in enumerate(pieces):
            self._stop_at(number)
            if pinged:
                self._send_piece(encoder.feed(_PING))
            if number or pinged:
                self._between()
            stamp = _STAMP % (time.monotonic_ns(), number, count) if stamped else b""
            self._send_piece(encoder.feed(stamp + piece))
            self._request.pieces_sent += 1
            self._state.ledger.changed()
        self._stop_at(self._request.pieces_sent)
        self._send_piece(encoder.finish())
        if self._framing == "chunked":
            trailer = b"x-mock-trailer: done\r\n" if "trailer" in self._controls else b""
            self._connection.sock.sendall(b"0\r\n" + trailer + b"\r\n")

    def _stop_at(self, number: int) -> None:
        if number == int(self._controls.get("cut-after", "-1")):
            raise _Cut
        if number == int(self._controls.get("hang-after", "-1")):
            self._hang()

    def _send_piece(self, data: bytes) -> None:
        step = int(self._controls.get("event-split", "0")) or len(data)
        for start in range(0, len(data), step or 1):
            part = data[start : start + step]
            self._send_whole(b"%x\r\n%b\r\n" % (len(part), part) if self._framing == "chunked" else part)

    def _send_whole(self, data: bytes) -> None:
        sock = self._connection.sock
        # One call where there is room, which sendall() prepares for more.
        sent = sock.send(data)
        if sent < len(data):
            sock.sendall(data[sent:])
