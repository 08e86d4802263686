"""What calls may cost at most, and what they likely cost."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmproxy.limits.body.held import read_held
from llmproxy.limits.body.reading import Parts, Reading
from llmproxy.limits.bounds import ASSUMED_MAX_IN, ASSUMED_MAX_OUT, Bounds, bounds
from llmproxy.limits.cost import NotPriced, cost
from llmproxy.limits.price_file import read_overlay
from llmproxy.limits.prices import Prices
from llmproxy.limits.routes import ROUTES, find_route
from llmproxy.limits.usage import Extras, Usage

CHAT = find_route("POST", "/v1/chat/completions")
COMPLETIONS = find_route("POST", "/v1/completions")
RESPONSES = find_route("POST", "/v1/responses")
EMBEDDINGS = find_route("POST", "/v1/embeddings")
SPEECH = find_route("POST", "/v1/audio/speech")
TRANSCRIPTIONS = find_route("POST", "/v1/audio/transcriptions")
IMAGES = find_route("POST", "/v1/images/generations")
EDITS = find_route("POST", "/v1/images/edits")
VIDEOS = find_route("POST", "/v1/videos")
RUNS = find_route("POST", "/v1/threads/runs")
REALTIME = find_route("GET", "/v1/realtime")


def read(**members):
    return read_held(json.dumps(members).encode())


@pytest.fixture
def bound(prices):
    def figures(route, model, *, default_tier=None, **members):
        return bounds(route, read(model=model, **members), prices.find(model), default_tier=default_tier)

    return figures


def of(pico):
    return -(-pico // 10**6)


# Text.


def test_a_chat_reads_at_most_its_bytes_and_writes_what_it_asks_for(bound):
    said = {"messages": [{"role": "user", "content": "x" * 100}]}
    size = read(model="gpt-4o-2024-05-13", **said, max_tokens=100).size

    figures = bound(CHAT, "gpt-4o-2024-05-13", **said, max_tokens=100, default_tier="default")

    assert figures.tokens == size + 100
    assert figures.cost == size * 5 + 100 * 15
    assert figures.likely_tokens == -(-size // 4) + 100
    assert figures.likely_cost == -(-size // 4) * 5 + 100 * 15
    assert figures.unbounded is None


@pytest.mark.parametrize(
    ("route", "members", "output"),
    [
        (CHAT, {}, 16_384),
        (CHAT, {"max_tokens": 10}, 10),
        (CHAT, {"max_completion_tokens": 20, "max_tokens": 10}, 20),
        (CHAT, {"max_tokens": 10**6}, 16_384),
        (CHAT, {"max_tokens": None}, 16_384),
        (CHAT, {"max_tokens": -5}, 16_384),
        (CHAT, {"max_tokens": "10"}, 16_384),
        (CHAT, {"max_output_tokens": 10}, 16_384),
        (RESPONSES, {"max_output_tokens": 10}, 10),
        (RESPONSES, {"max_tokens": 10}, 16_384),
        (CHAT, {"max_tokens": 10, "n": 3}, 30),
        (CHAT, {"n": 3}, 3 * 16_384),
        (CHAT, {"max_tokens": 10, "n": "+3"}, 30),
        (CHAT, {"max_tokens": 10, "n": 2.5}, 30),
        (CHAT, {"max_tokens": 10, "n": -3}, 10),
        (CHAT, {"max_tokens": "10", "n": 1}, 16_384),
        (COMPLETIONS, {"max_tokens": 10, "n": 2, "best_of": 5}, 50),
        (COMPLETIONS, {"max_tokens": 10, "prompt": ["x"] * 1000}, 10_000),
        (COMPLETIONS, {"max_tokens": 10, "prompt": ["x"] * 10, "n": 2}, 200),
    ],
)
def test_the_output_is_what_the_body_says_and_what_the_model_writes_at_most(bound, route, members, output):
    figures = bound(route, "gpt-4o", **members)

    assert figures.tokens - min(read(model="gpt-4o", **members).size, 128_000) == output


def test_what_calls_likely_write_is_no_more_than_4096(bound):
    size = read(model="gpt-5").size

    assert bound(RESPONSES, "gpt-5").likely_tokens == -(-size // 4) + 4096


def test_no_more_is_read_than_the_model_can(bound):
    assert bound(CHAT, "gpt-4o", messages="x" * 200_000, max_tokens=1).tokens == 128_001


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"input": [{"image_url": "data:x," + "A" * 100_000}]}, 50_000),
        ({"input": [{"image_url": "data:x," + "A" * 100_000}] * 2}, 100_000),
    ],
)
def test_an_image_counts_as_the_most_that_one_may_be_and_not_as_its_bytes(bound, members, tokens):
    figures = bound(RESPONSES, "gpt-5", max_output_tokens=1, **members)

    assert tokens < figures.tokens < tokens + 300
    assert figures.likely_tokens < 3_300


def test_sound_in_the_body_is_read_at_the_price_of_sound(bound):
    message = {"messages": [{"content": [{"input_audio": {"data": "A" * 100_000, "format": "wav"}}]}]}
    figures = bound(CHAT, "gpt-audio", max_tokens=1, **message)

    assert figures.cost > 100_000 * 32
    assert figures.tokens > 100_000


def test_spoken_output_has_the_price_of_sound(bound):
    silent, spoken = (
        bound(CHAT, "gpt-audio", max_tokens=1000, **more) for more in ({}, {"modalities": ["text", "audio"]})
    )

    assert spoken.cost - silent.cost >= 1000 * (64 - 10)


@pytest.mark.parametrize(
    "members",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"input": [{"file_id": "file-1"}]},
        {"input": [{"image_url": "https://x"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"id": "x"}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
        {"input": [{"type": "compaction", "encrypted_content": "x"}]},
        {"input": [{"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0x"}]},
    ],
)
def test_what_is_not_in_the_body_may_be_all_that_the_model_reads(bound, members):
    figures = bound(RESPONSES, "gpt-5", max_output_tokens=10, **members)

    assert figures.tokens - figures.output == 272_000
    assert figures.likely_tokens < 200 + 4096


@pytest.mark.parametrize(
    "tool", ["web_search", "web_search_2025_08_26", "file_search", "code_interpreter", "mcp", "new"]
)
def test_hosted_tools_are_unbounded_and_held_for_a_full_turn_and_ten_uses(bound, tool):
    figures = bound(RESPONSES, "gpt-5", tools=[{"type": tool}], max_output_tokens=10, default_tier="default")
    fee = {"web_search": 10_000, "file_search": 2_500, "code_interpreter": 30_000}.get(
        tool.replace("_2025_08_26", ""), 0
    )

    assert "as many turns as it likes" in figures.unbounded
    assert figures.tokens == 272_000 + 128_000
    assert figures.cost == 272_000 * 5 // 4 + 128_000 * 10 + 10 * fee


def test_the_uses_of_a_tool_may_be_limited(bound):
    some, few = (
        bound(RESPONSES, "gpt-5", tools=[{"type": "web_search"}], **more) for more in ({}, {"max_tool_calls": 2})
    )

    assert some.cost - few.cost == 8 * 10_000


def test_the_callers_own_tools_are_text_and_those_that_the_upstream_describes_are_more(bound):
    tools, known = [{"type": "function"}, {"type": "custom"}], [{"type": "local_shell"}]
    own, more = (bound(RESPONSES, "gpt-5", tools=some, max_output_tokens=9) for some in (tools, tools + known))

    assert own.unbounded is None
    assert more.unbounded is None
    assert more.tokens - own.tokens > 5000


def test_a_model_that_searches_unasked_reads_what_it_finds(bound):
    assert bound(CHAT, "gpt-5-search-api", max_tokens=1).tokens == 272_000 + 1


@pytest.mark.parametrize("n", [10**12, 10**300, "nan", "0x10", [2], {}])
def test_what_nobody_could_pay_is_bound_by_what_a_meter_holds(bound, n):
    figures = bound(COMPLETIONS, "o1-pro", prompt=["x"] * 9, n=n)

    assert figures.cost == figures.likely_cost == figures.tokens == figures.likely_tokens == 10**12


def test_a_prediction_that_is_not_used_is_written_all_the_same(bound):
    prediction = {"prediction": {"type": "content", "content": "x" * 500}}
    plain, predicted = (bound(CHAT, "gpt-4o", max_completion_tokens=10, **more) for more in ({}, prediction))

    assert predicted.output - plain.output > 500


def test_agents_that_the_upstream_hosts_are_unbounded(bound):
    agents = {"enabled": True, "max_concurrent_subagents": 50}

    assert (
        "the tool multi_agent takes" in bound(RESPONSES, "gpt-5", multi_agent=agents, max_output_tokens=9).unbounded
    )
    assert bound(RESPONSES, "gpt-5", multi_agent={"enabled": False}, max_output_tokens=9).unbounded is None


@pytest.mark.parametrize(
    "members",
    [
        {"reasoning": {"mode": "pro", "effort": "low"}},
        {"reasoning": {"mode": "ultra"}},
        {"input": [{"type": "configuration_update", "reasoning": {"mode": "pro"}}]},
    ],
)
def test_a_mode_in_which_a_model_works_more_is_unbounded_and_held_for_as_much(bound, members):
    usual = {"max_output_tokens": 1000, "default_tier": "default", "reasoning": {"mode": "standard"}}
    standard, pro = (bound(RESPONSES, "gpt-5.6", **usual | more) for more in ({}, members))

    assert standard.unbounded is None
    assert "as often as it likes" in pro.unbounded
    assert pro.tokens > 12 * 1000 > 2 * standard.tokens
    assert pro.cost > 12 * 1000 * 20
    assert pro.likely_tokens > 6 * 1000
    assert pro.likely_cost > 6 * 1000 * 20
    assert pro.output_that_fits(10**9) is None


def test_what_compacts_while_it_writes_is_unbounded(bound):
    compacting = [{"type": "compaction", "compact_threshold": 1000}]

    assert "read more than once" in bound(RESPONSES, "gpt-5", context_management=compacting).unbounded


def test_the_fee_of_a_call_is_part_of_both_figures(bound):
    plain = bound(CHAT, "gpt-4o-search-preview", max_tokens=1)

    assert plain.likely_cost >= 25_000
    assert plain.cost >= 25_000


def test_an_assistant_may_use_tools_of_its_own(bound):
    assert bound(RUNS, "gpt-5", stream=True).unbounded


def test_a_response_of_a_session_may_read_all_that_the_model_can(bound):
    figures = bound(REALTIME, "gpt-realtime", max_output_tokens=100)

    assert figures.tokens == 32_000 + 100
    assert figures.cost == 32_000 * 4 + 100 * 64
    assert "begins responses by itself" in figures.unbounded


# Tiers, and prices above a line.


@pytest.mark.parametrize(
    ("members", "default_tier", "tier"),
    [
        ({"service_tier": "flex"}, None, "flex"),
        ({"service_tier": "flex"}, "priority", "flex"),
        ({"service_tier": "priority"}, None, "priority"),
        ({"service_tier": "fast"}, None, "priority"),
        ({"service_tier": "default"}, None, None),
        ({"service_tier": "scale"}, None, None),
        ({"service_tier": "auto"}, "flex", "flex"),
        ({}, "flex", "flex"),
        ({}, None, "priority"),
        ({"service_tier": "auto"}, None, "priority"),
        ({"service_tier": 5}, None, "priority"),
    ],
)
def test_a_call_is_bound_at_the_tier_it_asks_for_or_the_dearest(bound, prices, members, default_tier, tier):
    size = read(model="o3", max_tokens=1000, **members).size

    figures = bound(CHAT, "o3", max_tokens=1000, default_tier=default_tier, **members)

    assert figures.cost == cost(prices.find("o3"), Usage(size, 0, 1000), tier)


@pytest.mark.parametrize("tier", ["ultrafast", "no-such", "Flex"])
def test_a_tier_that_may_be_dearer_and_has_no_price_is_told(bound, tier):
    with pytest.raises(NotPriced, match="o3 has no price for the service_tier"):
        bound(CHAT, "o3", max_tokens=1000, service_tier=tier)


def test_a_projects_tier_without_a_price_is_bound_by_the_dearest_that_has_one(bound):
    dearest, priority = (bound(CHAT, "o3", default_tier=tier).cost for tier in ("ultrafast", "priority"))

    assert dearest == priority


def test_above_the_line_all_costs_more(bound):
    below, above = (
        bound(CHAT, "gpt-5.4", messages="x" * size, max_tokens=1, default_tier="default")
        for size in (270_000, 273_000)
    )

    assert below.cost < 270_300 * 2.5
    assert above.cost > 273_000 * 5


def test_tokens_that_are_written_to_the_cache_have_their_price(bound):
    usual, kept = (
        bound(CHAT, "gpt-5.6", messages="x" * 1000, max_tokens=1, default_tier="default", **more)
        for more in ({"prompt_cache_key": "k"}, {"prompt_cache_retention": "12h"})
    )

    assert 5_000 < usual.cost < 6_000
    assert 10_000 < kept.cost < 12_000


# Models that nobody priced.


def test_a_model_without_a_row_has_tokens_and_no_cost():
    figures = bounds(CHAT, read(model="x", max_tokens=10), None)

    assert (figures.cost, figures.likely_cost) == (0, 0)
    assert figures.tokens == read(model="x", max_tokens=10).size + 10
    assert figures.unbounded is None


@pytest.mark.parametrize(
    ("members", "tokens"),
    [({}, ASSUMED_MAX_OUT), ({"max_tokens": 5, "previous_response_id": "x"}, ASSUMED_MAX_IN)],
)
def test_a_row_without_a_most_gives_no_bound(sheet, members, tokens):
    prices = Prices(sheet, read_overlay('[model."llama3"]\nin = 0.10\nout = 0.20'))

    figures = bounds(CHAT, read(model="llama3", **members), prices.find("llama3"))

    assert "nobody said how much" in figures.unbounded
    assert tokens < figures.tokens < tokens + 100


def test_what_has_no_price_is_told(sheet):
    prices = Prices(sheet, read_overlay('[model."x"]\nin = 0.10'))

    with pytest.raises(NotPriced, match="no price for out"):
        bounds(CHAT, read(model="x", max_tokens=5), prices.find("x"))


# What is not text.


def test_embeddings_are_bound_by_their_bytes(bound):
    size = read(model="text-embedding-3-large", input="x" * 10_000).size
    figures = bound(EMBEDDINGS, "text-embedding-3-large", input="x" * 10_000)

    assert (figures.tokens, figures.likely_tokens) == (size, -(-size // 4))
    assert figures.cost == of(size * 130_000)


def test_speech_is_billed_by_its_characters(bound):
    figures = bound(SPEECH, "tts-1", input="é" * 1000)

    assert (figures.cost, figures.likely_cost) == (15_000, 15_000)


def test_speech_that_is_billed_by_tokens_is_bound_by_slow_speech(bound):
    figures = bound(SPEECH, "gpt-4o-mini-tts", input="x" * 1000)

    assert figures.tokens - read(model="gpt-4o-mini-tts", input="x" * 1000).size == 16_200
    assert figures.likely_cost < figures.cost


@pytest.mark.parametrize(
    ("model", "most", "likely"), [("whisper-1", 600_000, 75_000), ("gpt-4o-transcribe", 600_000 * 3.2, 75_000 * 3.2)]
)
def test_transcription_is_bound_by_the_slowest_sound(prices, model, most, likely):
    reading = Reading({"model": model}, frozenset({model}), 3_000_200, Parts(audio_chars=3_000_000))

    figures = bounds(TRANSCRIPTIONS, reading, prices.find(model))

    assert 0.9 * most <= figures.cost <= 1.3 * most
    assert 0.9 * likely <= figures.likely_cost <= 1.3 * likely


@pytest.mark.parametrize(
    ("members", "micro"),
    [
        ({"quality": "low", "size": "1024x1024"}, 11_000),
        ({"quality": "low"}, 16_000),
        ({"size": "1024x1024"}, 167_000),
        ({}, 250_000),
        ({"quality": "auto", "size": "auto"}, 250_000),
        ({"quality": "low", "size": "1024x1024", "n": 3}, 33_000),
        ({"quality": "low", "size": "1024x1024", "partial_images": 2}, 11_000 + 200 * 40),
    ],
)
def test_images_are_bound_by_the_dearest_of_their_size_and_quality(bound, members, micro):
    words = read(model="gpt-image-1", prompt="x", **members).size * 5

    assert bound(IMAGES, "gpt-image-1", prompt="x", **members).cost == micro + words


def test_images_that_are_edited_are_read(prices):
    reading = Reading({"model": "gpt-image-1"}, frozenset(), 100_000, Parts(inline=2, inline_chars=99_900))

    figures = bounds(EDITS, reading, prices.find("gpt-image-1"))

    assert figures.cost == 250_000 + 100 * 5 + 2 * 50_000 * 10


def test_images_that_are_edited_and_lie_elsewhere_are_read(bound):
    elsewhere, inline = [{"image_url": "https://x"}, {"file_id": "f"}], [{"image_url": "data:x," + "A" * 10_000}]

    assert bound(EDITS, "gpt-image-1", images=elsewhere).cost > 250_000 + 2 * 50_000 * 10
    assert bound(EDITS, "gpt-image-1", images=inline).likely_cost < 250_000 + 2000 * 10


def test_images_without_a_price_a_piece_are_unbounded(bound):
    figures = bound(IMAGES, "gpt-image-2.6-flare", prompt="x")

    assert "images cost a piece" in figures.unbounded
    assert figures.cost > 16_000 * 30


@pytest.mark.parametrize(
    ("members", "micro"),
    [
        ({"seconds": "8", "size": "1280x720"}, 2_400_000),
        ({"seconds": 8, "size": "1024x1792"}, 4_000_000),
        ({"size": "1280x720"}, 1_200_000),
        ({"seconds": "8"}, 5_600_000),
    ],
)
def test_videos_are_billed_by_the_second(bound, members, micro):
    assert bound(VIDEOS, "sora-2-pro", **members).cost == micro


@pytest.mark.parametrize("route", [route for route in ROUTES if route.kind == "free"][:5])
def test_what_is_free_has_no_figures(bound, route):
    assert bound(route, "gpt-5", messages="x" * 1000) == Bounds()


# What would fit.


def test_a_call_that_is_too_big_is_told_what_would_fit(bound):
    figures = bound(RESPONSES, "gpt-5", default_tier="default")

    fitting = figures.output_that_fits(400_000)

    assert bound(RESPONSES, "gpt-5", max_output_tokens=fitting - 50, default_tier="default").cost <= 400_000
    assert bound(RESPONSES, "gpt-5", max_output_tokens=fitting + 50, default_tier="default").cost > 400_000


def test_where_nothing_fits_nothing_is_told(bound):
    assert bound(RESPONSES, "gpt-5").output_that_fits(0) is None
    assert bound(RESPONSES, "gpt-5", tools=[{"type": "mcp"}]).output_that_fits(10**9) is None
    assert bound(EMBEDDINGS, "text-embedding-3-small").output_that_fits(10**9) is None


# All of it: no usage that a request can have costs more than its bound.

MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5.4", "gpt-5.6", "o3", "gpt-audio", "gpt-4.1", "gpt-3.5-turbo"]
TIERS = [None, "default", "flex", "priority", "auto"]


@given(
    st.sampled_from(MODELS),
    st.sampled_from(TIERS),
    st.sampled_from([None, 1, 100, 10**6]),
    st.integers(1, 3),
    st.integers(0, 1_200_000),
    st.tuples(*[st.floats(0, 1)] * 5),
    st.sampled_from([None, "flex", "priority", "batch", "default"]),
)
def test_no_usage_costs_more_than_its_bound(prices, model, tier, asked, n, size, shares, served):
    assume(tier in (None, "auto") or (served == tier and prices.find(model).knows(tier)))
    members = {"model": model, "n": n, **({"service_tier": tier} if tier else {})}
    members |= {} if asked is None else {"max_tokens": asked}
    row = prices.find(model)
    figures = bounds(CHAT, Reading(members, frozenset(), size, Parts()), row)

    most_in, most_out = min(size, row.max_in), n * min(asked or row.max_out, row.max_out)
    tokens_in = int(shares[0] * most_in)
    cached = int(shares[1] * tokens_in)
    extras = Extras(cache_write=int(shares[2] * (tokens_in - cached)))
    usage = Usage(tokens_in, cached, int(shares[3] * most_out), extras=extras)
    assert cost(row, usage, served) <= figures.cost
    assert tokens_in + usage.output <= figures.tokens
    assert figures.likely_cost <= figures.cost
    assert figures.likely_tokens <= figures.tokens
    assert figures.unbounded is None
