"""
A model's prices, typed: what a token of each kind costs at a tier and a window, and what else is known of the model.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmproxy.limits.price_fields import ANY, TIERS, Fields, laid_over

PICO_PER_MICRO = 10**6
NO_PRICE = -1
NEVER = sys.maxsize
# The most tokens that an image in a request counts as, where the row does not say.
IMAGE_MOST = 50_000

# What responses call a tier besides its own name. A tier that nobody knows, or that a row does not price, costs what
# the default does: other upstreams have words of their own for it.
_ALSO_CALLED = {"fast": "priority"}
# Those that cost no more than the default does, also where a row has no prices for them.
_NOT_DEARER = frozenset({None, "default", "flex", "batch", "scale"})


@dataclass(frozen=True, slots=True)
class Rates:
    """
    Prices at one tier and window, in pico-dollars, NO_PRICE where there is none.

    Tokens of a kind without a price of its own cost what the kind above it costs: cached audio as audio, audio as
    text, what is written to the cache as input.

    Attributes:
        is_plain: Text alone tells the cost: input and output are priced, and a call has no fee.
        has_tokens: Tokens are part of the bill. False where another unit is all of it, whatever tokens are told.
        minute: Per minute of sound; `characters` per character; `second` by size; `image` by quality and size.
    """

    is_plain: bool
    has_tokens: bool
    text_in: int
    text_cached: int
    text_write: int
    text_write_12h: int
    text_out: int
    audio_in: int
    audio_cached: int
    audio_out: int
    image_in: int
    image_cached: int
    image_out: int
    minute: int
    characters: int
    second: Mapping[str, int]
    image: Mapping[str, Mapping[str, int]]

    @property
    def is_by_tokens(self) -> bool:
        """Tokens are what is billed, or among it."""
        return self.text_in > 0 or self.text_out > 0

    def price_of_second(self, size: str) -> int:
        """For a second of video of this size."""
        return self.second.get(size, self.second.get(ANY, NO_PRICE))

    def price_of_image(self, quality: str, size: str) -> int:
        """For one image of this quality and size."""
        sizes = self.image.get(quality) or self.image.get(ANY) or {}
        return sizes.get(size, sizes.get(ANY, NO_PRICE))


_NUMBERS = tuple(field.name for field in dataclasses.fields(Rates) if field.type == "int")


@dataclass(frozen=True, slots=True)
class Row:
    """
    All that is known of a model's prices.

    Attributes:
        model: The name the row stands under, which may be shorter than the one that was looked up.
        short: By tier, None among them: prices for up to `long_over` tokens of input.
        long: Likewise for a call with more, all of whose tokens they hold for.
        dearest: The highest price of each kind over all tiers; `dearest_long` above the line.
        tools: Fees per use; `call` is the fee of the call itself.
        max_in: The most tokens the model reads; `max_out` writes. None where nobody said.
        image_most: The most tokens that one image in a request counts as.
        reasons: Whether it may write tokens that nobody sees.
        origin: The layers that gave something, the lowest first.
    """

    model: str
    short: Mapping[str | None, Rates]
    long: Mapping[str | None, Rates]
    long_over: int
    dearest: Rates
    dearest_long: Rates
    tools: Mapping[str, int]
    call: int
    max_in: int | None
    max_out: int | None
    image_most: int
    reasons: bool
    source: str
    date: str
    origin: tuple[str, ...]

    def rates(self, tier: str | None, tokens_in: int) -> Rates:
        """The prices of a call that read so many tokens and was served at this tier."""
        table = self.long if tokens_in > self.long_over else self.short
        return table.get(tier) or table[None]

    def knows(self, tier: str | None) -> bool:
        """Whether it is known what a tier costs at most."""
        return tier in self.short or tier in _NOT_DEARER


def build(model: str, fields: Fields, tools: Mapping[str, int], origin: Iterable[str]) -> Row:
    """The row of these fields; `tools` are the fees that hold for every model."""
    call = fields.get("call", 0)
    windows = {tier: _windows(fields, tier, call) for tier in (None, *(tier for tier in TIERS if tier in fields))}
    for name, tier in _ALSO_CALLED.items():
        if tier in windows:
            windows[name] = windows[tier]
    short = {tier: rates for tier, (rates, _) in windows.items()}
    long = {tier: rates for tier, (_, rates) in windows.items()}
    return Row(
        model=model,
        short=short,
        long=long,
        long_over=fields.get("long", {}).get("over", NEVER),
        dearest=_dearest(short.values()),
        dearest_long=_dearest(long.values()),
        tools=MappingProxyType({**tools, **fields.get("tools", {})}),
        call=call,
        max_in=fields.get("max_in"),
        max_out=fields.get("max_out"),
        image_most=fields.get("image_most", IMAGE_MOST),
        reasons=fields.get("reasons", False),
        source=fields.get("source", ""),
        date=fields.get("date", ""),
        origin=tuple(origin),
    )


def _windows(fields: Fields, tier: str | None, call: int) -> tuple[Rates, Rates]:
    """The tier's prices up to the line and above it. A tier with none above the line keeps its own."""
    prices = fields if tier is None else laid_over(fields, fields[tier])
    above = fields.get("long", {}) if tier is None else fields[tier].get("long", {})
    return _rates(prices, call), _rates(laid_over(prices, above), call)


def _rates(prices: Fields, call: int) -> Rates:
    other = any(unit in prices for unit in ("minute", "characters", "second", "image"))
    by_tokens = not other or "in" in prices or "out" in prices
    text_in, text_out = (prices.get(name, NO_PRICE if by_tokens else 0) for name in ("in", "out"))
    text_cached = prices.get("cached", text_in)
    write = prices.get("cache_write", text_in)
    audio_in, image_in = prices.get("audio_in", text_in), prices.get("image_in", text_in)
    return Rates(
        is_plain=by_tokens and text_in >= 0 and text_out >= 0 and call == 0,
        has_tokens=by_tokens,
        text_in=text_in,
        text_cached=text_cached,
        text_write=write,
        text_write_12h=prices.get("cache_write_12h", write),
        text_out=text_out,
        audio_in=audio_in,
        audio_cached=prices.get("audio_cached", audio_in if "audio_in" in prices else text_cached),
        audio_out=prices.get("audio_out", text_out),
        image_in=image_in,
        image_cached=prices.get("image_cached", image_in if "image_in" in prices else text_cached),
        image_out=prices.get("image_out", text_out),
        minute=prices.get("minute", NO_PRICE),
        characters=prices.get("characters", NO_PRICE),
        second=MappingProxyType(prices.get("second", {})),
        image=MappingProxyType(prices.get("image", {})),
    )


def _dearest(tiers: Iterable[Rates]) -> Rates:
    tiers = list(tiers)
    numbers = {name: max(getattr(rates, name) for rates in tiers) for name in _NUMBERS}
    second = _dearest_table(rates.second for rates in tiers)
    qualities = {quality for rates in tiers for quality in rates.image}
    image = {quality: _dearest_table(rates.image.get(quality, {}) for rates in tiers) for quality in qualities}
    plain, by_tokens = all(rates.is_plain for rates in tiers), any(rates.has_tokens for rates in tiers)
    return Rates(is_plain=plain, has_tokens=by_tokens, second=second, image=MappingProxyType(image), **numbers)


def _dearest_table(tables: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    dearest: dict[str, int] = {}
    for table in tables:
        dearest |= {name: max(price, dearest.get(name, price)) for name, price in table.items()}
    return MappingProxyType(dearest)
