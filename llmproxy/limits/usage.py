"""
What a call used, typed: the counts that prices are applied to.

Counts are as the API tells them: `input` and `output` are totals, every other count of tokens is a part of one of
them. Whoever made the counts is not trusted: `clamp` brings parts into their wholes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Extras:
    """
    What few calls use. Numbers are tokens unless their name says otherwise.

    Attributes:
        cache_write: Of the input, written to the cache; of it `cache_write_12h` to be kept for twelve hours.
        audio_cached: Of the cached input, audio; `image_cached` likewise.
        seconds: Whole seconds of sound that was transcribed, or of video that was made.
        images: Pieces made, all of one `quality` and `size`.
        size: As the API writes it, such as 1024x1536: of images, or of video.
        tools: Name -> how many; the names that a sheet's `tools` prices.
    """

    cache_write: int = 0
    cache_write_12h: int = 0
    audio_in: int = 0
    audio_cached: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_cached: int = 0
    image_out: int = 0
    seconds: int = 0
    characters: int = 0
    images: int = 0
    quality: str = ""
    size: str = ""
    tools: Mapping[str, int] = field(default_factory=dict)


NO_EXTRAS = Extras()

# The names of `Extras`, and what a record calls them.
_READ = (("cache_write", "cache_write_tokens"), ("audio_in", "audio_tokens"), ("image_in", "image_tokens"))
_WRITTEN = (("audio_out", "audio_tokens"), ("image_out", "image_tokens"))
_CACHED = (("audio_cached", "audio_tokens"), ("image_cached", "image_tokens"))
_KEPT = (("cache_write_12h", "ttl_12h_tokens"),)
_UNITS = (("seconds", "seconds"), ("characters", "characters"), ("images", "images"))
_ALONE = frozenset({"tool_calls", *(name for _, name in _UNITS)})
# Counts of text, or no kind of their own.
_TEXT = frozenset(
    {"cached_tokens", "text_tokens", "reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"}
)
# What no upstream bills.
_RUN_BY_CALLERS = ("function", "custom_tool")


class Usage(NamedTuple):
    """
    The counts of one call.

    Attributes:
        input: All tokens read, `cached` and every kind of `extras` among them.
        output: All tokens written, `reasoning` among them.
        extras: None where there is nothing to say, which is nearly always, and makes pricing quick.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    extras: Extras | None = None


def usage_of(told: Mapping[str, object]) -> Usage:
    """
    The usage that a call's record tells in its `metadata`: `prompt_tokens`, `completion_tokens`, `total_tokens`,
    their details, and what `Extras` has besides.
    """
    tokens_in, tokens_out = tokens_of(told)
    read, written = told.get("prompt_tokens_details"), told.get("completion_tokens_details")
    if not isinstance(read, dict):
        read = {}
    if not isinstance(written, dict):
        written = {}
    cached, reasoning = read.get("cached_tokens"), written.get("reasoning_tokens")
    if type(cached) is not int or type(reasoning) is not int:
        cached, reasoning = _whole(cached), _whole(reasoning)
    return Usage(tokens_in, cached, tokens_out, reasoning, _extras(told, read, written))


def tokens_of(told: Mapping[str, object]) -> tuple[int, int]:
    """
    The input and the output of `usage_of`.

    Tokens that only the total has are taken as what they must be: input where that is not told, as for embeddings,
    and else output, as where an upstream leaves thinking out of the completion.
    """
    # Without a function for each of them where they are what they nearly always are: it is on every call's path.
    tokens_in, tokens_out, total = told.get("prompt_tokens"), told.get("completion_tokens"), told.get("total_tokens")
    if type(tokens_in) is not int or type(tokens_out) is not int or type(total) is not int:
        tokens_in, tokens_out, total = _whole(tokens_in), _whole(tokens_out), _whole(total)
    if not tokens_in and not tokens_out:
        tokens_in = total
    if total > tokens_in + tokens_out:
        if "prompt_tokens" in told:
            tokens_out = total - tokens_in
        else:
            tokens_in = total - tokens_out
    return tokens_in, tokens_out


def tells_all(told: Mapping[str, object], usage_source: str | None) -> bool:
    """Whether such a record tells all tokens: of a count that nobody could read, the total tells the rest."""
    return usage_source == "reported" or (usage_source == "partial" and "total_tokens" in told)


def _extras(told: Mapping[str, object], read: Mapping[str, object], written: Mapping[str, object]) -> Extras | None:
    if _ALONE.isdisjoint(told) and not _has_kinds(read, written):
        return None  # nearly always, so it is found out quickly
    cached, kept = _details(read, "cached_tokens_details"), _details(read, "cache_write_tokens_details")
    kinds: dict[str, Any] = {
        kind: count
        for part, names in ((read, _READ), (written, _WRITTEN), (cached, _CACHED), (kept, _KEPT), (told, _UNITS))
        if part
        for kind, name in names
        if name in part and (count := _count(part, name))
    }
    tools = _details(told, "tool_calls")
    if billed := {name: _count(tools, name) for name in tools if name not in _RUN_BY_CALLERS}:
        kinds["tools"] = billed
    if not kinds:
        return None
    for name in ("quality", "size"):
        if isinstance(word := told.get(name), str):
            kinds[name] = word
    return Extras(**kinds)


def _has_kinds(read: Mapping[str, object], written: Mapping[str, object]) -> bool:
    # Without a generator, which would cost more than all of it.
    for details in (read, written):
        for name, count in details.items():
            if count and name not in _TEXT:
                return True
    return False


def _count(told: Mapping[str, object], name: str) -> int:
    return _whole(told.get(name))


def _whole(value: object) -> int:
    """A count as it stands, a fraction rounded up; 0 for what is none."""
    if type(value) is int:
        return value
    return math.ceil(value) if type(value) is float and math.isfinite(value) else 0


def _details(told: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = told.get(name)
    # As JSON is read: to ask for any Mapping takes longer than all the rest.
    return value if isinstance(value, dict) else {}


def clamp(usage: Usage) -> Usage:
    """
    The usage with no count below 0 and no part above its whole. The very same object where nothing was wrong.

    Input is audio, images and text in this order of trust; output likewise.
    """
    total_in, total_out = max(usage.input, 0), max(usage.output, 0)
    cached = _within(usage.cached, total_in)
    clamped = Usage(
        input=total_in,
        cached=cached,
        output=total_out,
        reasoning=_within(usage.reasoning, total_out),
        extras=None if usage.extras is None else _clamp_extras(usage.extras, total_in, cached, total_out),
    )
    return usage if clamped == usage else clamped


def _clamp_extras(extras: Extras, total_in: int, cached: int, total_out: int) -> Extras:
    audio_in = _within(extras.audio_in, total_in)
    image_in = _within(extras.image_in, total_in - audio_in)
    audio_cached = _within(extras.audio_cached, min(audio_in, cached))
    audio_out = _within(extras.audio_out, total_out)
    cache_write = _within(extras.cache_write, total_in - cached)
    negative = any(count < 0 for count in extras.tools.values())
    return replace(
        extras,
        cache_write=cache_write,
        cache_write_12h=_within(extras.cache_write_12h, cache_write),
        audio_in=audio_in,
        audio_cached=audio_cached,
        audio_out=audio_out,
        image_in=image_in,
        image_cached=_within(extras.image_cached, min(image_in, cached - audio_cached)),
        image_out=_within(extras.image_out, total_out - audio_out),
        seconds=max(extras.seconds, 0),
        characters=max(extras.characters, 0),
        images=max(extras.images, 0),
        tools={name: max(count, 0) for name, count in extras.tools.items()} if negative else extras.tools,
    )


def _within(part: int, whole: int) -> int:
    return min(max(part, 0), whole)
