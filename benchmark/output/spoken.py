"""Numbers as people read them."""

from __future__ import annotations

import math


def spoken_count(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, and all of those before the point; never 1e+04."""
    if value is None:
        return "-"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def spoken_ms(value: float | None, digits: int = 3) -> str:
    """Milliseconds for people: three digits, and seconds from a thousand on."""
    if value is None:
        return "-"
    return f"{spoken_count(value, digits)} ms" if value < 999.5 else f"{spoken_count(value / 1000, digits)} s"


def spoken_interval(ends: list[float] | None, form: str) -> str:
    """From where to where, each in that format."""
    return "too few rounds" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"
