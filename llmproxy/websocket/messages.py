"""
A client's messages out of its frames, each held back until it has been judged; then its frames go up as they came.

Frames are read more strictly than most servers do, so that no other reader can see another message in them: masked,
without an extension's bits, of known kinds, in order, their lengths in the fewest bytes. Memory is bounded: a message
beyond HELD_BYTES waits in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import BinaryIO, NamedTuple

from llmproxy.client.request_body import HELD_BYTES, spooling
from llmproxy.errors import AmbiguousBody, BodyTooLarge
from llmproxy.limits.body.held import can_be_held, read_held
from llmproxy.limits.body.reading import Reading
from llmproxy.limits.body.scanner import scan
from llmproxy.turns import give_way, in_slices, take_turn
from llmproxy.websocket.frames import header_size, payload_length

MOST_BYTES = 16 * 1024 * 1024
# With the headers of its frames: of those without a payload there may be any number.
_MOST_RAW_BYTES = MOST_BYTES + 1024 * 1024
_FILE_BYTES = 16 * 1024
_CONTINUED, _CLOSE = 0x0, 0x8
_OPCODES = frozenset({_CONTINUED, 0x1, 0x2, _CLOSE, 0x9, 0xA})
_FINAL, _RESERVED, _CONTROL = 0x80, 0x70, 0x08
_MOST_CONTROL = 125


class _Piece(NamedTuple):
    """What was read of one frame: its bytes, their unmasked payload, and whether the frame ends here."""

    raw: bytes
    text: bytes
    opcode: int
    ends: bool
    is_final: bool


class _Frames:
    """One direction's frames. Raises AmbiguousBody and BodyTooLarge for what may not be sent."""

    def __init__(self) -> None:
        self._header = b""
        self._first = 0  # byte of the header
        self._left = 0
        self._at = 0
        self._mask = b""

    def feed(self, data: bytes) -> Iterator[_Piece]:
        place = 0
        while place < len(data):
            raw = b""
            if not self._left:
                step = header_size(self._header + data[place : place + 2]) - len(self._header)
                self._header += data[place : place + step]
                place += step
                if len(self._header) < header_size(self._header):
                    continue
                raw, self._header = self._header, b""
                self._begin(raw)
            taken = data[place : place + self._left]
            text = _unmasked(taken, self._mask, self._at)
            place, self._left, self._at = place + len(taken), self._left - len(taken), self._at + len(taken)
            yield _Piece(raw + taken, text, self._first & 0xF, not self._left, bool(self._first & _FINAL))

    def _begin(self, header: bytes) -> None:
        self._first, size = header[0], payload_length(header)
        opcode, short = self._first & 0xF, header[1] & 0x7F
        if self._first & _RESERVED or opcode not in _OPCODES or not header[1] & 0x80:
            raise AmbiguousBody("A frame of the WebSocket is none that a client may send.")
        if opcode & _CONTROL and (short > _MOST_CONTROL or not self._first & _FINAL):
            raise AmbiguousBody("A control frame of the WebSocket is too long, or fragmented.")
        if (short == 126 and size < 126) or (short == 127 and size < 2**16):
            raise AmbiguousBody("The length of a WebSocket's frame is written in more bytes than it needs.")
        if size > MOST_BYTES:
            raise BodyTooLarge(limit=MOST_BYTES)
        self._mask, self._left, self._at = header[-4:], size, 0


def _unmasked(data: bytes, mask: bytes, at: int) -> bytes:
    size = len(data)
    key = (mask * 2)[at % 4 : at % 4 + 4] * (size // 4 + 1)
    return (int.from_bytes(data) ^ int.from_bytes(key[:size])).to_bytes(size)


class Message:
    """
    One message of a client.

    Attributes:
        size: Bytes of its payload so far.
    """

    def __init__(self, open_spool: Callable[[], BinaryIO]) -> None:
        self.size = 0
        self._open_spool = open_spool
        self._raw = bytearray()
        self._raw_size = 0
        self._text = bytearray()
        self._file: BinaryIO | None = None

    def add(self, piece: _Piece) -> None:
        """Raises BodyTooLarge, SpoolUnavailable."""
        self.size += len(piece.text)
        self._raw_size += len(piece.raw)
        if self.size > MOST_BYTES or self._raw_size > _MOST_RAW_BYTES:
            raise BodyTooLarge(limit=MOST_BYTES)
        self._raw += piece.raw
        if self._file is None:
            self._text += piece.text
        if len(self._raw) > HELD_BYTES:
            self._spool()

    def _spool(self) -> None:
        with spooling():
            if self._file is None:
                self._file = self._open_spool()
                self._text.clear()
            self._file.write(self._raw)
        self._raw.clear()

    def read(self) -> Reading:
        """What it says. Raises AmbiguousBody."""
        if self._file is None:
            text = bytes(self._text)
            return read_held(text, pause=take_turn) if can_be_held(text) else scan((text,), take_turn)
        return scan(self._texts(), take_turn)

    def _texts(self) -> Iterator[bytes]:
        frames = _Frames()
        for raw in self.frames():
            yield b"".join(piece.text for piece in frames.feed(raw))

    def frames(self) -> Iterator[bytes]:
        """Its frames as they came, in pieces."""
        if self._file is None:
            yield bytes(self._raw)
            return
        self._spool()
        self._file.seek(0)
        while raw := self._file.read(_FILE_BYTES):
            yield raw
            give_way()

    def close(self) -> None:
        """Let go of its file."""
        if self._file is not None:
            self._file.close()


class ClientMessages:
    """
    Args:
        judge: Raises ProxyError for a message that may not go up.
        open_spool: Opens an empty file that goes with its closing.
    """

    def __init__(self, judge: Callable[[Message], None], open_spool: Callable[[], BinaryIO]) -> None:
        self._judge = judge
        self._open_spool = open_spool
        self._frames = _Frames()
        self._message: Message | None = None
        self._control = b""
        self._is_closed = False

    def feed(self, data: bytes) -> Iterable[bytes]:
        """
        What of a client's bytes may go up now: whole control frames, and the frames of messages that were judged.

        Raises AmbiguousBody, BodyTooLarge, SpoolUnavailable, and what `judge` does.
        """
        for part in in_slices(data):
            for piece in self._frames.feed(part):
                if self._is_closed:  # nothing may follow, and nobody shall read it
                    return
                if piece.opcode & _CONTROL:
                    self._control += piece.raw
                    if piece.ends:
                        control, self._control = self._control, b""
                        self._is_closed = piece.opcode == _CLOSE
                        yield control
                else:
                    yield from self._take(piece)

    def _take(self, piece: _Piece) -> Iterable[bytes]:
        is_first_piece = len(piece.raw) > len(piece.text)
        if is_first_piece and (piece.opcode == _CONTINUED) != (self._message is not None):
            raise AmbiguousBody("The fragments of a WebSocket's messages are out of order.")
        if self._message is None:
            self._message = Message(self._open_spool)
        self._message.add(piece)
        if piece.ends and piece.is_final:
            with closing(self._message) as message:
                self._message = None
                self._judge(message)
                yield from message.frames()
            give_way()  # a message may be short, and its judge asks the database

    def close(self) -> None:
        """No more will come."""
        if self._message is not None:
            self._message.close()
            self._message = None
