"""
Finds a few members of a JSON object of any size without holding the object.

`JsonScanner` takes the document in chunks cut anywhere and keeps the raw values of the wanted members of the
outermost object, and, when asked, of one object directly inside it; everything else is stepped over. Strings and
escapes are respected, so a wanted name inside a string or deeper down is never mistaken for the member. Memory: one
value per wanted member up to MAX_VALUE_BYTES. Depth costs a counter, not a stack.

It finds, it does not validate: a document that is not JSON gives whatever was complete before the fault. A name spelt
with escapes is the name that it spells.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import orjson

from llmproxy.turns import in_slices

MAX_VALUE_BYTES = 16 * 1024
# An object with more is none that anybody asked for, and each costs some Python.
MAX_MEMBERS = 10_000
# Of the smallest members, a millisecond's worth.
_SLICE_BYTES = 2048
# Of no double (RFC 8259 section 6) the whole part is longer.
_MAX_DIGITS = 310
# Wanted names are shorter, also with every letter escaped; of a longer one only the length matters.
_MAX_NAME_BYTES = 128

_STRING_BODY = rb'(?:[^"\\]++|\\.)*+'
# Whatever holds no bracket. Complete strings in one go, so that brackets inside them are passed unseen.
_FLAT = rb'(?:[^"{}\[\]]++|"' + _STRING_BODY + rb'")*+'
# The same with complete brackets around it: rows of numbers and small objects cost no Python step each.
_NESTED = rb"(?:[^\"{}\[\]]++|\"" + _STRING_BODY + rb"\"|\[" + _FLAT + rb"\]|\{" + _FLAT + rb"\})*+"

_string_rest = re.compile(_STRING_BODY, re.DOTALL).match
_inside = re.compile(_NESTED, re.DOTALL).match
_space = re.compile(rb"[ \t\r\n]*+").match
_space_or_commas = re.compile(rb"[ \t\r\n,]*+").match
_scalar_rest = re.compile(rb"[^,}\] \t\r\n]*+").match

_Step = Callable[[bytes, int], int]


def parsed(text: bytes | bytearray) -> object:
    """
    A JSON text as the most forgiving of its readers takes it.

    orjson refuses what JavaScript or Python take: a lone half of a surrogate pair (a cut emoji), NaN, bytes that are
    no UTF-8, a byte order mark, deep nesting, numbers of any length.

    Raises:
        ValueError: it is no JSON to anybody.
        RecursionError: it may be, but nests too deeply to be told.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text.decode("utf-8-sig", "replace"), strict=False, parse_int=whole_number)


def whole_number(digits: str) -> float:
    """A whole number as it stands; one of more digits than Python reads is infinite, as JavaScript has it."""
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


class JsonScanner:
    """
    Scans one document for the members named in `names`.

    Args:
        names: Wanted members of the outermost object.
        inside: A member of the outermost object whose own members of these names are wanted too.

    Attributes:
        is_whole: The object has been closed.
    """

    def __init__(self, names: frozenset[bytes], *, inside: bytes | None = None) -> None:
        self._names = names
        self._inside = inside
        self.is_whole = False
        self._offset = 0  # of the chunk in the document
        self._found: dict[tuple[bytes, ...], tuple[int, bytes]] = {}  # where each value begins, and its bytes
        self._path: tuple[bytes, ...] = ()  # the object we are in: () or (inside,)
        self._step: _Step | None = self._root
        self._name = bytearray()
        self._members_left = MAX_MEMBERS
        self._value: bytearray | None = None  # bytes of the wanted value being read
        self._value_begin = 0
        self._depth = 0  # open brackets of the value being stepped over
        self._escaped = False  # the last byte was a string's lone backslash

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the document; of many, lets others run meanwhile."""
        for part in in_slices(chunk, _SLICE_BYTES):
            self._scan(part)

    def _scan(self, chunk: bytes) -> None:
        position, end = 0, len(chunk)
        while position < end and self._step is not None:
            position = self._step(chunk, position)
        self._offset += end

    def place_of(self, name: bytes) -> tuple[int, int] | None:
        """Where the value of a wanted member of the outermost object begins and ends; None where none was found."""
        begin, raw = self._found.get((name,), (0, b""))
        return (begin, begin + len(raw)) if raw else None

    def document(self) -> dict[str, object]:
        """The wanted members that are complete, parsed; of doubles the last; those of `inside` as a dict."""
        document: dict[str, object] = {}
        for path, (_, raw) in self._found.items():
            target: dict[str, object] = document
            if len(path) > 1:
                target = document.setdefault(path[0].decode(), {})  # type: ignore[assignment]
            with suppress(ValueError, RecursionError):
                target[path[-1].decode()] = parsed(raw)
        return document

    # Steps. Each takes the chunk and a position in it, goes as far as it can, and returns the next position.

    def _root(self, chunk: bytes, position: int) -> int:
        position = _end(_space, chunk, position)
        if position < len(chunk):
            self._step = self._before_name if chunk[position] == 0x7B else None
        return position + 1

    def _before_name(self, chunk: bytes, position: int) -> int:
        position = _end(_space_or_commas, chunk, position)
        if position == len(chunk):
            return position
        byte = chunk[position]
        if byte == 0x22 and self._members_left:
            self._members_left -= 1
            self._name.clear()
            self._step = self._in_name
        elif byte == 0x7D and self._path:
            self._path = ()
        elif byte == 0x7D:
            self.is_whole, self._step = True, None
        else:
            self._step = None  # it is no JSON, or none of ours
        return position + 1

    def _in_name(self, chunk: bytes, position: int) -> int:
        end, is_closed = self._to_quote(chunk, position)
        room = _MAX_NAME_BYTES + 1 - len(self._name)
        self._name += chunk[position : min(end, position + room)]
        if is_closed:
            del self._name[-1]  # the quote, or what no longer matters
            if b"\\" in self._name:
                self._name = _unescaped(self._name)
            self._step = self._before_colon
        return end

    def _before_colon(self, chunk: bytes, position: int) -> int:
        position = _end(_space, chunk, position)
        if position < len(chunk):
            self._step = self._before_value if chunk[position] == 0x3A else None
        return position + 1

    def _before_value(self, chunk: bytes, position: int) -> int:
        position = _end(_space, chunk, position)
        if position == len(chunk):
            return position
        byte, name = chunk[position], bytes(self._name)
        if name == self._inside and not self._path:
            self._forget_inside()
            if byte == 0x7B:
                self._path, self._step = (name,), self._before_name
                return position + 1
        self._value = bytearray() if name in self._names else None
        self._value_begin = self._offset + position
        if byte == 0x22:
            self._keep(chunk, position, position + 1)
            self._step = self._in_string
            return position + 1
        if byte in (0x7B, 0x5B):
            self._keep(chunk, position, position + 1)
            self._depth, self._step = 1, self._in_brackets
            return position + 1
        self._step = self._in_scalar
        return position

    def _in_string(self, chunk: bytes, position: int) -> int:
        end, is_closed = self._to_quote(chunk, position)
        self._keep(chunk, position, end)
        if is_closed:
            if self._depth:
                self._step = self._in_brackets
            else:
                self._complete()
        return end

    def _in_brackets(self, chunk: bytes, position: int) -> int:
        begin, end, depth = position, len(chunk), self._depth
        while depth and position < end:
            position = _end(_inside, chunk, position)
            if position == end:
                break
            byte = chunk[position]
            position += 1
            if byte == 0x22:
                self._step = self._in_string
                break
            depth += 1 if byte in (0x7B, 0x5B) else -1
        self._depth = depth
        self._keep(chunk, begin, position)
        if not depth:
            self._complete()
        return position

    def _in_scalar(self, chunk: bytes, position: int) -> int:
        end = _end(_scalar_rest, chunk, position)
        self._keep(chunk, position, end)
        if end < len(chunk):
            self._complete()
        return end

    # What the steps share.

    def _to_quote(self, chunk: bytes, position: int) -> tuple[int, bool]:
        """The position behind the string's closing quote, or the chunk's end; and whether the quote was there."""
        if self._escaped:
            self._escaped = False
            position += 1
        quote = chunk.find(b'"', position)
        limit = quote if quote >= 0 else len(chunk)
        if chunk.find(b"\\", position, limit) < 0:
            return (quote + 1, True) if quote >= 0 else (limit, False)
        end = _end(_string_rest, chunk, position)
        if end == len(chunk):
            return end, False
        if chunk[end] == 0x22:
            return end + 1, True
        self._escaped = True
        return len(chunk), False

    def _keep(self, chunk: bytes, begin: int, end: int) -> None:
        if self._value is not None:
            room = MAX_VALUE_BYTES + 1 - len(self._value)
            self._value += chunk[begin : min(end, begin + room)]

    def _complete(self) -> None:
        self._step = self._before_name
        if self._value is None:
            return
        path = (*self._path, bytes(self._name))
        self._found.pop(path, None)
        if len(self._value) <= MAX_VALUE_BYTES:
            self._found[path] = self._value_begin, bytes(self._value)
        self._value = None

    def _forget_inside(self) -> None:
        """A member given twice: the last one counts, and nothing of the first."""
        self._found = {path: found for path, found in self._found.items() if path[0] != self._inside}


def _unescaped(name: bytearray) -> bytearray:
    """The name that one with escapes spells; itself where it is cut off, or none of JSON's."""
    if len(name) == _MAX_NAME_BYTES:
        return name
    try:
        return bytearray(orjson.loads(b'"%b"' % bytes(name)).encode())
    except orjson.JSONDecodeError:
        return name


def _end(match: Callable[[bytes, int], re.Match[bytes] | None], chunk: bytes, position: int) -> int:
    """Where a pattern that always matches, if only nothing, stops."""
    found = match(chunk, position)
    return found.end() if found else position


def members(document: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, begin and end of each member's value of a JSON object that is known to be valid, in order."""
    position = document.index(b"{") + 1
    while True:
        position = _end(_space_or_commas, document, position)
        if document[position] == 0x7D:
            return
        name_end = _end(_string_rest, document, position + 1) + 1
        name = str(parsed(document[position:name_end]))
        begin = _end(_space, document, document.index(b":", name_end) + 1)
        position = _value_end(document, begin)
        yield name, begin, position


def _value_end(document: bytes, position: int) -> int:
    byte = document[position]
    if byte == 0x22:
        return _end(_string_rest, document, position + 1) + 1
    if byte not in (0x7B, 0x5B):
        return _end(_scalar_rest, document, position)
    depth = 0
    while True:
        depth += 1 if document[position] in (0x7B, 0x5B) else -1
        position += 1
        if not depth:
            return position
        position = _end(_inside, document, position)
