"""Amounts as operators and callers write and read them: dollars in decimal text, counts as whole numbers."""

from __future__ import annotations

import re
from typing import Any

MICRO_PER_DOLLAR = 10**6
MOST_DOLLARS = 10**9
MOST_COUNT = 10**15

_DOLLARS = r"([0-9]{1,10})(?:\.([0-9]{1,6}))?"
_dollars = re.compile(_DOLLARS).fullmatch


def read_usd(value: object) -> int:
    """
    Micro-dollars of a text such as "12.50". ValueError says what it must be.

    A JSON number is refused: by whom it was read, and as what, is nobody's business where money is concerned.
    """
    found = _dollars(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('must be dollars in a text such as "12.50", with at most 6 decimals')
    micro = int(found[1]) * MICRO_PER_DOLLAR + int((found[2] or "").ljust(6, "0"))
    if micro > MOST_DOLLARS * MICRO_PER_DOLLAR:
        raise ValueError(f"must be at most {MOST_DOLLARS} dollars")
    return micro


def read_count(value: object) -> int:
    """A number of tokens or requests. ValueError says what it must be."""
    if type(value) is not int or not 0 <= value <= MOST_COUNT:
        raise ValueError(f"must be a whole number from 0 to {MOST_COUNT}")
    return value


def read(unit: str, value: object) -> int:
    """An amount of a meter's unit. ValueError says what it must be."""
    return read_usd(value) if unit == "usd" else read_count(value)


def schema(unit: str) -> dict[str, Any]:
    """What `read` takes, in JSON Schema."""
    if unit == "usd":
        return {"type": "string", "pattern": f"^{_DOLLARS}$"}
    return {"type": "integer", "minimum": 0, "maximum": MOST_COUNT}


def shown(unit: str, amount: int) -> str | int:
    """An amount as `read` takes it."""
    return usd(amount) if unit == "usd" else amount


def usd(micro: int, *, decimals: int = 2) -> str:
    """Micro-dollars as "12.50": exact, with at least so many decimals."""
    whole, rest = divmod(abs(micro), MICRO_PER_DOLLAR)
    shown = f"{rest:06d}".rstrip("0").ljust(decimals, "0")
    return f"{'-' if micro < 0 else ''}{whole}{'.' if shown else ''}{shown}"
