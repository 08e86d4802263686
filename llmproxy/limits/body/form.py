"""
Reads a multipart form as it goes by, in pieces cut anywhere, and keeps its short fields.

Parsers of forms are lenient, each in its own way: about line ends, folded headers, text before and behind, quoting.
A lenient one here would see another form than the upstream's. So this takes what clients send and nothing else: CRLF,
one line for each header, the boundary nowhere but between parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.reading import (
    FREE,
    FREE_INSIDE,
    WATCHED,
    Parts,
    Reading,
    is_misleading,
    models_in,
    names_models,
)
from llmproxy.limits.body.scanner import BodyScanner, fed, scan

MOST_PARTS = 1000
_MOST_HEADER_BYTES = 8 * 1024
_KEPT_BYTES = 1000
# The settings of a Realtime call, beside its `sdp`: JSON that is read as a body is, instructions and all.
_SESSION = "session"
# What JSON has as objects, and a form as files.
_PICTURES = frozenset({"images", "mask"})

_form_type = re.compile(
    r"multipart/form-data\s*(?:;\s*charset=utf-?8\s*)?;\s*boundary="
    r'(?:"([ !#-\[\]-~]{1,70})"|([0-9A-Za-z\'()+_,./:=?-]{1,70}))',
    re.ASCII | re.IGNORECASE,
).fullmatch
_header = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)").fullmatch
# Quotes in a name are written in three different ways, so a name has none. What a file is called is nobody's
# business, as long as it ends in one place only: whether or not backslashes escape, nothing in it looks like another
# parameter. Of .NET nothing stands in quotes.
_FILE_NAME = r'"(?:[^"\\]*|(?:[^"\\;=]|\\[^;=])*)"|[!#$&+.^_`|~0-9A-Za-z-]+'
_disposition = re.compile(
    r'form-data; ?name=(?:"([^"\\%\x00-\x1f]*)"|([0-9A-Za-z_.-]+))'
    rf'(; ?filename=(?:{_FILE_NAME}))?(; ?filename\*=[^;" ]+)?',
    re.IGNORECASE,
).fullmatch
_steps = re.compile(r"[\[.]").split
_charsets = re.compile(r"charset\*?\s*=\s*[\"']?([^\"';,\s]*)").findall
# In which every name of ours is written as in UTF-8; in UTF-7 or UTF-16 it is not.
_PLAIN_CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "windows-1252"}
_PLAIN_ENCODINGS = {"binary", "8bit", "7bit"}


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form by its Content-Type; None where the body is JSON. Raises AmbiguousBody."""
    if content_type == "application/json":  # nearly always
        return None
    kind, _, parameters = content_type.strip().lower().partition(";")
    # Some readers look at the first of several types alone.
    if "form-urlencoded" in content_type.lower():
        raise AmbiguousBody("The body must be JSON, or a multipart form where the endpoint takes one.")
    if not kind.startswith("multipart/"):
        if any(name not in _PLAIN_CHARSETS for name in _charsets(parameters)):
            raise AmbiguousBody("The body must be UTF-8, and its Content-Type may not say otherwise.")
        return None
    found = _form_type(content_type.strip())
    if not found:
        raise AmbiguousBody("A form's Content-Type must be `multipart/form-data; boundary=…`, and nothing else.")
    return (found[1] or found[2]).encode()


def scan_form(pieces: Iterable[bytes], boundary: bytes, pause: Callable[[], object] | None = None) -> Reading:
    """
    The reading of a form that comes in pieces. Raises AmbiguousBody.

    Args:
        pause: Called before each, and before each PIECE of a longer one, to let others have their turn.
    """
    return fed(FormScanner(boundary), pieces, pause)


class FormScanner:
    """Takes one form, and gives its reading. Raises AmbiguousBody as soon as it is one, and is of no use then."""

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._rest = b"\r\n"  # as before every other boundary
        self._take: Callable[[bytes], bytes | None] = self._begin_at_mark
        self._size = 0
        self._part: _Part | None = None
        self._fields: dict[str, bytes] = {}
        self._session: BodyScanner | None = None
        self._parts = Parts()
        self._part_count = 0

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._size += len(piece)
        data: bytes | None = self._rest + piece
        while data is not None:
            self._rest = data
            data = self._take(data)

    def finish(self) -> Reading:
        """The reading; the form is over."""
        if self._take != self._behind or self._rest not in (b"", b"\r\n"):
            _refuse()
        members: dict[str, Any] = {}
        for name, raw in self._fields.items():
            if name not in FREE:
                _put(members, name, _value(raw))
        session = self._session.finish() if self._session else None
        if session:
            members[_SESSION] = session.members
        has_stored_prompt = session is not None and session.has_stored_prompt
        return Reading(members, models_in(members), self._size, self._parts, has_stored_prompt)

    # Each takes what is there, keeps in `_rest` what it cannot tell yet, and returns what is left, or None to wait.

    def _begin_at_mark(self, data: bytes) -> bytes | None:
        return self._at_mark(data, 2) if len(data) >= len(self._mark) + 4 else None

    def _headers(self, data: bytes) -> bytes | None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MOST_HEADER_BYTES:
                _refuse()
            return None
        self._begin(_read_headers(data[:end]))
        self._take = self._data
        return data[end + 4 :]

    def _data(self, data: bytes) -> bytes | None:
        at = data.find(self._mark)
        if at < 0:
            # All but what may be the beginning of a boundary.
            whole = max(len(data) - len(self._mark) - 1, 0)
            self._add(data[:whole])
            self._rest = data[whole:]
            return None
        if len(data) < at + len(self._mark) + 2:
            return None
        self._add(data[: max(at - 2, 0)])
        return self._at_mark(data, at)

    def _at_mark(self, data: bytes, at: int) -> bytes:
        behind = at + len(self._mark)
        follows = data[behind : behind + 2]
        if data[at - 2 : at] != b"\r\n" or not data.startswith(self._mark, at) or follows not in (b"\r\n", b"--"):
            _refuse()
        self._take = self._headers if follows == b"\r\n" else self._behind
        return data[behind + 2 :]

    def _behind(self, data: bytes) -> bytes | None:
        if len(data) > 2:
            _refuse()
        return None

    # Parts.

    def _begin(self, part: _Part) -> None:
        self._part_count += 1
        if self._part_count > MOST_PARTS:
            raise AmbiguousBody(f"The form has more than {MOST_PARTS} parts.")
        outer, *inner = _path_of(part.name)
        if is_misleading(outer) or (inner and outer in WATCHED) or any(map(is_misleading, inner)):
            raise AmbiguousBody("The form has a field whose name may be read as another.")
        is_misplaced = part.is_file and part.name not in _PICTURES
        if _counts(part.name) and (is_misplaced or part.name in self._fields):
            raise AmbiguousBody(f"`{part.name}` must be one field of the form, and no file.", param=part.name)
        self._part = part
        if part.name == _SESSION:
            self._session = BodyScanner()
        if not part.is_file:
            self._fields[part.name] = b""
        elif part.name != "file":
            self._parts.inline += 1

    def _add(self, data: bytes) -> None:
        part = self._part
        if part is None:
            return
        if self._session is not None and part.name == _SESSION:
            self._session.feed(data)
        elif not part.is_file:
            kept = self._fields[part.name]
            self._fields[part.name] = kept + data[: _KEPT_BYTES - len(kept)]
        elif part.name == "file":
            self._parts.audio_chars += len(data)
        else:
            self._parts.inline_chars += len(data)


class _Part:
    __slots__ = ("is_file", "name")

    def __init__(self, name: str, *, is_file: bool) -> None:
        self.name = name
        self.is_file = is_file


def _read_headers(block: bytes) -> _Part:
    headers: dict[bytes, str] = {}
    for line in block.split(b"\r\n"):
        found = _header(line)
        if not found or (name := found[1].lower()) in headers:
            _refuse()
        try:
            headers[name] = found[2].decode().rstrip(" \t")
        except UnicodeDecodeError:
            _refuse()
    # Some readers decode what is encoded, and some do not.
    if headers.get(b"content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
        raise AmbiguousBody("A part of the form is encoded.")
    kind = headers.get(b"content-type", "").lower()
    if kind.startswith("multipart/") or any(name not in _PLAIN_CHARSETS for name in _charsets(kind)):
        raise AmbiguousBody("A part of the form is not UTF-8, or a form itself.")
    disposition = _disposition(headers.get(b"content-disposition", ""))
    name = (disposition[1] or disposition[2] or "") if disposition else "_charset_"
    if not disposition or name == "_charset_":
        _refuse()
    return _Part(name, is_file=bool(disposition[3] or disposition[4]))


def _counts(name: str) -> bool:
    """Whether rules and budgets go by a field, or by a member of the object that it is of: `svg[model]`."""
    return name in WATCHED or any(part in WATCHED or names_models(part) for part in _path_of(name))


def _path_of(name: str) -> list[str]:
    """`svg[model]`, or `svg.model`, as the names that lead to it; as far as they are not the caller's own."""
    path = _steps(name.replace("]", ""))
    return path[:1] if path[0] in FREE or not FREE_INSIDE.isdisjoint(path) else path


def _put(members: dict[str, Any], name: str, value: Any) -> None:
    """Have a field in the place that its name stands for. Raises AmbiguousBody where another one has it."""
    path = _path_of(name)
    if len(path) == 1:
        path = [name]
    place = members
    for step in path[:-1]:
        inner = place.setdefault(step, {})
        if not isinstance(inner, dict):
            _refuse_place(name)
        place = inner
    if path[-1] in place:
        _refuse_place(name)
    place[path[-1]] = value


def _value(raw: bytes) -> Any:
    """A field as the value it would be in JSON, or is: some upstreams look for objects in the form of a text."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise AmbiguousBody("A field of the form is not UTF-8.") from None
    # What is cut may have been JSON, and is refused.
    if text.lstrip()[:1] in ("{", "[", "\ufeff") and (len(raw) >= _KEPT_BYTES or _may_be_json(text)):
        return scan((b'{"":', raw, b"}")).members[""]
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdigit() else text


def _may_be_json(text: str) -> bool:
    """Whether anybody's parser may take it; Python's takes more than most."""
    try:
        json.loads(text.lstrip().removeprefix("\ufeff"))
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


def _refuse_place(name: str) -> NoReturn:
    raise AmbiguousBody(f"Two fields of the form stand for one: `{name[:_KEPT_BYTES]}`.")


def _refuse() -> NoReturn:
    raise AmbiguousBody("The form must have CRLF line ends, plain headers, and its boundary between parts alone.")
