"""
Reads a JSON body of any size as it goes by, in pieces cut anywhere.

All of it is checked to be JSON, as strictly as a parser would. What stands outside of free places is built, with long
texts cut; of the free ones only what counts is counted. Memory: a piece, what is built (bounded), and a few words for
each open bracket.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from enum import Enum, auto
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn, Protocol

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.reading import (
    BROUGHT,
    COUNTED,
    FREE,
    FREE_INSIDE,
    GRADERS,
    ITEMS,
    REFERRING,
    TELLING,
    WATCHED,
    Parts,
    Reading,
    brought,
    is_like_brought,
    models_in,
    names_models,
)

# Bytes that are taken in 5 ms at worst, and in a tenth of one as bodies are.
PIECE = 4 * 1024

MOST_DEPTH = 1000
# Of what is built: values, and characters of all their texts and names together.
MOST_VALUES = 20_000
MOST_CHARS = 256 * 1024
# Of a text that is built. Whatever is compared is shorter.
KEPT_CHARS = 1000
_MOST_NUMBER_CHARS = 1000

# Values and names that were taken one by one, which costs a hundred times what it costs to step over many at once.
# Nobody needs as many who does not write against this very reader.
MOST_STEPS = 200_000

_SPACE = r"[ \t\r\n]*+"
_ESCAPE = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_INSIDE = rf'(?:[^"\\\x00-\x1f]++|{_ESCAPE})*+'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+"
_SCALAR = rf'(?:{_NUMBER}|true|false|null|"{_INSIDE}")'
# Members that are not counted: of another name, or of a type that tells nothing, both without escapes.
_TELLS = "|".join(sorted(TELLING))
_BRINGS = rf'\s*(?i:{"|".join(BROUGHT)})\s*"'  # in whatever another reader may take for it
_SILENT_NAME = rf'"(?!(?:{_TELLS})"|{_BRINGS})[^"\\\x00-\x1f]*+"{_SPACE}:{_SPACE}'
_SILENT_TYPE = rf'"type"{_SPACE}:{_SPACE}"(?!(?:{"|".join(REFERRING)})")[^"\\\x00-\x1f]*+"'


# So many brackets around those, as a message with the call of a tool in it has. One more would double the pattern.
_SILENT_DEPTH = 4


def _all(one: str, end: str) -> str:
    """Any number of such with commas between them, or with one behind the last where the piece is over."""
    return rf"(?:{one}{_SPACE}(?:,{_SPACE}(?!{end})|(?={end})))*+"


def _member(value: str) -> str:
    return rf"(?:{_SILENT_NAME}{value}|{_SILENT_TYPE})"


def _silent_value(depth: int) -> str:
    if not depth:
        return _SCALAR
    inner = _silent_value(depth - 1)
    entries, members = _all(inner, r"\]"), _all(_member(inner), r"\}")
    return rf"(?:{_SCALAR}|\[{_SPACE}{entries}\]|\{{{_SPACE}{members}\}})"


_silent_entries = re.compile(_all(_silent_value(_SILENT_DEPTH), r"\]")).match
_silent_members = re.compile(_all(_member(_silent_value(_SILENT_DEPTH)), r"\}")).match
_numbers = re.compile(_all(_NUMBER, r"\]")).match

_space = re.compile(_SPACE).match
_inside = re.compile(_INSIDE).match
_partial_escape = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?").fullmatch
_scalar = re.compile(r"[-+.0-9A-Za-z]*+").match
_number = re.compile(_NUMBER).fullmatch
_CONSTANTS = {"true": True, "false": False, "null": None}


class _Mode(Enum):
    BUILD = auto()
    COUNT = auto()
    SKIP = auto()


class _Want(Enum):
    """What may come next."""

    VALUE = auto()
    VALUE_OR_END = auto()
    NAME = auto()
    NAME_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


_BEFORE_VALUE = {_Want.VALUE, _Want.VALUE_OR_END}
_BEFORE_TEXT = _BEFORE_VALUE | {_Want.NAME, _Want.NAME_OR_END}
_BEFORE_END = {_Want.VALUE_OR_END, _Want.NAME_OR_END, _Want.COMMA_OR_END}


class _Place:
    """
    An open bracket.

    Attributes:
        built: The dict or list that is built; None in other modes.
        under: The name that it stands under, or the list that it is in.
        name: Of the member that is being read; `is_double` when there was one of the name before.
        item: Of an item, which of `id` and `type` it has as a text, and which as something else, with a `!`; None of
            what is no item.
    """

    __slots__ = ("built", "is_double", "is_object", "item", "mode", "name", "under")

    def __init__(self, is_object: bool, mode: _Mode, under: str) -> None:
        self.is_object = is_object
        self.mode = mode
        self.under = under
        self.name = ""
        self.is_double = False
        self.item: set[str] | None = None
        self.built: Any = None if mode is not _Mode.BUILD else {} if is_object else []

    def note(self, *, is_text: bool) -> None:
        """Remember of what an item has now whether it is a text."""
        if self.item is not None and self.name in ("id", "type"):
            self.item.add(self.name if is_text else f"!{self.name}")


def scan(pieces: Iterable[bytes], pause: Callable[[], object] | None = None) -> Reading:
    """
    The reading of a body that comes in pieces. Raises AmbiguousBody.

    Args:
        pause: Called before each, and before each PIECE of a longer one, to let others have their turn.
    """
    return fed(BodyScanner(), pieces, pause)


class Scanner(Protocol):
    """Takes one body, piece by piece."""

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of at most PIECE. Raises AmbiguousBody."""

    def finish(self) -> Reading:
        """The reading of all of them. Raises AmbiguousBody."""


def fed(scanner: Scanner, pieces: Iterable[bytes], pause: Callable[[], object] | None) -> Reading:
    """What the scanner reads in the pieces; see `scan`."""
    for piece in pieces:
        for at in range(0, len(piece), PIECE):
            if pause:
                pause()
            scanner.feed(piece[at : at + PIECE])
    return scanner.finish()


class BodyScanner:
    """Takes one body, and gives its reading. Raises AmbiguousBody as soon as it is one, and is of no use then."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._size = 0
        self._cut = ""  # a token, or an escape within a text, that goes on in the next piece
        self._want = _Want.VALUE
        self._places: list[_Place] = []
        self._members: dict[str, Any] = {}
        self._parts = Parts()
        self._prompts = 0
        self._has_stored_prompt = False
        self._brought: list[tuple[str, Any]] = []
        self._values_left = MOST_VALUES
        self._chars_left = MOST_CHARS
        self._steps_left = MOST_STEPS
        self._text: _Text | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._size += len(piece)
        self._scan(self._cut + self._decoded(piece, is_last=False))

    def finish(self) -> Reading:
        """The reading; the body is over."""
        self._decoded(b"", is_last=True)
        if self._want is not _Want.NOTHING:
            raise AmbiguousBody("The request body is no JSON object, or not all of one.")
        self._parts.prompts = max(self._prompts, 1)
        members = {name: value for name, value in self._members.items() if name not in FREE}
        if self._brought:
            members["input"] = brought(self._brought)
        return Reading(members, models_in(members), self._size, self._parts, self._has_stored_prompt)

    def _decoded(self, piece: bytes, *, is_last: bool) -> str:
        try:
            return self._decode(piece, is_last)
        except UnicodeDecodeError:
            raise AmbiguousBody("The request body is not UTF-8.") from None

    def _scan(self, text: str) -> None:
        self._cut, at, end = "", 0, len(text)
        while at < end:
            if self._text:
                at = self._text_goes_on(text, at)
            elif (at := _end(_space, text, at)) < end:
                at = self._token(text, at)

    def _token(self, text: str, at: int) -> int:
        """Take the token that begins here; where it ends, or as far as it is there."""
        char, want = text[at], self._want
        self._steps_left -= 1
        if self._steps_left < 0:
            raise AmbiguousBody("The request body is nested too deep in too many places to be read.")
        if want is _Want.COMMA_OR_END and char == ",":
            self._want = _Want.NAME if self._places[-1].is_object else _Want.VALUE
            return self._silent(text, at + 1)
        if want is _Want.COLON and char == ":":
            self._want = _Want.VALUE
        elif char == '"' and want in _BEFORE_TEXT:
            self._begin_text()
        elif char in "{[" and want in _BEFORE_VALUE:
            self._open(is_object=char == "{")
            return self._silent(text, at + 1)
        elif char in "]}" and want in _BEFORE_END:
            self._close(is_object=char == "}")
        elif want in _BEFORE_VALUE:
            return self._scalar(text, at)
        else:
            _refuse()
        return at + 1

    def _silent(self, text: str, at: int) -> int:
        """Step over what says nothing: entries or members with the comma behind each, and the last one without."""
        place = self._places[-1]
        if place.mode is _Mode.BUILD or place.item is not None:
            return at
        run = _silent_members if place.is_object else _numbers if self._is_prompt(place) else _silent_entries
        begin = _end(_space, text, at)
        end = _end(run, text, begin)
        if end > begin:
            is_whole = end < len(text) and text[end] in "]}"
            self._want = _Want.COMMA_OR_END if is_whole else _Want.NAME if place.is_object else _Want.VALUE
        return end

    def _scalar(self, text: str, at: int) -> int:
        end = _end(_scalar, text, at)
        token = text[at:end]
        if not self._places or end - at > _MOST_NUMBER_CHARS:
            _refuse()
        if end == len(text):
            self._cut = token
        elif token in _CONSTANTS:
            self._add(_CONSTANTS[token])
        elif _number(token):
            self._add(_value_of(token))
        else:
            _refuse()
        return end

    # Brackets.

    def _open(self, *, is_object: bool) -> None:
        mode = self._next_mode(is_object=is_object)
        if len(self._places) == MOST_DEPTH:
            raise AmbiguousBody(f"The request body is nested deeper than {MOST_DEPTH}.")
        place = _Place(is_object, mode, self._next_name())
        if not self._places:
            self._members = place.built
        else:
            outer = self._places[-1]
            if outer.is_double:
                _refuse_double(outer.name)
            outer.note(is_text=False)
            self._build({} if place.built is None else place.built)
            if mode is _Mode.BUILD and outer.mode is _Mode.COUNT:
                self._brought.append((outer.name, place.built))
            if len(self._places) == 1 and outer.name == "prompt":
                self._has_stored_prompt = is_object
            elif not is_object and self._is_prompt(outer):
                self._prompts += 1
        self._places.append(place)
        if self._is_item(place):
            place.item = set()
        self._want = _Want.NAME_OR_END if is_object else _Want.VALUE_OR_END

    def _close(self, *, is_object: bool) -> None:
        place = self._places.pop()
        if place.is_object is not is_object:
            _refuse()
        if place.item is not None:
            has_type = "type" in place.item and "!type" not in place.item
            self._parts.add_item(has_id="id" in place.item, has_type=has_type)
        self._want = _Want.COMMA_OR_END if self._places else _Want.NOTHING

    def _next_mode(self, *, is_object: bool) -> _Mode:
        """What is done with the value that begins."""
        if not self._places:
            if not is_object:
                _refuse()
            return _Mode.BUILD
        place = self._places[-1]
        if place.name in BROUGHT and self._is_item(place):
            return _Mode.BUILD
        if place.mode is not _Mode.BUILD or not place.is_object:
            return place.mode
        if len(self._places) == 1:
            return _Mode.COUNT if place.name in COUNTED else _Mode.SKIP if place.name in FREE else _Mode.BUILD
        names_graders = place.under == GRADERS and self._places[-2].is_object
        is_free = is_object and place.name in FREE_INSIDE and not names_graders
        return _Mode.SKIP if is_free else _Mode.BUILD

    def _next_name(self) -> str:
        if not self._places:
            return ""
        place = self._places[-1]
        return place.name if place.is_object else place.under

    def _is_prompt(self, place: _Place) -> bool:
        """Whether this is the list of prompts itself."""
        return place.under == "prompt" and not place.is_object and len(self._places) >= 2 and self._places[1] is place

    def _is_item(self, place: _Place) -> bool:
        """Whether this is an object that stands in a place of items, or in the list there."""
        if place.mode is not _Mode.COUNT or not place.is_object or self._places[1].under not in ITEMS:
            return False
        return len(self._places) == (2 if self._places[1].is_object else 3)

    # Texts.

    def _begin_text(self) -> None:
        is_name = self._want in (_Want.NAME, _Want.NAME_OR_END)
        self._text = _Text(is_name=is_name, keeps=self._keeps(is_name=is_name))

    def _keeps(self, *, is_name: bool) -> bool:
        """Whether the text that begins says something."""
        if not self._places:
            _refuse()
        place = self._places[-1]
        if place.mode is _Mode.BUILD:
            return is_name or len(self._places) > 1 or place.name not in FREE or place.name == "input"
        return place.mode is _Mode.COUNT and (is_name or place.name in TELLING)

    def _text_goes_on(self, text: str, at: int) -> int:
        assert self._text is not None  # noqa: S101
        end = _end(_inside, text, at)
        if self._text.keeps:
            self._text.add(text[at:end])
        if end == len(text):
            return end
        if text[end] == '"':
            done, self._text = self._text, None
            self._end_text(done)
            return end + 1
        if not _partial_escape(text, end):
            raise AmbiguousBody("The request body has a control character or an escape that JSON has not in a text.")
        self._cut = text[end:]
        return len(text)

    def _end_text(self, text: _Text) -> None:
        place = self._places[-1]
        if text.is_name:
            place.name = self._checked_name(place, text.begin)
            self._want = _Want.COLON
            return
        if place.mode is _Mode.COUNT and text.keeps and place.is_object:
            self._parts.add_text(place.under, place.name, text.begin, text.chars)
        elif len(self._places) == 1 and place.name == "input":
            self._parts.characters = text.chars
        elif self._is_prompt(place):
            self._prompts += 1
        self._add(text.begin)

    def _checked_name(self, place: _Place, name: str) -> str:
        if place.mode is _Mode.BUILD:
            place.is_double = name in place.built
            if place.is_double and (
                name in WATCHED or names_models(name) or isinstance(place.built[name], dict | list)
            ):
                _refuse_double(name)
            self._spend(name)
        elif is_like_brought(name) and self._is_item(place):
            raise AmbiguousBody(
                "An item of the request has a name that may be read as another.", param=self._places[1].under
            )
        return name

    # What is built.

    def _add(self, value: Any) -> None:
        place = self._places[-1]
        place.note(is_text=isinstance(value, str))
        self._build(value)
        self._want = _Want.COMMA_OR_END

    def _build(self, value: Any) -> None:
        place = self._places[-1]
        if place.mode is not _Mode.BUILD:
            return
        self._values_left -= 1
        if isinstance(value, str):
            self._spend(value)
        if self._values_left < 0:
            _refuse_size()
        if place.is_object:
            place.built[place.name] = value
        else:
            place.built.append(value)

    def _spend(self, text: str) -> None:
        self._chars_left -= len(text)
        if self._chars_left < 0:
            _refuse_size()


class _Text:
    """
    A text that is being read.

    Attributes:
        keeps: Whether it says something. Of one that does not, nothing is known.
        begin: Its first KEPT_CHARS characters.
    """

    __slots__ = ("_ends_high", "begin", "chars", "is_name", "keeps")

    def __init__(self, *, is_name: bool, keeps: bool) -> None:
        self.is_name = is_name
        self.keeps = keeps
        self.begin = ""
        self.chars = 0
        self._ends_high = False

    def add(self, raw: str) -> None:
        """Take more of it, as it is written, cut between two escapes."""
        decoded: str = scanstring(raw + '"', 0)[0] if "\\" in raw else raw
        if not decoded:
            return
        # The halves of a surrogate pair may come in two pieces.
        is_second_half = self._ends_high and "\udc00" <= decoded[0] <= "\udfff"
        self._ends_high = "\ud800" <= decoded[-1] <= "\udbff"
        self.chars += len(decoded) - is_second_half
        if len(self.begin) < KEPT_CHARS:
            self.begin += decoded[:KEPT_CHARS]
            if is_second_half:
                self.begin = self.begin.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
            self.begin = self.begin[:KEPT_CHARS]


def _value_of(number: str) -> int | float:
    """As parsers in C have it: what does not fit into 64 bits is a float."""
    if number.lstrip("-").isdigit() and len(number) <= 20:
        value = int(number)
        if -(2**63) <= value < 2**64:
            return value
    return float(number)


def _end(match: Callable[[str, int], re.Match[str] | None], text: str, at: int) -> int:
    """Where a pattern that always matches, if only nothing, stops."""
    found = match(text, at)
    return found.end() if found else at


def _refuse() -> NoReturn:
    raise AmbiguousBody("The request body is not JSON.")


def _refuse_double(name: str) -> NoReturn:
    raise AmbiguousBody(f"`{name[:100]}` stands in the request body twice.", param=name[:100])


def _refuse_size() -> NoReturn:
    raise AmbiguousBody(
        f"Besides what is said to the model, the request body has more than {MOST_VALUES} values or "
        f"{MOST_CHARS} characters."
    )
