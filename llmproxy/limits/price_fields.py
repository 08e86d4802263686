"""
How a row of prices is written, in the sheet (JSON) and in an operator's file (TOML) alike, and how rows lie over
one another.

A row's table is read into *fields*: names checked, money as whole pico-dollars. A pico-dollar is a millionth of a
micro-dollar. Nothing coarser would do: half a nano-dollar per token is a price ($0.0125 per million for gpt-5-mini's
cached input in a batch).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

# Name -> pico-dollars, a fact, or a table of such.
Fields = dict[str, Any]

PICO_PER_DOLLAR = 10**12

# Dollars per million tokens.
TOKENS = (
    "in", "cached", "cache_write", "cache_write_12h", "out",
    "audio_in", "audio_cached", "audio_out", "image_in", "image_cached", "image_out",
)  # fmt: skip
TIERS = ("flex", "batch", "priority", "ultrafast")
# Any size, any quality: what a price per piece or second holds for unless a narrower one is named.
ANY = "*"

_MOST_DOLLARS = 1_000_000


def read_row(table: object, where: str, problems: list[str]) -> Fields:
    """
    A row's table as fields. What is wrong with it is added to `problems`, a line each.

    Args:
        table: As the sheet or file has it; numbers whole or Decimal.
        where: Names the row in a problem, such as `model "llama3"`.
    """
    return _reading(_row, table, where, problems)


def read_tools(table: object, where: str, problems: list[str]) -> Fields:
    """The fees of tools, in dollars a use, with problems as `read_row` has them."""
    return _reading(_fees, table, where, problems)


def laid_over(below: Fields, above: Fields) -> Fields:
    """
    Both rows in one: what the upper names holds, and in the tables inside it likewise.

    A price for any size takes the place of the table: it is meant for those, too, that only the lower row names.
    """
    merged = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], dict) and isinstance(above[name], dict) and ANY not in above[name]:
            merged[name] = laid_over(below[name], above[name])
    return merged


def _reading(reader: _Reader, table: object, where: str, problems: list[str]) -> Fields:
    try:
        fields: Fields = reader(table)
    except _Bad as exc:
        problems += [f"{where}{problem}" for problem in exc.problems]
        return {}
    return fields


class _Bad(Exception):
    """What is wrong with a value; each of `problems` goes on from the value's name."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


# Reads a value as it stands in a table. Raises _Bad.
_Reader = Callable[[object], Any]


def _read(table: Mapping[str, object], reader_of: Callable[[str], _Reader]) -> tuple[Fields, list[str]]:
    """The fields of a table, without those that are wrong, and what is wrong with them."""
    fields, problems = Fields(), list[str]()
    for name, value in table.items():
        try:
            fields[name] = reader_of(name)(value)
        except _Bad as exc:
            problems += [f"{name}{problem}" for problem in exc.problems]
    return fields, problems


def _money(pico_per_dollar: int, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise _Bad(" must be an amount in dollars, such as 0.10")
    if (isinstance(value, Decimal) and not value.is_finite()) or not 0 <= value <= _MOST_DOLLARS:
        raise _Bad(f" must lie between 0 and {_MOST_DOLLARS:,} dollars")
    pico = int(exact := value * pico_per_dollar)
    # A Decimal that is too small to be multiplied becomes 0.
    if pico != exact or (value and not pico):
        raise _Bad(" has more decimals than money is counted in")
    return pico


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < sys.maxsize:
        return value
    raise _Bad(" must be a whole number above 0")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _Bad(" must be true or false")


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise _Bad(" must be a text")


def _day(value: object) -> str:
    try:
        return (value if type(value) is date else date.fromisoformat(str(value))).isoformat()
    except ValueError:
        raise _Bad(" must be a day, such as 2026-11-26") from None


def _table(value: object, reader_of: Callable[[str], _Reader]) -> Fields:
    if not isinstance(value, Mapping):
        raise _Bad(" must be a table")
    fields, problems = _read(value, reader_of)
    if problems:
        raise _Bad(*(f": {problem}" for problem in problems))
    return fields


def _named(readers: Mapping[str, _Reader]) -> _Reader:
    """Reads a table of these names."""

    def reader_of(name: str) -> _Reader:
        if name in readers:
            return readers[name]
        hints = [f"; did you mean {near}?" for near in difflib.get_close_matches(name, readers, 1)]
        if name[:1].isdigit():
            hints = ['; a name with dots needs quotes, such as "gpt-4.1"']
        raise _Bad("".join([" is no name of a price", *hints]))

    return partial(_table, reader_of=reader_of)


def _any_names(reader: _Reader) -> _Reader:
    """Reads a table of any names, all of whose values are of one kind."""
    return partial(_table, reader_of=lambda _: reader)


def _or_alone(reader: _Reader) -> _Reader:
    """Reads a table as `reader` does; in its stead one value stands for all."""
    return lambda value: reader(value if isinstance(value, Mapping) else {ANY: value})


_per_million = partial(_money, PICO_PER_DOLLAR // 10**6)
_each = partial(_money, PICO_PER_DOLLAR)
_fees = _any_names(_each)
_by_size = _or_alone(_any_names(_each))

_TOKEN_PRICES: dict[str, _Reader] = dict.fromkeys(TOKENS, _per_million)
_PRICES: dict[str, _Reader] = {
    **_TOKEN_PRICES,
    "characters": _per_million,
    "minute": _each,
    "second": _by_size,
    "image": _or_alone(_any_names(_by_size)),
}
_named_in_row = _named(
    {
        **_PRICES,
        "call": _each,
        "tools": _fees,
        "long": _named({**_TOKEN_PRICES, "over": _count}),
        **dict.fromkeys(TIERS, _named({**_PRICES, "long": _named(_TOKEN_PRICES)})),
        "max_in": _count,
        "max_out": _count,
        "image_most": _count,
        "reasons": _flag,
        "source": _text,
        "date": _day,
    }
)


def _row(value: object) -> Fields:
    fields: Fields = _named_in_row(value)
    if not fields:
        raise _Bad(" says nothing")
    has_line = "over" in fields.get("long", {})
    if not has_line and any("long" in table for table in (fields, *(fields.get(tier, {}) for tier in TIERS))):
        raise _Bad(": long needs over, the tokens of input above which it holds")
    return fields
