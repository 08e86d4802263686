"""
Server-sent events, incrementally: an upstream's bytes in, events out, at any split.

Two steps, because most readers need only the first: `EventSplitter` cuts the stream into the raw bytes of one event
each (nothing lost: their concatenation is the stream), `parse_event` reads the fields of one. An event that outgrows
the limit leaves the splitter in parts, so memory stays bounded and the events after it are found all the same;
`DataLines` reads the data out of such parts.

Knows nothing of OpenAI. Source: WHATWG HTML, "Parsing an event stream" and "Interpreting an event stream". As there,
an event that the end of the stream cut off before its blank line is never an event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"

# A line's end directly followed by another one. Possessive: the two bytes of one CRLF must never count as two ends.
_EVENT_END = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)")
_LINE_END = re.compile(rb"\r\n|\r|\n")

_FindEnd = Callable[[bytes | bytearray, int], int]


class Event(NamedTuple):
    """One dispatched event. `name` is the `event:` field, "" when there was none."""

    name: str
    data: bytes


class Block(NamedTuple):
    """Raw bytes of one event, its closing blank line included; or, of one over the limit, a part."""

    raw: bytes
    starts: bool
    ends: bool


class EventSplitter:
    """Cuts a stream of server-sent events into `Block`s; holds at most one unfinished event up to the limit."""

    def __init__(self, *, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._held = bytearray()
        self._in_parts = False
        self._at_stream_start = True

    @property
    def is_between_events(self) -> bool:
        """True when the bytes seen so far end with a whole event."""
        return not (self._held or self._in_parts or self._at_stream_start)

    @property
    def held(self) -> bytes:
        """The unfinished event's bytes that no block has carried yet."""
        return bytes(self._held)

    def feed(self, chunk: bytes) -> list[Block]:
        """The blocks this chunk completes, in order; parts of an event over the limit as they come."""
        if self._at_stream_start:
            return self._feed_start(chunk)
        if not self._held:
            return self._split(chunk)
        # Three bytes back: the end of an event may have begun in the chunk before.
        search_from = max(0, len(self._held) - 3)
        self._held += chunk
        find_end = _end_finder(self._held, search_from)
        end = find_end(self._held, search_from)
        if end < 0 and not self._in_parts and len(self._held) <= self._max_event_bytes:
            return []
        buffer = bytes(self._held)
        self._held.clear()
        return self._cut(buffer, find_end, end)

    def release(self) -> bytes:
        """Gives up what is held of the unfinished event; the rest of it will come in parts."""
        part = self._part(bytes(self._held))
        return part[0].raw if part else b""

    def _feed_start(self, chunk: bytes) -> list[Block]:
        # The byte order mark belongs to the stream, not to its first event: a block of its own keeps both facts.
        self._held += chunk
        if len(self._held) < len(BOM) and BOM.startswith(self._held):
            return []
        self._at_stream_start = False
        buffer = bytes(self._held)
        self._held.clear()
        if buffer.startswith(BOM):
            return [Block(BOM, True, True), *self._split(buffer[len(BOM) :])]
        return self._split(buffer)

    def _split(self, buffer: bytes) -> list[Block]:
        find_end = _end_finder(buffer, 0)
        return self._cut(buffer, find_end, find_end(buffer, 0))

    def _cut(self, buffer: bytes, find_end: _FindEnd, end: int) -> list[Block]:
        blocks, begin = [], 0
        while end >= 0:
            blocks.append(Block(buffer[begin:end], not self._in_parts, True))
            self._in_parts = False
            begin, end = end, find_end(buffer, end)
        rest = buffer[begin:] if begin else buffer
        if self._in_parts or len(rest) > self._max_event_bytes:
            return blocks + self._part(rest)
        self._held += rest
        return blocks

    def _part(self, rest: bytes) -> list[Block]:
        # Line ends stay behind until it is clear whether a second one makes them the event's end.
        part = rest.rstrip(b"\r\n")
        self._held[:] = rest[len(part) :]
        if not part:
            return []
        starts, self._in_parts = not self._in_parts, True
        return [Block(part, starts, False)]


def _end_finder(buffer: bytes | bytearray, search_from: int) -> _FindEnd:
    # Nearly every upstream ends its lines with a lone LF, and looking for two bytes is four times as fast as the
    # pattern that knows all three line ends.
    return _lf_end if buffer.find(b"\r", search_from) < 0 else _any_end


def _lf_end(buffer: bytes | bytearray, search_from: int) -> int:
    """Where the first event ends, or -1."""
    found = buffer.find(b"\n\n", search_from)
    return found + 2 if found >= 0 else -1


def _any_end(buffer: bytes | bytearray, search_from: int) -> int:
    found = _EVENT_END.search(buffer, search_from)
    return found.end() if found else -1


def parse_event(raw: bytes) -> Event | None:
    """The event in one block's bytes; None when no line carried data (comments, `id`, `retry`, blank lines)."""
    name, data = b"", []
    for line in _LINE_END.split(raw):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
        elif field == b"event":
            name = value[1:] if value.startswith(b" ") else value
    if not data:
        return None
    return Event(name.decode("utf-8", "replace"), data[0] if len(data) == 1 else b"\n".join(data))


class DataLines:
    """Reads the data of one event that comes in parts, without holding it."""

    _FIELD = b"data: "

    def __init__(self) -> None:
        self._undecided: bytes | None = b""  # a line's first bytes, too few to tell its field
        self._is_data = False
        self._has_data = False

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """The data in this part, in pieces; their concatenation over all parts is the event's data."""
        first, *others = _LINE_END.split(raw)
        yield from self._line(first, is_whole=bool(others))
        for index, line in enumerate(others, start=1):
            self._undecided, self._is_data = b"", False
            yield from self._line(line, is_whole=index < len(others))

    def _line(self, line: bytes, *, is_whole: bool) -> Iterator[bytes]:
        if self._undecided is None:
            if self._is_data and line:
                yield line
            return
        line = self._undecided + line
        if len(line) < len(self._FIELD) and not is_whole:
            self._undecided = line
            return
        self._undecided = None
        field, _, value = line.partition(b":")
        self._is_data = field == b"data"
        if self._is_data:
            value = value[1:] if value.startswith(b" ") else value
            yield b"\n" + value if self._has_data else value
            self._has_data = True
