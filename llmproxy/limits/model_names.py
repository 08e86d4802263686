"""
Which models a list of names and globs allows.

A name allows itself and its dated snapshots: `gpt-5` allows `gpt-5-2025-08-07`, and not `gpt-5-mini`. A glob allows
what it matches: `*` stands for any characters, and nothing else is special.
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
_is_name = re.compile(f"{_NAME}{{1,{MOST_CHARS}}}").fullmatch
_DATE = r"(?:-20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))?"


def checked_name(value: object) -> str:
    """A name or glob as a rule may have it. ValueError says what it must be."""
    if not isinstance(value, str) or not _is_name(value):
        raise ValueError(f"must be a model's name, such as gpt-5 or gpt-5-*, of at most {MOST_CHARS} characters")
    if value.count("*") > _MOST_STARS:
        raise ValueError(f"must have at most {_MOST_STARS} asterisks")
    return value


class ModelNames:
    """A list of names and globs, in its order. Equal to another of the same names."""

    __slots__ = ("_allows", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        pattern = re.compile("|".join(map(_pattern, self.names)) or "(?!)", re.ASCII)
        # Callers choose what is looked up, so only so many answers are kept.
        self._allows = lru_cache(maxsize=256)(lambda name: len(name) <= MOST_CHARS and bool(pattern.fullmatch(name)))

    def allow(self, model: str) -> bool:
        """Whether the list allows a model of this name."""
        return self._allows(model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelNames) and other.names == self.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"ModelNames({list(self.names)})"


def _pattern(name: str) -> str:
    if "*" not in name:
        return re.escape(name) + _DATE
    return f"{_NAME}*".join(map(re.escape, name.split("*")))
