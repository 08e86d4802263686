"""A model's row in words, for people: what `flask prices show` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from llmproxy.limits.price_fields import ANY, PICO_PER_DOLLAR, TIERS
from llmproxy.limits.price_row import NEVER, NO_PRICE, Rates, Row
from llmproxy.limits.prices import Prices

# Column -> the name in Rates, and the columns that it is left out for when it says the same as one of them.
_COLUMNS = {
    "in": ("text_in", ()),
    "cached": ("text_cached", ("text_in",)),
    "cache_write": ("text_write", ("text_in",)),
    "cache_write_12h": ("text_write_12h", ("text_write",)),
    "out": ("text_out", ()),
    "audio_in": ("audio_in", ("text_in",)),
    "audio_cached": ("audio_cached", ("audio_in", "text_cached")),
    "audio_out": ("audio_out", ("text_out",)),
    "image_in": ("image_in", ("text_in",)),
    "image_cached": ("image_cached", ("image_in", "text_cached")),
    "image_out": ("image_out", ("text_out",)),
}


def how_to_price(model: str) -> str:
    """What an operator writes so that a model has a price."""
    table = f"[model.{json.dumps(model)}]"
    return f"Write into your PRICES_FILE {table}, and below it in = … and out = … in dollars per million LLM tokens."


def why_unpriced(prices: Prices, model: str) -> str:
    """Why calls of a model ('' where nobody named it) had no price, and what to do about it."""
    if not model:
        return "Neither response nor request told what to price it by."
    if prices.find(model) is None:
        return how_to_price(model)
    return f"They are older than its price, or used a tool or a unit without one: see flask prices show {model}."


def describe(row: Row) -> str:
    """The row as lines of text, in dollars: per million tokens, and per unit where there is another."""
    lines = [row.model, f"  from {' and '.join(row.origin)}: {row.source or 'no source'}, {row.date or 'no date'}"]
    lines += _facts(row)
    windows = dict(_windows(row))
    if not _is_by_other_units(row.short[None]):
        lines += _table(windows)
    told: set[str] = set()
    for label, rates in windows.items():
        lines += [f"  {label}: {unit}" for unit in _units(rates) if unit not in told]
        told.update(_units(rates))
    if row.call:
        lines.append(f"  each call: ${_dollars(row.call)}")
    if row.max_out:
        fees = ", ".join(f"{tool} ${_dollars(fee)}" for tool, fee in row.tools.items() if fee)
        lines.append(f"  tools, a use: {fees}")
    return "\n".join(lines)


def amounts(rates: Rates) -> dict[str, Any]:
    """
    A row's prices at one tier and window: dollars as decimal text, under the names that a file gives them.

    Tokens and characters are per million; each of them is there only if it is billed.
    """
    told: dict[str, Any] = {}
    if not _is_by_other_units(rates):
        tokens = {title: getattr(rates, name) for title, (name, _) in _COLUMNS.items()}
        told = {title: _decimal(price * 10**6) for title, price in tokens.items() if price != NO_PRICE}
    if rates.minute != NO_PRICE:
        told["minute"] = _decimal(rates.minute)
    if rates.characters != NO_PRICE:
        told["characters"] = _decimal(rates.characters * 10**6)
    if rates.second:
        told["second"] = _decimals(rates.second)
    if rates.image:
        told["image"] = {quality: _decimals(sizes) for quality, sizes in rates.image.items()}
    return told


def fees(row: Row) -> dict[str, str]:
    """What a use of each tool costs, in dollars as decimal text."""
    return _decimals(row.tools)


def _facts(row: Row) -> Iterator[str]:
    facts = [f"reads {row.max_in:,} tokens"] if row.max_in else []
    facts += [f"writes {row.max_out:,}"] if row.max_out else []
    if facts:
        yield f"  {' and '.join(facts)} at most" + (", and reasons" if row.reasons else "")


def _windows(row: Row) -> Iterator[tuple[str, Rates]]:
    for tier in (None, *(tier for tier in TIERS if tier in row.short)):
        yield tier or "default", row.short[tier]
        if row.long_over < NEVER and row.long[tier] != row.short[tier]:
            yield f"{tier or 'default'}, above {row.long_over:,} in", row.long[tier]


def _is_by_other_units(rates: Rates) -> bool:
    other = rates.minute != NO_PRICE or rates.characters != NO_PRICE or rates.second or rates.image
    return bool(other) and rates.text_in == rates.text_out == 0


def _table(windows: dict[str, Rates]) -> Iterator[str]:
    """The prices of tokens, a line for each tier and window, without columns that say nothing new."""
    columns = {
        title: [_per_million(getattr(rates, name)) for rates in windows.values()]
        for title, (name, likes) in _COLUMNS.items()
        if not any(all(getattr(r, name) == getattr(r, like) for r in windows.values()) for like in likes)
    }
    wide = max(len(label) for label in windows)
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    yield (
        "  ".join(["", " " * wide, *(title.rjust(widths[title]) for title in columns)])
        + "   $ per million LLM tokens"
    )
    for number, label in enumerate(windows):
        cells = (cells[number].rjust(widths[title]) for title, cells in columns.items())
        yield "  ".join(["", label.ljust(wide), *cells])


def _units(rates: Rates) -> Iterator[str]:
    if rates.minute != NO_PRICE:
        yield f"a minute of sound ${_dollars(rates.minute)}"
    if rates.characters != NO_PRICE:
        yield f"a million characters ${_dollars(rates.characters * 10**6)}"
    for size, price in rates.second.items():
        yield f"a second of video {_any(size)} ${_dollars(price)}"
    for quality, sizes in rates.image.items():
        pieces = (f"{_any(size)} ${_dollars(price)}" for size, price in sizes.items())
        yield f"an image {_any(quality)} " + ", ".join(pieces)


def _any(name: str) -> str:
    return "of any kind" if name == ANY else name


def _per_million(pico: int) -> str:
    return "none" if pico == NO_PRICE else _dollars(pico * 10**6)


def _decimals(prices: Mapping[str, int]) -> dict[str, str]:
    return {name: _decimal(price) for name, price in prices.items()}


def _dollars(pico: int) -> str:
    """As `_decimal`, with thousands apart."""
    whole, _, decimals = _decimal(pico).partition(".")
    return f"{int(whole):,}.{decimals}"


def _decimal(pico: int) -> str:
    """Dollars, without needless zeros, but with cents."""
    whole, _, decimals = format((Decimal(pico) / PICO_PER_DOLLAR).normalize(), "f").partition(".")
    return f"{whole}.{decimals:0<2}"
