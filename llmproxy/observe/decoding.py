"""
Content codings undone incrementally and in bounded memory, on a copy that nobody but an observer reads.

Output comes in pieces of about 64 KiB, so a chunk that unfolds into gigabytes is never in memory at once. Time is
bounded by the ratio: a body may unfold to 8 MiB freely and to 100 times what has arrived beyond that. Text with a
server's flushes in it stays under 50, zeros in gzip reach 1032; there is no limit on the total, since an event
stream may last a day. Past the ratio it is a bomb, and `DecodingStopped` ends the decoding for good.

Source: RFC 9110 section 8.4 (codings are undone from the last to the first), RFC 1950 to 1952, RFC 7932, RFC 8878
with the 8 MB window of RFC 9659.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import brotli
from backports import zstd

from llmproxy.turns import give_way

# Enough of a body whose beginning alone is looked into.
DECODED_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
FREE_BYTES = 8 * 1024 * 1024
MAX_RATIO = 100
# More than two codings on one body is no honest body; four are allowed and five are not looked into.
MAX_CODINGS = 4
# The ratio is looked at between slices: one chunk of megabytes must not earn its allowance before it is counted.
_SLICE_BYTES = 16 * 1024
_ZSTD_WINDOW_LOG = 23


class DecodingStopped(Exception):
    """The body unfolds beyond the ratio. The upstream's fault or attack; the observer gives up, the call goes on."""


class _Coding(Protocol):
    def decode(self, data: bytes) -> Iterator[bytes]: ...


class BodyDecoder:
    """Undoes the codings of one body. Errors of the coding libraries pass through: the observer catches them all."""

    def __init__(self, codings: list[_Coding]) -> None:
        self._codings = codings
        self._received = 0
        self._produced = 0

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """The decoded bytes this chunk makes known, in pieces. Raises DecodingStopped on a bomb."""
        for begin in range(0, len(chunk), _SLICE_BYTES):
            data = chunk[begin : begin + _SLICE_BYTES]
            self._received += len(data)
            yield from self._undo(data, 0)

    def _undo(self, data: bytes, index: int) -> Iterator[bytes]:
        if index == len(self._codings):
            yield data
            return
        for piece in self._codings[index].decode(data):
            # Every stage counts: a bomb inside a bomb may unfold in the middle and leave nothing at the end.
            self._produced += len(piece)
            if self._produced > FREE_BYTES + MAX_RATIO * self._received:
                raise DecodingStopped(f"more than {MAX_RATIO} bytes out of one")
            yield from self._undo(piece, index + 1)


class _Zlib:
    """gzip with any number of members (RFC 1952 section 2.2); what follows the last one is ignored."""

    _MAGIC = b"\x1f\x8b"

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member.eof:
                if not self._MAGIC.startswith(data[:2]):
                    return
                self._member = zlib.decompressobj(wbits=31)
            yield from _inflate(self._member, data)
            data = self._member.unused_data


class _Deflate:
    """
    The "deflate" coding: zlib's format, or the raw one that some servers send in its name.

    The first two bytes tell: a zlib header names method 8 and is a multiple of 31 (RFC 1950 section 2.2).
    """

    def __init__(self) -> None:
        self._start = b""
        self._stream: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._stream is None:
            self._start += data
            if len(self._start) < 2:
                return
            data, first, second = self._start, self._start[0], self._start[1]
            has_header = first & 0x0F == 8 and (first << 8 | second) % 31 == 0
            self._stream = zlib.decompressobj(wbits=15 if has_header else -15)
        if not self._stream.eof:
            yield from _inflate(self._stream, data)


def _inflate(stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    piece = stream.decompress(data, PIECE_BYTES)
    while piece:
        yield piece
        # A full piece may leave output inside although every input byte is consumed.
        if len(piece) < PIECE_BYTES and not stream.unconsumed_tail:
            return
        piece = stream.decompress(stream.unconsumed_tail, PIECE_BYTES)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._stream.is_finished():
            return
        piece = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
        while piece or not self._stream.can_accept_more_data():
            yield piece
            if self._stream.is_finished():
                return
            piece = self._stream.process(b"", output_buffer_limit=PIECE_BYTES)


class _Zstd:
    """Any number of frames (RFC 8878 section 3); what follows the last one is ignored."""

    _MAGIC = b"\x28\xb5\x2f\xfd"

    def __init__(self) -> None:
        self._frame = self._new_frame()

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame.eof:
                if not self._MAGIC.startswith(data[:4]):
                    return
                self._frame = self._new_frame()
            piece = self._frame.decompress(data, PIECE_BYTES)
            while piece:
                yield piece
                piece = b"" if self._frame.eof else self._frame.decompress(b"", PIECE_BYTES)
            data = self._frame.unused_data

    @staticmethod
    def _new_frame() -> zstd.ZstdDecompressor:
        # The library's own limit would let one frame header ask for 128 MiB.
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_CODINGS: dict[str, Callable[[], _Coding]] = {
    "gzip": _Zlib,
    "x-gzip": _Zlib,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


def is_identity(content_encoding: str | None) -> bool:
    """True when the body is what it says, with nothing to undo."""
    return not content_encoding or content_encoding.strip().lower() == "identity"


def body_decoder(content_encoding: str) -> BodyDecoder | None:
    """A decoder for a Content-Encoding field, or None when it names a coding we don't know or too many."""
    names = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(names) > MAX_CODINGS or not all(name in _CODINGS for name in names):
        return None
    return BodyDecoder([_CODINGS[name]() for name in reversed(names)])


def decoded(content_encoding: str, beginning: bytes) -> Iterator[bytes]:
    """What can be undone of a body's beginning, DECODED_BYTES or so; itself where the coding is not known."""
    decoder = body_decoder(content_encoding)
    if decoder is None:
        yield beginning
        return
    size = 0
    with suppress(Exception):  # on someone else's bytes, as in `UsageObserver`
        for piece in decoder.decode(beginning):
            yield piece
            size += len(piece)
            if size >= DECODED_BYTES:
                return
            give_way()
