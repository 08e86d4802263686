"""WebSocket frames as far as a tunnel must know them: where they end, and the few that it may send itself."""

from __future__ import annotations

from llmproxy.turns import give_way

MAX_HEADER_BYTES = 14
MAX_REASON_BYTES = 123
_TEXT, _CLOSE = 0x1, 0x8
_FINAL = 0x80
_MASKED = 0x80
# How many bytes after the first two tell the length, by what stands in the second.
_LENGTH_BYTES = {126: 2, 127: 8}
# A frame costs more than a microsecond, and one read may bring twenty thousand.
_FRAMES_A_LOOK = 512


class FrameScanner:
    """
    Follows one direction of a WebSocket by the lengths of its frames alone (RFC 6455 section 5.2).

    Attributes:
        saw_close: A close frame began.
    """

    __slots__ = ("_header", "_payload_left", "saw_close")

    def __init__(self) -> None:
        self._header = b""
        self._payload_left = 0
        self.saw_close = False

    @property
    def is_between_frames(self) -> bool:
        """True when a frame of somebody else's would fit here."""
        return not self._payload_left and not self._header

    def feed(self, data: bytes) -> int:
        """
        Take what follows; how many bytes of it come before the end of the last frame that ends in it, or 0.

        Lets others run meanwhile where that is many frames.
        """
        place = last_end = frames = 0
        while place < len(data):
            if not self._payload_left:
                place += self._take_header(data[place : place + MAX_HEADER_BYTES])
                frames += 1
                if not frames % _FRAMES_A_LOOK:
                    give_way()
            step = min(self._payload_left, len(data) - place)
            self._payload_left -= step
            place += step
            if self.is_between_frames:
                last_end = place
        return last_end

    def _take_header(self, data: bytes) -> int:
        """Take a header's bytes off the front; how many they are."""
        header = self._header + data
        size = header_size(header)
        if size > len(header):
            self._header = header
            return len(data)
        taken = size - len(self._header)
        self._header = b""
        self.saw_close |= header[0] & 0xF == _CLOSE
        self._payload_left = payload_length(header)
        return taken


def header_size(header: bytes) -> int:
    """The size of a frame's header; 2 when there is too little of it to know."""
    if len(header) < 2:
        return 2
    return 2 + _LENGTH_BYTES.get(header[1] & 0x7F, 0) + (4 if header[1] & _MASKED else 0)


def payload_length(header: bytes) -> int:
    """What a whole header says."""
    short = header[1] & 0x7F
    length_bytes = _LENGTH_BYTES.get(short)
    return int.from_bytes(header[2 : 2 + length_bytes]) if length_bytes else short


def text_frame(text: bytes) -> bytes:
    """A client's message of 125 bytes at most. Its mask hides nothing: there is no browser to be fooled by us."""
    return bytes((_FINAL | _TEXT, _MASKED | len(text))) + bytes(4) + text


def close_frame(code: int, reason: str) -> bytes:
    """A server's close frame. The reason is ASCII; what goes beyond 123 bytes is left out."""
    payload = code.to_bytes(2) + reason.encode("ascii")[:MAX_REASON_BYTES]
    return bytes((_FINAL | _CLOSE, len(payload))) + payload
