"""Costs to the micro-dollar: OpenAI's own prices, and what must hold for any usage."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.cost import MOST_MICRODOLLARS, BeyondReason, NotPriced, cost, picodollars
from llmproxy.limits.price_file import read_overlay
from llmproxy.limits.price_row import NEVER, PICO_PER_MICRO, Row
from llmproxy.limits.prices import Prices, Sheet, read_sheet
from llmproxy.limits.usage import Extras, Usage, clamp

MILLION = 10**6
SHEET = read_sheet((Path(__file__).resolve().parents[3] / "prices" / "openai.json").read_text())
ROWS = [Prices(SHEET).find(model) for model in SHEET.models]
TOKEN_ROWS = [row for row in ROWS if row.short[None].text_out > 0 and row.short[None].text_in > 0]


def priced(text: str, model: str = "m") -> Row:
    """The row of a price file alone."""
    return Prices(Sheet({}, {}, "2026-11-26", "nothing"), read_overlay(text)).find(model)


# Right values


@pytest.mark.parametrize(
    ("model", "usage", "tier", "dollars"),
    [
        ("gpt-4o-2024-08-06", Usage(MILLION, 0, MILLION), None, 12.50),
        ("gpt-4.1", Usage(MILLION, 750_000, 0), None, 0.875),
        ("gpt-5.4", Usage(272_000, 0, 1_000), None, 0.695),
        ("gpt-5.4", Usage(272_001, 0, 1_000), None, 1.382505),
        ("o3", Usage(MILLION, 0, MILLION), "flex", 5),
        ("o3", Usage(MILLION, 0, MILLION), "priority", 17.5),
        ("o3", Usage(MILLION, 0, MILLION), "fast", 17.5),
        ("o3", Usage(MILLION, 0, MILLION), "default", 10),
        ("o3", Usage(MILLION, 0, MILLION), "batch", 5),
        ("text-embedding-3-small", Usage(MILLION), "batch", 0.01),
        (
            "gpt-realtime",
            Usage(2_000, 1_000, 1_000, extras=Extras(audio_in=1_500, audio_cached=900, audio_out=800)),
            None,
            0.0756,
        ),
        ("gpt-image-1", Usage(50, 0, 4_160), None, 0.16665),
        ("gpt-4o-transcribe", Usage(1_000, 0, 200, extras=Extras(audio_in=900)), None, 0.0045),
        ("tts-1", Usage(extras=Extras(characters=1_000)), None, 0.015),
        ("gpt-5", Usage(1_000, 0, 100, extras=Extras(tools={"web_search": 3})), None, 0.03225),
        ("ft:gpt-4.1-2025-04-14:acme::Bq1", Usage(MILLION), None, 3),
        ("ft:gpt-4.1-2025-04-14:acme::Bq1", Usage(0, 0, MILLION), None, 12),
    ],
)
def test_a_call_costs_what_openai_charges(prices, model, usage, tier, dollars):
    assert cost(prices.find(model), usage, tier) == round(dollars * MILLION)


@pytest.mark.parametrize(
    ("model", "usage", "tier", "dollars"),
    [
        ("gpt-6.1-terra", Usage(MILLION // 5, 0, 0, extras=Extras(cache_write=100_000)), None, 0.225),
        (
            "gpt-6.1-terra",
            Usage(MILLION // 5, 0, 0, extras=Extras(cache_write=100_000, cache_write_12h=100_000)),
            None,
            0.35,
        ),
        ("gpt-6-astra", Usage(1_000, 0, 1_000), "ultrafast", 0.36),
        ("gpt-5-nano", Usage(1, 1, 0), "flex", 0.000001),
        ("sora-2-pro", Usage(extras=Extras(seconds=8, size="1792x1024")), None, 4),
        ("whisper-1", Usage(extras=Extras(seconds=90)), None, 0.009),
        ("gpt-live-transcribe", Usage(extras=Extras(seconds=60)), None, 0.017),
        ("gpt-live-transcribe", Usage(extras=Extras(seconds=1)), None, 0.000284),
        ("gpt-image-2", Usage(extras=Extras(images=2, quality="medium", size="1536x1024")), None, 0.082),
        ("gpt-4o-search-preview", Usage(1_000, 0, 100), None, 0.0285),
        ("omni-moderation-2024-09-26", Usage(5_000), None, 0),
        (
            "gpt-4.1",
            Usage(extras=Extras(tools={"file_search": 2, "container": 1, "function": 9})),
            None,
            0.035,
        ),
        ("gpt-4.1", Usage(extras=Extras(tools={"web_search_preview": 1})), None, 0.025),
        ("o3", Usage(extras=Extras(tools={"web_search_preview": 1})), None, 0.01),
    ],
)
def test_so_it_does_for_what_the_overlay_adds(prices, model, usage, tier, dollars):
    assert cost(prices.find(model), usage, tier) == round(dollars * MILLION)


# Tiers and windows


@pytest.mark.parametrize("tier", [None, "auto", "default", "scale", "on_demand", ""])
def test_a_tier_that_has_no_price_costs_what_the_default_does(prices, tier):
    assert cost(prices.find("o3"), Usage(MILLION), tier) == 2 * MILLION


def test_a_tier_that_the_row_does_not_have_costs_what_the_default_does(prices):
    assert cost(prices.find("gpt-5-pro"), Usage(MILLION), "flex") == 15 * MILLION


def test_a_tier_without_prices_above_the_line_keeps_its_own(prices):
    assert cost(prices.find("gpt-5.4"), Usage(300_000), "priority") == 1_500_000


@pytest.mark.parametrize(("tokens", "dollars"), [(272_000, 0.34), (272_001, 0.6800025)])
def test_above_the_line_a_tier_has_prices_of_its_own(prices, tokens, dollars):
    assert cost(prices.find("gpt-5.4"), Usage(tokens), "flex") == math.ceil(dollars * MILLION)


def test_the_line_is_looked_for_in_all_tokens_that_were_read(prices):
    assert cost(prices.find("gpt-5.4"), Usage(272_001, 272_001)) == 136_001


def test_the_sum_of_many_requests_is_below_the_line_as_each_of_them_is(prices):
    row = prices.find("gpt-5.4")

    assert cost(row, Usage(MILLION), "batch", is_sum=True) == 10 * cost(row, Usage(MILLION // 10), "batch")
    sound = Usage(MILLION, extras=Extras(audio_in=1))
    assert picodollars(row, sound, is_sum=True) == picodollars(row, Usage(MILLION), is_sum=True)


# Kinds


def test_cached_tokens_of_no_kind_are_text_then_sound_then_images():
    row = priced("model.m = {in = 1, cached = 0, audio_in = 10, audio_cached = 5, image_in = 100, image_cached = 50}")
    extras = Extras(audio_in=100, image_in=10)

    assert picodollars(row, Usage(110, 110, extras=extras)) == (100 * 5 + 10 * 50) * PICO_PER_MICRO
    assert picodollars(row, Usage(120, 10, extras=extras)) == (100 * 10 + 10 * 100) * PICO_PER_MICRO
    assert picodollars(row, Usage(120, 60, extras=extras)) == (50 * 5 + 50 * 10 + 10 * 100) * PICO_PER_MICRO


def test_what_is_written_to_the_cache_is_text_then_sound():
    row = priced("model.m = {in = 1, cache_write = 2, audio_in = 10}")
    usage = Usage(30, extras=Extras(audio_in=20, cache_write=15))

    assert picodollars(row, usage) == (15 * 2 + 15 * 10) * PICO_PER_MICRO


@pytest.mark.parametrize("kind", ["audio_in", "image_in", "cache_write", "cache_write_12h"])
def test_a_kind_of_input_without_a_price_costs_what_text_does(kind):
    extras = Extras(**{kind: 10}, **({"cache_write": 10} if kind == "cache_write_12h" else {}))

    assert cost(priced("model.m.in = 3"), Usage(10, extras=extras)) == 30


@pytest.mark.parametrize("kind", ["audio_out", "image_out"])
def test_a_kind_of_output_without_a_price_costs_what_text_does(kind):
    assert cost(priced("model.m.out = 3"), Usage(0, 0, 10, extras=Extras(**{kind: 10}))) == 30


def test_reasoning_is_output_and_nothing_besides(prices):
    o3 = prices.find("o3")

    assert cost(o3, Usage(10, 0, 500, reasoning=400)) == cost(o3, Usage(10, 0, 500))


# What has no price


@pytest.mark.parametrize(
    ("model", "usage", "what"),
    [
        ("model.m.in = 1", Usage(1, 0, 1), "m has no price for out"),
        ("model.m.out = 1", Usage(1, 0, 1), "m has no price for in"),
        (
            "model.m.in = 1",
            Usage(extras=Extras(tools={"mcp": 1})),
            "m has no price for tools.mcp",
        ),
        ("model.m.in = 1", Usage(extras=Extras(seconds=1)), "m has no price for minute"),
        ("model.m.in = 1", Usage(extras=Extras(characters=1)), "m has no price for characters"),
        (
            'model.m.image.low."1024x1024" = 1',
            Usage(extras=Extras(images=1, quality="low", size="512x512")),
            "m has no price for image of quality 'low' and size '512x512'",
        ),
        (
            'model.m.second."720x1280" = 1',
            Usage(extras=Extras(seconds=1, size="1x1")),
            "m has no price for second of size '1x1'",
        ),
    ],
)
def test_a_use_without_a_price_is_not_taken_for_free(model, usage, what):
    with pytest.raises(NotPriced, match=what.replace(".", r"\.")):
        cost(priced(model), usage)


def test_a_use_that_did_not_happen_needs_no_price():
    assert cost(priced("model.m.in = 1"), Usage(5, extras=Extras(tools={"image_generation": 0}))) == 5


@pytest.mark.parametrize(
    ("unit", "extras", "micros"),
    [
        ("minute", Extras(seconds=30), 500_000),
        ("characters", Extras(characters=3), 3),
        ("second", Extras(seconds=2), 2_000_000),
        ("image", Extras(images=2), 2_000_000),
    ],
)
def test_tokens_are_no_part_of_a_bill_by_another_unit(unit, extras, micros):
    row = priced(f"model.m.{unit} = 1")

    assert cost(row, Usage(500, 0, 500, extras=extras)) == micros
    with pytest.raises(NotPriced, match="no price for tokens"):
        cost(row, Usage(500, 0, 500))


def test_where_tokens_are_told_they_are_the_bill(prices):
    usage = Usage(1_000, 0, 200, extras=Extras(audio_in=900, seconds=60))

    assert cost(prices.find("gpt-4o-transcribe"), usage) == 4_500
    assert cost(prices.find("gpt-4o-transcribe"), usage._replace(input=0, output=0)) == 6_000


def test_one_price_stands_for_any_size_and_quality():
    row = priced("model.m = {image = 0.5, second = 0.25}")

    assert cost(row, Usage(extras=Extras(images=2, quality="hd", size="8x8"))) == 500_000 * 2
    assert cost(row, Usage(extras=Extras(seconds=2, size="8x8"))) == 250_000 * 2


def test_a_dearer_call_than_a_million_dollars_is_none():
    row = priced("model.m = {in = 1000000, out = 0}")

    assert cost(row, Usage(MILLION)) == MOST_MICRODOLLARS
    with pytest.raises(BeyondReason):
        cost(row, Usage(MILLION + 1))


# What holds for any usage


@dataclasses.dataclass(frozen=True)
class Parts:
    """A usage as counts of which none is a part of another."""

    text: int
    text_cached: int
    written: int
    written_12h: int
    audio: int
    audio_cached: int
    image: int
    image_cached: int
    out: int
    audio_out: int
    image_out: int
    searches: int

    def usage(self) -> Usage:
        written = self.written + self.written_12h
        text = self.text + self.text_cached + written
        return Usage(
            input=text + self.audio + self.audio_cached + self.image + self.image_cached,
            cached=self.text_cached + self.audio_cached + self.image_cached,
            output=self.out + self.audio_out + self.image_out,
            extras=Extras(
                cache_write=written,
                cache_write_12h=self.written_12h,
                audio_in=self.audio + self.audio_cached,
                audio_cached=self.audio_cached,
                audio_out=self.audio_out,
                image_in=self.image + self.image_cached,
                image_cached=self.image_cached,
                image_out=self.image_out,
                tools={"web_search": self.searches},
            ),
        )

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


NAMES = [field.name for field in dataclasses.fields(Parts)]
COUNT = st.integers(0, 60_000)
PARTS = st.builds(Parts, **dict.fromkeys(NAMES, COUNT)).filter(lambda parts: parts.text + parts.out > 0)
TIER = st.sampled_from([None, "flex", "batch", "priority", "ultrafast"])
ROW = st.sampled_from([row for row in TOKEN_ROWS if not row.call])
ANY_INT = st.integers(-(10**6), 10**12)
ANY_USAGE = st.builds(
    Usage,
    *[ANY_INT] * 4,
    extras=st.none()
    | st.builds(
        Extras,
        *[ANY_INT] * 8,
        tools=st.dictionaries(st.sampled_from(["web_search", "file_search", "function"]), ANY_INT),
    ),
)


@given(ROW, TIER, PARTS, PARTS)
def test_a_sum_costs_the_sum_of_its_costs(row, tier, one, other):
    a, b, both = one.usage(), other.usage(), (one + other).usage()
    split, whole = [picodollars(row, usage, tier) for usage in (a, b)], picodollars(row, both, tier)

    if (a.input > row.long_over) == (b.input > row.long_over) == (both.input > row.long_over):
        assert sum(split) == whole
        assert 0 <= cost(row, a, tier) + cost(row, b, tier) - cost(row, both, tier) <= 1
    else:
        assert sum(split) <= whole


@given(ROW, TIER, PARTS, st.sampled_from(NAMES), st.integers(1, 300_000))
def test_more_of_anything_never_costs_less(row, tier, parts, name, more):
    grown = dataclasses.replace(parts, **{name: getattr(parts, name) + more})

    assert picodollars(row, parts.usage(), tier) <= picodollars(row, grown.usage(), tier)
    assert cost(row, parts.usage(), tier) <= cost(row, grown.usage(), tier)


@given(st.sampled_from(TOKEN_ROWS), TIER, ANY_USAGE)
def test_no_usage_costs_less_than_nothing_or_more_than_a_million(row, tier, usage):
    try:
        assert 0 <= cost(row, usage, tier) <= MOST_MICRODOLLARS
    except BeyondReason:
        assert picodollars(row, usage, tier) > MOST_MICRODOLLARS * PICO_PER_MICRO


@given(st.sampled_from(TOKEN_ROWS), TIER, ANY_INT, ANY_INT, ANY_INT)
def test_the_short_way_and_the_long_lead_to_one_cost(row, tier, tokens_in, cached, tokens_out):
    plain = Usage(tokens_in, cached, tokens_out)
    exact = picodollars(row, plain, tier)

    if exact <= MOST_MICRODOLLARS * PICO_PER_MICRO:
        assert cost(row, plain, tier) == -(-exact // PICO_PER_MICRO)
        assert cost(row, plain._replace(extras=Extras()), tier) == cost(row, plain, tier)


@given(st.sampled_from(TOKEN_ROWS), ANY_USAGE)
def test_clamping_before_changes_no_cost(row, usage):
    assert picodollars(row, clamp(usage)) == picodollars(row, usage)


# For bounds


@given(ROW, TIER, PARTS)
def test_no_tier_is_dearer_than_the_dearest(row, tier, parts):
    usage = parts.usage()
    dearest = row.dearest_long if usage.input > row.long_over else row.dearest
    row_of_it = dataclasses.replace(row, short={None: dearest}, long={None: dearest}, long_over=NEVER)

    assert picodollars(row, usage, tier) <= picodollars(row_of_it, usage)
