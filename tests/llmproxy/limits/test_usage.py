"""Usage as responses tell it, and counts that cannot be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.usage import Extras, Usage, clamp, usage_of


def test_a_chat_completion_is_read():
    told = {
        "prompt_tokens": 1117,
        "completion_tokens": 46,
        "total_tokens": 1163,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 12, "accepted_prediction_tokens": 0},
    }

    assert usage_of(told) == Usage(1117, 1024, 46, 12)


def test_a_realtime_response_is_read():
    told = {
        "prompt_tokens": 2000,
        "completion_tokens": 1000,
        "prompt_tokens_details": {
            "audio_tokens": 1500,
            "image_tokens": 100,
            "text_tokens": 400,
            "cached_tokens": 1000,
            "cached_tokens_details": {"audio_tokens": 900, "image_tokens": 50, "text_tokens": 50},
        },
        "completion_tokens_details": {"audio_tokens": 800, "text_tokens": 200},
    }

    extras = Extras(audio_in=1500, audio_cached=900, audio_out=800, image_in=100, image_cached=50)
    assert usage_of(told) == Usage(2000, 1000, 1000, extras=extras)


def test_what_was_written_to_the_cache_is_read_with_how_long_it_stays():
    details = {"cache_write_tokens": 80, "cache_write_tokens_details": {"ttl_12h_tokens": 30, "ttl_30m_tokens": 50}}

    assert usage_of({"prompt_tokens": 100, "prompt_tokens_details": details}).extras == Extras(
        cache_write=80, cache_write_12h=30
    )


def test_other_units_come_along():
    told = {"tool_calls": {"web_search": 2}, "images": 1, "quality": "low", "size": "1024x1024", "seconds": 3}
    units = Extras(tools={"web_search": 2}, images=1, quality="low", size="1024x1024", seconds=3)

    assert usage_of(told) == Usage(extras=units)
    assert usage_of(told | {"prompt_tokens": 1, "prompt_tokens_details": {"audio_tokens": 1}}).extras.audio_in == 1


def test_functions_of_the_caller_s_own_are_nothing_to_bill():
    assert usage_of({"prompt_tokens": 1, "tool_calls": {"function": 3, "custom_tool": 1}}).extras is None


def test_a_size_alone_is_no_use():
    assert usage_of({"prompt_tokens": 1, "size": "1024x1024", "quality": "low"}).extras is None


@pytest.mark.parametrize(("seconds", "counted"), [(12, 12), (11.04, 12), (11.0, 11), (float("inf"), 0), ("12", 0)])
def test_seconds_are_whole_and_rounded_up(seconds, counted):
    extras = usage_of({"seconds": seconds}).extras

    assert (extras.seconds if extras else 0) == counted


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"total_tokens": 12}, Usage(12)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}, Usage(20, 0, 603)),
        ({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 100}, Usage(20, 0, 198)),
        ({"prompt_tokens": 20, "total_tokens": 20}, Usage(20)),
        ({"prompt_tokens": 20, "total_tokens": 29}, Usage(20, 0, 9)),
        ({"completion_tokens": 9, "total_tokens": 29}, Usage(20, 0, 9)),
        ({"prompt_tokens": None, "prompt_tokens_details": [], "completion_tokens": True}, Usage()),
    ],
)
def test_tokens_that_only_the_total_has_are_not_free(told, usage):
    assert usage_of(told) == usage


@pytest.mark.parametrize(
    ("told", "clamped"),
    [
        (Usage(100, 10**6, 5), Usage(100, 100, 5)),
        (Usage(100, -1, 5), Usage(100, 0, 5)),
        (Usage(-100, 0, -5), Usage()),
        (Usage(100, 0, 5, reasoning=9), Usage(100, 0, 5, reasoning=5)),
        (Usage(10, extras=Extras(audio_in=8, image_in=8)), Usage(10, extras=Extras(audio_in=8, image_in=2))),
        (
            Usage(10, 4, extras=Extras(audio_in=9, audio_cached=9, cache_write=9, cache_write_12h=9)),
            Usage(10, 4, extras=Extras(audio_in=9, audio_cached=4, cache_write=6, cache_write_12h=6)),
        ),
        (
            Usage(0, 0, 10, extras=Extras(audio_out=8, image_out=8)),
            Usage(0, 0, 10, extras=Extras(audio_out=8, image_out=2)),
        ),
        (
            Usage(extras=Extras(seconds=-1, characters=-1, images=-1, tools={"a": -1, "b": 2})),
            Usage(extras=Extras(tools={"a": 0, "b": 2})),
        ),
    ],
)
def test_parts_are_brought_into_their_wholes(told, clamped):
    assert clamp(told) == clamped


COUNT = st.integers(-100, 10_000)
USAGE = st.builds(Usage, *[COUNT] * 4, extras=st.none() | st.builds(Extras, *[COUNT] * 11))


@given(USAGE)
def test_a_usage_that_can_be_is_left_alone(usage):
    clamped = clamp(usage)

    assert clamp(clamped) is clamped
    assert (clamped is usage) == (clamped == usage)
