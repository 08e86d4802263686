"""
What a call may cost at most, and what it likely costs, before it goes up: by its body, its endpoint, its model's row.

A bound is what the dearest price that can apply makes of the most tokens that can be used. No token is shorter than a
byte, so a text has at most as many tokens as the body has bytes. That is an argument, not a proof, so calls that cost
more than their bound are counted. A call whose bound nobody can tell is *unbounded*, for a reason; it has figures all
the same, by which it is held under budgets that reserve what is likely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from llmproxy.limits.body.reading import Parts, Reading, listed
from llmproxy.limits.cost import MOST_MICRODOLLARS, NotPriced
from llmproxy.limits.judge import OUTPUT_NAMES, searches_unasked, tool_types
from llmproxy.limits.price_row import IMAGE_MOST, NO_PRICE, PICO_PER_MICRO, Rates, Row
from llmproxy.limits.routes import Route
from llmproxy.limits.rules import undated

# For models whose row does not say: the most that any of OpenAI's reads and writes.
ASSUMED_MAX_IN = 1_050_000
ASSUMED_MAX_OUT = 128_000
# Calls seldom write more; those that do teach their meter's mean.
LIKELY_OUT = 4096
BYTES_PER_LIKELY_TOKEN = 4
# Of an image or a file in the body.
LIKELY_INLINE = 1500
# Turns of a hosted tool, each of which is billed, where `max_tool_calls` does not say.
ASSUMED_TOOL_CALLS = 10
# How often a model works on a request in a reasoning mode other than `standard`. Nobody says, but the tokens of all
# of it are told and billed at the usual prices. Where such models have names and prices of their own (`gpt-5-pro`,
# `gpt-5.4-pro`, `gpt-5.5-pro`, `o3-pro`), these are 6 to 12 times as high.
ASSUMED_PRO_TURNS = 12
LIKELY_PRO_TURNS = 6
# What a tool that needs no description is described by to the model.
BUILT_IN_TOOL_TOKENS = 5000
_BUILT_IN_TOOLS = frozenset({"local_shell", "apply_patch"})
# Tools that run where the caller is, or that only describe others.
_CALLERS_TOOLS = frozenset({"function", "custom", "namespace", "local_shell", "apply_patch"})
# Tools that run in a container, which has a fee of its own.
_IN_CONTAINER = frozenset({"code_interpreter", "shell"})
# What answers by more than its request holds: the session, the thread.
_REMEMBERING = frozenset({"realtime", "run"})
# Sound: no speech has fewer bytes a second; as MP3 is common it has eight times as many. So many tokens a second.
LEAST_BYTES_PER_S = 500
LIKELY_BYTES_PER_S = 4000
TOKENS_PER_S = 25
# Spoken slowly: nearly a second for each, as digits may take, and ten more.
AUDIO_TOKENS_PER_CHARACTER = 16
MORE_AUDIO_TOKENS = 200
LIKELY_AUDIO_TOKENS_PER_CHARACTER = 2
# An image whose row has no price a piece, and each of the pictures that are sent before it is done.
ASSUMED_IMAGE_TOKENS = 16_000
PARTIAL_IMAGE_TOKENS = 100
ASSUMED_VIDEO_S = 4

_MOST_NUMBER = 10**12
_NO_PARTS = Parts()


class Bounds(NamedTuple):
    """
    A call's figures: micro-dollars, and tokens of both directions.

    Attributes:
        cost, tokens: At most; of an unbounded call, what a dear one of its kind takes.
        unbounded: Why nobody can tell; None for a call with a bound.
        output: Of `tokens`, how many each completion may write; one more of it costs `per_output` pico-dollars.
        likely_in: Of `likely_tokens`, those that are read.
    """

    cost: int = 0
    tokens: int = 0
    likely_cost: int = 0
    likely_tokens: int = 0
    unbounded: str | None = None
    output: int = 0
    per_output: int = 0
    likely_in: int = 0

    def output_that_fits(self, left: int) -> int | None:
        """How many output tokens a call may ask for so that it is bound by so many micro-dollars; None for none."""
        if not self.per_output or self.unbounded:
            return None
        beyond = max(self.cost - left, 0) * PICO_PER_MICRO
        fitting = self.output - -(-beyond // self.per_output)
        return fitting if fitting > 0 else None


class _Amount(NamedTuple):
    """Tokens of each kind that a call may read, and all that it may write."""

    text: int = 0
    images: int = 0
    audio: int = 0
    out: int = 0

    def times(self, turns: int) -> _Amount:
        return _Amount(*(count * turns for count in self))


class _Call:
    """What the figures are made of."""

    __slots__ = ("_members", "image_most", "images", "kind", "parts", "reading", "row", "text_bytes", "tier")

    def __init__(self, route: Route, reading: Reading, row: Row | None, default_tier: str | None) -> None:
        self.kind = route.kind
        self.reading = reading
        self.row = row
        self.parts = parts = reading.parts or _NO_PARTS
        self.text_bytes = max(reading.size - parts.inline_chars - parts.audio_chars, 0)
        self.image_most = row.image_most if row else IMAGE_MOST
        # What makes images reads nothing else that is stored.
        self.images = parts.inline + (parts.stored if route.kind == "images" else 0)
        self._members = reading.members
        # Asked for, or the project's; None where that is for the upstream to say, or nobody knows what it costs.
        asked = self.text("service_tier")
        if not asked or asked == "auto":
            is_known = default_tier is None or row is None or row.knows(default_tier)
            self.tier = default_tier if is_known else None
        elif row is None or row.knows(asked):
            self.tier = asked
        else:
            raise NotPriced(row.model, "the service_tier that is asked for")

    def number(self, name: str) -> int:
        """A parameter that is a number; 0 for what is none."""
        value = self._members.get(name)
        if value is None:  # nearly always
            return 0
        if isinstance(value, int | float) and value is not True:
            return int(min(max(value, 0), _MOST_NUMBER))
        return 0

    def times(self, name: str, unsaid: int = 1) -> int:
        """
        How often something is asked for, `unsaid` times where nobody says. Some upstreams take a text for the number
        in it, so it counts here, too, though it is no limit; what is no number counts as the most.
        """
        value = self._members.get(name)
        if value is None:  # nearly always
            return unsaid
        try:
            return math.ceil(min(max(float(value), min(unsaid, 1)), _MOST_NUMBER))
        except (TypeError, ValueError, OverflowError):
            return _MOST_NUMBER

    def text(self, name: str) -> str:
        """A parameter that is a text; "" for what is none."""
        value = self._members.get(name)
        return value if isinstance(value, str) else ""

    def is_there(self, name: str) -> bool:
        """Whether there is such a parameter, and is not null."""
        return self._members.get(name) is not None


def bounds(route: Route, reading: Reading, row: Row | None, *, default_tier: str | None = None) -> Bounds:
    """
    The figures of a call.

    Args:
        reading: With its parts.
        row: The main model's; None for a model without a price, which then costs nothing.
        default_tier: What the upstream serves where the request asks for none; None where nobody said.

    Raises NotPriced where the row has no price for something that the call will use.
    """
    kind = _KINDS.get(route.kind)
    figures = kind(_Call(route, reading, row, default_tier)) if kind else Bounds()
    return figures if figures.cost <= MOST_MICRODOLLARS and figures.tokens <= _MOST_NUMBER else _capped(figures)


def _capped(figures: Bounds) -> Bounds:
    """What a meter can hold: nobody is charged more for a call, whatever its request asks for."""
    return figures._replace(
        cost=min(figures.cost, MOST_MICRODOLLARS),
        tokens=min(figures.tokens, _MOST_NUMBER),
        likely_cost=min(figures.likely_cost, MOST_MICRODOLLARS),
        likely_tokens=min(figures.likely_tokens, _MOST_NUMBER),
    )


# Text, and what is like it.


def _text(call: _Call) -> Bounds:
    row, tools = call.row, list(tool_types(call.reading.members))
    hosted = _hosted_tools(call, tools)
    max_in, max_out = (row.max_in, row.max_out) if row else (None, None)
    asked = max([call.number(name) for name in OUTPUT_NAMES[call.kind]])
    each = min(asked, max_out or asked) if asked and not hosted else max_out or ASSUMED_MAX_OUT
    if call.is_there("prediction"):  # what of it is not used is billed as if it had been written
        each += call.text_bytes
    times = call.parts.prompts * max(call.times("n"), call.times("best_of"))
    reads_more = bool(hosted) or _reads_more(call)
    most_in = max_in or (ASSUMED_MAX_IN if reads_more else _MOST_NUMBER)
    unseen = sum(map(_BUILT_IN_TOOLS.__contains__, tools)) * BUILT_IN_TOOL_TOKENS
    most = _read_at_most(call, most_in * call.parts.prompts, reads_more=reads_more, unseen=unseen, out=each * times)
    likely = _read_likely(call, out=min(each, asked or LIKELY_OUT, LIKELY_OUT) * times)
    is_pro = _is_pro(call.reading.members)
    if is_pro:
        most, likely = most.times(ASSUMED_PRO_TURNS), likely.times(LIKELY_PRO_TURNS)
    if hosted:
        unbounded = f"the tool {hosted[0]} takes as many turns as it likes"
    elif is_pro:
        unbounded = "in such a `reasoning.mode` a model works on it as often as it likes"
    elif call.kind == "realtime":
        unbounded = "a session's upstream begins responses by itself"
    elif call.is_there("context_management"):
        unbounded = "what is compacted meanwhile is read more than once"
    elif (reads_more and not max_in) or not (asked or max_out):
        unbounded = "nobody said how much this model reads and writes at most"
    else:
        unbounded = None
    once = sum(_fee(row, tool) for tool in hosted) if row else 0
    uses = call.number("max_tool_calls") or ASSUMED_TOOL_CALLS
    return _figures(call, most, likely, once * uses, once, unbounded, output=each, times=times)


def _embeddings(call: _Call) -> Bounds:
    return _figures(call, _read_at_most(call), _read_likely(call))


def _read_at_most(
    call: _Call, most: int = _MOST_NUMBER, *, reads_more: bool = False, unseen: int = 0, out: int = 0
) -> _Amount:
    """
    Args:
        most: What the model reads at most, and does read where it `reads_more` than stands in the body.
        unseen: Tokens that it reads beside the body.
    """
    audio = min(call.parts.audio_chars, most)
    images = min(call.images * call.image_most, most - audio)
    rest = most - audio - images
    return _Amount(rest if reads_more else min(call.text_bytes + unseen, rest), images, audio, out)


def _read_likely(call: _Call, *, out: int = 0) -> _Amount:
    return _Amount(
        -(-call.text_bytes // BYTES_PER_LIKELY_TOKEN),
        call.images * min(call.image_most, LIKELY_INLINE),
        _seconds(call.parts.audio_chars, LIKELY_BYTES_PER_S) * TOKENS_PER_S,
        out,
    )


def _reads_more(call: _Call) -> bool:
    """Whether the model reads what is not in the body."""
    is_stored = call.is_there("previous_response_id") or call.is_there("conversation")
    is_stored = is_stored or call.reading.has_stored_prompt or call.parts.stored > 0
    return is_stored or call.kind in _REMEMBERING or searches_unasked(call.reading.model)


def _hosted_tools(call: _Call, tools: Iterable[str]) -> list[str]:
    """Types of tools that run upstream, which bills each turn. What is stored there may bring tools of its own."""
    if call.kind == "run" or call.reading.has_stored_prompt:
        return ["that is stored"]
    return sorted({undated(kind) for kind in tools if kind not in _CALLERS_TOOLS})


def _is_pro(members: Mapping[str, Any]) -> bool:
    """Whether the request, or an item of it, asks for a reasoning mode other than `standard`."""
    if "reasoning" not in members and "input" not in members:  # nearly always
        return False
    for place in (members, *listed(members.get("input"))):
        reasoning = place.get("reasoning") if isinstance(place, dict) else None
        if isinstance(reasoning, dict) and reasoning.get("mode") not in (None, "standard"):
            return True
    return False


def _fee(row: Row, tool: str) -> int:
    """For one use, in pico-dollars."""
    container = row.tools.get("container", 0) if tool in _IN_CONTAINER else 0
    return max(row.tools.get(tool, 0), container, 0)


# Sound, images, video.


def _speech(call: _Call) -> Bounds:
    characters = call.parts.characters or call.reading.size
    if call.row and (price := call.row.dearest.characters) != NO_PRICE:
        return _billed(call, characters * price)
    most = _Amount(text=call.text_bytes, out=characters * AUDIO_TOKENS_PER_CHARACTER + MORE_AUDIO_TOKENS)
    return _figures(call, most, _read_likely(call, out=characters * LIKELY_AUDIO_TOKENS_PER_CHARACTER))


def _transcription(call: _Call) -> Bounds:
    most_s, likely_s = (_seconds(call.parts.audio_chars, rate) for rate in (LEAST_BYTES_PER_S, LIKELY_BYTES_PER_S))
    most, likely = (
        _Amount(call.text_bytes, audio=tokens, out=tokens)
        for tokens in (most_s * TOKENS_PER_S, likely_s * TOKENS_PER_S)
    )
    figures = _figures(call, most, likely)
    minute = max(call.row.dearest.minute, 0) if call.row else 0
    # Where the response tells tokens they are the bill, and else the time is.
    by_time = [_micro(-(-seconds * minute // 60)) for seconds in (most_s, likely_s)]
    return figures._replace(cost=max(figures.cost, by_time[0]), likely_cost=max(figures.likely_cost, by_time[1]))


def _images(call: _Call) -> Bounds:
    row, count = call.row, call.times("n")
    partial = count * call.times("partial_images", 0) * PARTIAL_IMAGE_TOKENS
    if not row or not row.dearest.image:
        out = count * ASSUMED_IMAGE_TOKENS + partial
        most, likely = _read_at_most(call, out=out), _read_likely(call, out=out)
        return _figures(call, most, likely, unbounded="nobody said what its images cost a piece")
    image_out = max(row.dearest.image_out, 0)
    pieces = count * _dearest(row.dearest.image, call.text("quality"), call.text("size"))
    figures = _figures(call, _read_at_most(call), _read_likely(call), pieces + partial * image_out, pieces)
    tokens = -(-pieces // image_out) if image_out else 0
    return figures._replace(tokens=figures.tokens + tokens + partial, likely_tokens=figures.likely_tokens + tokens)


def _video(call: _Call) -> Bounds:
    seconds = call.times("seconds", ASSUMED_VIDEO_S)
    price = _dearest_of(call.row.dearest.second, call.text("size")) if call.row else 0
    return _billed(call, seconds * price)


def _dearest(table: Mapping[str, Mapping[str, int]], quality: str, size: str) -> int:
    """Of one image: where the table has the quality, and the size in it, that one; else the dearest there is."""
    chosen = [table[quality]] if quality in table else table.values()
    return max(_dearest_of(sizes, size) for sizes in chosen)


def _dearest_of(sizes: Mapping[str, int], size: str) -> int:
    return sizes[size] if size in sizes else max(sizes.values(), default=NO_PRICE)


def _seconds(sound_bytes: int, bytes_per_s: int) -> int:
    return -(-sound_bytes // bytes_per_s)


# Prices.


def _figures(
    call: _Call,
    most: _Amount,
    likely: _Amount,
    fees: int = 0,
    likely_fees: int = 0,
    unbounded: str | None = None,
    *,
    output: int = 0,
    times: int = 0,
) -> Bounds:
    """
    The figures of tokens, and of fees in pico-dollars.

    Args:
        output, times: How much each completion may write, and how many there are; where a caller may ask for less.
    """
    row = call.row
    read, likely_read = most.text + most.images + most.audio, likely.text + likely.images + likely.audio
    tokens = read + most.out
    likely_tokens = min(likely_read + likely.out, tokens)
    if row is None:
        return Bounds(0, tokens, 0, likely_tokens, unbounded, output, likely_in=likely_read)
    short, long = _dear_rates(row, call.tier)
    pico, per_output = _pico(call, short, most), _out_price(call, short)
    if read > row.long_over:
        pico, per_output = max(pico, _pico(call, long, most)), max(per_output, _out_price(call, long))
    cost = _micro(pico + row.call + fees)
    likely_cost = _micro(_pico(call, row.rates(call.tier, likely_read), likely) + row.call + likely_fees)
    each = per_output * times
    return Bounds(cost, tokens, min(likely_cost, cost), likely_tokens, unbounded, output, each, likely_read)


def _billed(call: _Call, pico: int) -> Bounds:
    """The figures of what is billed by other units than tokens."""
    if call.row and pico < 0:
        raise NotPriced(call.row.model, call.kind)
    return _figures(call, _Amount(), _Amount(), pico, pico)


def _micro(pico: int) -> int:
    return -(-pico // PICO_PER_MICRO)


def _dear_rates(row: Row, tier: str | None) -> tuple[Rates, Rates]:
    """The prices below and above the line of the tier, or where nobody knows it the dearest."""
    if tier is None:
        return row.dearest, row.dearest_long
    return row.short.get(tier) or row.short[None], row.long.get(tier) or row.long[None]


def _pico(call: _Call, rates: Rates, amount: _Amount) -> int:
    read = max(rates.text_in, rates.text_cached, rates.text_write)
    if rates.text_write_12h > read and _keeps_long(call):
        read = rates.text_write_12h
    pico = _times(call, "in", read, amount.text) + _times(call, "out", _out_price(call, rates), amount.out)
    if amount.images:
        pico += _times(call, "image_in", max(rates.image_in, rates.image_cached), amount.images)
    if amount.audio:
        pico += _times(call, "audio_in", max(rates.audio_in, rates.audio_cached), amount.audio)
    return pico


def _times(call: _Call, name: str, price: int, count: int) -> int:
    if count and price == NO_PRICE and call.row:
        raise NotPriced(call.row.model, name)
    return price * count


def _out_price(call: _Call, rates: Rates) -> int:
    if call.kind in ("realtime", "speech"):
        return max(rates.text_out, rates.audio_out)
    if call.kind == "images":
        return max(rates.text_out, rates.image_out)
    if call.is_there("modalities") or call.is_there("output_modalities"):
        return max(rates.text_out, rates.audio_out, rates.image_out)
    return rates.text_out


def _keeps_long(call: _Call) -> bool:
    """Whether the request says how long what it reads is to be kept, which may have a price of its own."""
    return any(name.startswith("prompt_cache") and name != "prompt_cache_key" for name in call.reading.members)


_KINDS: dict[str, Callable[[_Call], Bounds]] = {
    "chat": _text,
    "completions": _text,
    "responses": _text,
    "run": _text,
    "realtime": _text,
    "embeddings": _embeddings,
    "images": _images,
    "speech": _speech,
    "transcription": _transcription,
    "video": _video,
}
