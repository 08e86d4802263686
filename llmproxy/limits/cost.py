"""
What a call costs: its usage at a row's prices, in whole micro-dollars.

Inside one call money is counted in pico-dollars and rounded up once, at the end. No floats, and no Decimal.
"""

from __future__ import annotations

from llmproxy.limits.price_row import NO_PRICE, PICO_PER_MICRO, Rates, Row
from llmproxy.limits.usage import NO_EXTRAS, Extras, Usage, clamp

# A million dollars. No call costs more: whoever tells such counts is wrong about them.
MOST_MICRODOLLARS = 10**12
_MOST_PICO = MOST_MICRODOLLARS * PICO_PER_MICRO


class NotPriced(Exception):
    """The row has no price for something that the call used; `what` names it as a row would."""

    def __init__(self, model: str, what: str) -> None:
        super().__init__(f"{model} has no price for {what}")
        self.model, self.what = model, what


class BeyondReason(Exception):
    """The usage would cost more than a million dollars, so it is none."""


def cost(row: Row, usage: Usage, tier: str | None = None, *, is_sum: bool = False) -> int:
    """
    Micro-dollars that the call cost, from 0 to 10^12.

    Args:
        tier: That served it, "batch" for what a batch did. None, and any tier that the row does not price,
            is the default.
        is_sum: The usage is that of many requests, each of which is taken to be below the line.

    Raises NotPriced and BeyondReason. Counts that cannot be are clamped.
    """
    tokens_in, cached, tokens_out = usage.input, usage.cached, usage.output
    # What Row.rates does, without the call to it: this is on every call's path.
    rates_of = row.long if tokens_in > row.long_over and not is_sum else row.short
    rates = rates_of.get(tier) or rates_of[None]
    if usage.extras is None and rates.is_plain and 0 <= cached <= tokens_in and tokens_out >= 0:
        pico = (tokens_in - cached) * rates.text_in + cached * rates.text_cached + tokens_out * rates.text_out
    else:
        pico = picodollars(row, usage, tier, is_sum=is_sum)
    if pico > _MOST_PICO:
        raise BeyondReason
    return -(-pico // PICO_PER_MICRO)


def picodollars(row: Row, usage: Usage, tier: str | None = None, *, is_sum: bool = False) -> int:
    """
    The exact cost, before it is rounded.

    Tokens that were told are the bill; seconds, characters and images are where none were, or the model is not billed
    by tokens: then it is NotPriced if none of them was told.
    """
    usage = clamp(usage)
    rates, extras = row.rates(tier, 0 if is_sum else usage.input), usage.extras or NO_EXTRAS
    pico = row.call
    has_told_tokens = usage.input > 0 or usage.output > 0
    if has_told_tokens and rates.has_tokens:
        pico += _input(row, rates, usage, extras) + _output(row, rates, usage, extras)
    elif has_told_tokens and not (extras.characters or extras.images or extras.seconds):
        raise NotPriced(row.model, "tokens")
    else:
        pico += _other_units(row, rates, extras)
    fees = ((f"tools.{tool}", row.tools.get(tool, NO_PRICE), count) for tool, count in extras.tools.items())
    return pico + _sum(row, *fees)


def _input(row: Row, rates: Rates, usage: Usage, extras: Extras) -> int:
    text = usage.input - extras.audio_in - extras.image_in
    # Cached tokens whose kind was not told are text, as far as there is any; then audio, then images.
    text_cached, rest = _take(usage.cached - extras.audio_cached - extras.image_cached, text)
    more, rest = _take(rest, extras.audio_in - extras.audio_cached)
    audio_cached, image_cached = extras.audio_cached + more, extras.image_cached + rest
    # So are those that were written to the cache.
    text_written, rest = _take(extras.cache_write, text - text_cached)
    audio_written, image_written = _take(rest, extras.audio_in - audio_cached)
    return _sum(
        row,
        ("in", rates.text_in, text - text_cached - text_written),
        ("cached", rates.text_cached, text_cached),
        ("cache_write", rates.text_write, extras.cache_write - extras.cache_write_12h),
        ("cache_write_12h", rates.text_write_12h, extras.cache_write_12h),
        ("audio_in", rates.audio_in, extras.audio_in - audio_cached - audio_written),
        ("audio_cached", rates.audio_cached, audio_cached),
        ("image_in", rates.image_in, extras.image_in - image_cached - image_written),
        ("image_cached", rates.image_cached, image_cached),
    )


def _output(row: Row, rates: Rates, usage: Usage, extras: Extras) -> int:
    return _sum(
        row,
        ("out", rates.text_out, usage.output - extras.audio_out - extras.image_out),
        ("audio_out", rates.audio_out, extras.audio_out),
        ("image_out", rates.image_out, extras.image_out),
    )


def _other_units(row: Row, rates: Rates, extras: Extras) -> int:
    second, image = rates.price_of_second(extras.size), rates.price_of_image(extras.quality, extras.size)
    pico = _sum(
        row,
        ("characters", rates.characters, extras.characters),
        (f"image of quality {extras.quality!r} and size {extras.size!r}", image, extras.images),
    )
    if rates.second:
        return pico + _sum(row, (f"second of size {extras.size!r}", second, extras.seconds))
    # A minute's price need not be a whole number of pico-dollars a second; the part of one is rounded up.
    return pico - (-_sum(row, ("minute", rates.minute, extras.seconds)) // 60)


def _sum(row: Row, *parts: tuple[str, int, int]) -> int:
    """Of kinds by name, price and count. A kind without a price matters where there is one of it."""
    pico = 0
    for name, price, count in parts:
        if count:
            if price == NO_PRICE:
                raise NotPriced(row.model, name)
            pico += price * count
    return pico


def _take(count: int, there: int) -> tuple[int, int]:
    """As many as there are, and what is left over."""
    taken = min(count, there)
    return taken, count - taken
