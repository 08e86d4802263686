"""What a call is charged, by what it told; and what is charged nothing, or nothing that anybody could tell."""

import pytest

from llmproxy.limits.charge import FREE, UNKNOWN, UNPRICED, Charge, charge, charge_untold, is_free
from llmproxy.limits.cost import BeyondReason

MILLION = 10**6


def charged(prices, told, *, model="gpt-5", endpoint="/v1/responses", tier=None, project=""):
    return charge(prices, model=model, project=project, endpoint=endpoint, told=told, tier=tier)


def untold(prices, told, *, model="gpt-5", endpoint="/v1/responses", method="POST"):
    return charge_untold(prices, model=model, project="", endpoint=endpoint, method=method, told=told)


def test_tokens_that_were_told_are_charged(prices):
    assert charged(prices, {"prompt_tokens": 1_000, "completion_tokens": 100}) == Charge(2_250, "reported")


def test_the_tier_is_the_one_that_the_response_told(prices):
    assert charged(prices, {"prompt_tokens": MILLION}, model="o3", tier="priority").microdollars == 3_500_000


@pytest.mark.parametrize(
    ("endpoint", "told"), [("/v1/batches/batch_1", {}), ("/v1/responses", {"completion_window": "24h"})]
)
def test_a_batch_is_charged_as_one_whatever_its_tier(prices, endpoint, told):
    usage = {"prompt_tokens": MILLION, "completion_tokens": MILLION, **told}

    assert charged(prices, usage, model="o3", endpoint=endpoint, tier="default").microdollars == 5 * MILLION


@pytest.mark.parametrize("model", ["gpt-9", None])
def test_a_model_without_a_price_is_unpriced(prices, model):
    assert charged(prices, {"prompt_tokens": 1}, model=model) is UNPRICED


def test_a_tool_without_a_price_makes_its_call_unpriced(prices):
    assert charged(prices, {"prompt_tokens": 1, "tool_calls": {"image_generation": 1}}) is UNPRICED


def test_functions_of_callers_need_no_price(prices):
    assert charged(prices, {"prompt_tokens": 1_000, "tool_calls": {"function": 4}}).microdollars == 1_250


def test_a_container_is_charged_without_a_model(prices):
    container = {"tool_calls": {"container_4g": 1}}

    assert untold(prices, container, model=None, endpoint="/v1/containers") == Charge(120_000, "computed")


@pytest.mark.parametrize(
    ("model", "endpoint", "told", "microdollars"),
    [
        ("tts-1", "/v1/audio/speech", {"characters": 1_000}, 15_000),
        ("sora-2", "/v1/videos", {"seconds": 8, "size": "1280x720"}, 800_000),
        ("gpt-image-1", "/v1/images/generations", {"images": 2, "quality": "low", "size": "1024x1024"}, 22_000),
    ],
)
def test_other_units_are_computed(prices, model, endpoint, told, microdollars):
    assert untold(prices, told, model=model, endpoint=endpoint) == Charge(microdollars, "computed")


def test_other_units_without_a_price_are_unpriced(prices):
    assert untold(prices, {"images": 1}, model="dall-e-9", endpoint="/v1/images/generations") is UNPRICED
    assert untold(prices, {"characters": 5}, model="whisper-1", endpoint="/v1/audio/speech") is UNPRICED


def test_a_model_that_is_billed_by_tokens_is_not_unpriced_for_want_of_their_number(prices):
    assert untold(prices, {"images": 1}, model="gpt-image-1", endpoint="/v1/images/generations") is UNKNOWN
    assert untold(prices, {"characters": 5}, model="gpt-4o-mini-tts", endpoint="/v1/audio/speech") is UNKNOWN


def test_a_call_that_told_nothing_has_no_known_price(prices):
    assert untold(prices, {}) is UNKNOWN


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS"])
def test_reading_what_was_made_costs_nothing(prices, method):
    assert untold(prices, {"seconds": 8, "size": "1280x720"}, model="sora-2", method=method) is FREE


@pytest.mark.parametrize(
    ("endpoint", "free"),
    [
        ("/v1/files", True), ("/v1/files/", True), ("/v1/filesystem", False), ("/v1/uploads/u/parts", True),
        ("/v1/moderations", True), ("/v1/batches", True), ("/v1/containers", False), ("/v1/containers/c/files", True),
        ("/v1/responses", False), ("/v1/responses/input_tokens", True), ("/v1/responses/resp_1/cancel", True),
        ("/v1/responses/compact", False), ("/v1/chat/completions", False), ("/v1/chat/completions/c1", True),
        ("/v1/realtime", False), ("/v1/realtime/client_secrets", True),
        ("/v1/realtime/translations", False), ("/v1/realtime/translations/client_secrets", True),
        ("/v1/images/edits", False),
    ],
)  # fmt: skip
def test_what_costs_nothing_is_told_by_the_path(endpoint, free):
    assert is_free(endpoint) is free


@pytest.mark.parametrize(
    ("told", "is_clamped"),
    [
        ({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 100}}, False),
        ({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 10**6}}, True),
        ({"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}}, True),
        ({"prompt_tokens": 100, "prompt_tokens_details": {"audio_tokens": 101}}, True),
        ({"prompt_tokens": 100, "prompt_tokens_details": {"audio_tokens": 50}}, False),
    ],
)
def test_counts_that_cannot_be_are_noticed(prices, told, is_clamped):
    assert charged(prices, told).is_clamped is is_clamped


def test_a_cost_beyond_reason_is_none(prices):
    with pytest.raises(BeyondReason):
        charged(prices, {"prompt_tokens": 2**53})
