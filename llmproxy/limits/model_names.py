"""
Which models a list of names and globs allows.

A name allows itself and its dated snapshots: `gpt-5` allows `gpt-5-2025-08-07`, and not `gpt-5-mini`. A glob allows
what it matches: `*` stands for any characters, and nothing else is special.

Whoever limits some models asks whether the list *covers* one, which is wider than whether it allows it: no other
spelling of what it names may pass uncounted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Longer names are nobody's.
MOST_CHARS = 200
_MOST_STARS = 4

# Printable ASCII without spaces, quotes and commas. What is outside of it another reader may read as something else.
_NAME = r"[!#-&(-+\--~]"
_LONG = f"{_NAME}{{1,{MOST_CHARS}}}"
_is_name = re.compile(_LONG).fullmatch
# What `checked_name` takes, for those who look before they send.
PATTERN = rf"(?!(?:[^*]*\*){{{_MOST_STARS + 1}}}){_LONG}"
_DATE = r"(?:-20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))?"
_dated = re.compile(f"(.+?){_DATE}").fullmatch


def checked_name(value: object) -> str:
    """A name or glob as a rule may have it. ValueError says what it must be."""
    if not isinstance(value, str) or not _is_name(value):
        raise ValueError(f"must be a model's name, such as gpt-5 or gpt-5-*, of at most {MOST_CHARS} characters")
    if value.count("*") > _MOST_STARS:
        raise ValueError(f"must have at most {_MOST_STARS} asterisks")
    return value


class ModelNames:
    """A list of names and globs, in its order. Equal to another of the same names."""

    __slots__ = ("_allows", "_covers", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        pattern = re.compile("|".join(map(_pattern, self.names)) or "(?!)", re.ASCII)
        # Callers choose what is looked up, so only so many answers are kept.
        self._allows = lru_cache(maxsize=256)(lambda name: bool(pattern.fullmatch(name)))
        forms = "|".join(map(_forms, self.names)) or "(?!)"
        wider = re.compile(f"(?:{forms})|ft:(?:{forms})(?::.*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
        self._covers = lru_cache(maxsize=256)(lambda name: bool(wider.fullmatch(name.strip())))

    def allow(self, model: str) -> bool:
        """Whether the list allows a model of this name."""
        return len(model) <= MOST_CHARS and self._allows(model)

    def cover(self, model: str) -> bool:
        """
        Whether a limit of these models holds for one of this name.

        So it does for what the list allows, in capitals too; for what was fine-tuned from it; and for the undated
        name of a snapshot in the list, which the upstream may serve by it. Names that are too long are covered.
        """
        return len(model) > MOST_CHARS or self._covers(model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelNames) and other.names == self.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"ModelNames({list(self.names)})"


def _pattern(name: str) -> str:
    if "*" not in name:
        return re.escape(name) + _DATE
    return _glob(name, _NAME)


def _glob(name: str, anything: str) -> str:
    first, *inner, last = map(re.escape, name.split("*"))
    # The first place is as good as any other for what stands between two asterisks. Trying all of them, four
    # asterisks and a name of 200 characters would keep a worker for seconds.
    return first + "".join(f"(?>{anything}*?{part})" for part in inner) + f"{anything}*{last}"


def _forms(name: str) -> str:
    if "*" in name:
        return _glob(name, ".") + _DATE
    parts = _dated(name)
    undated = parts[1] if parts else name
    return f"{re.escape(name)}{_DATE}|{re.escape(undated)}"
