"""Figures that count tokens, from samples made by hand."""

import pytest

from benchmark.call import Call
from benchmark.figures.figures import figures
from benchmark.figures.goals import Goals
from benchmark.load.usage import Tokens
from tests.benchmark.samples import TARGET, plan, run_of, sample, stream

STREAMING = Call("/v1/chat/completions", (b"{}",), stream=True)


def test_tokens_are_summed_and_told_per_request_and_second():
    samples = [
        sample(10, tokens=Tokens(100, 20)),
        sample(10, tokens=Tokens(200, 40)),
        sample(10),
        sample(9, cause="500"),
    ]
    found = figures(run_of(samples, 0.5), TARGET, STREAMING, plan())

    assert (found["requests_with_usage"], found["input_tokens"], found["output_tokens"]) == (2, 300, 60)
    assert (found["input_tokens_per_request"], found["output_tokens_per_request"]) == (150, 30)
    assert (found["input_tokens_p50"], found["output_tokens_p90"], found["output_tokens_per_s"]) == (150, 38, 120)


def test_tokens_that_nobody_told_are_null():
    found = figures(run_of([sample(10), sample(10, tokens=Tokens(7, None))]), TARGET, STREAMING, plan())

    assert (found["input_tokens"], found["output_tokens"], found["output_tokens_per_s"]) == (7, None, None)


@pytest.mark.parametrize(
    ("one", "tpot_ms"),
    [
        (stream(100, 20, Tokens(9, 11)), 20),
        (stream(100, 20, Tokens(9, 111, reasoning=100)), 20),  # hidden reasoning was over when the first came
        (stream(100, 20, Tokens(9, 111, reasoning=100), shows_reasoning=True), 20),
        (stream(100, 20, Tokens(9, 1)), None),
        (stream(100, 20, None), None),
        (sample(10, tokens=Tokens(9, 11)), None),
    ],
)
def test_the_time_per_token_is_that_of_the_tokens_after_the_first(one, tpot_ms):
    assert one.tpot_ms == tpot_ms


@pytest.mark.parametrize(
    ("goals", "goodput"),
    [
        (Goals(ttft_ms=100), 0.75),
        (Goals(ttft_ms=99.9), 0.5),
        (Goals(tpot_ms=20), 0.5),
        (Goals(ttft_ms=50, tpot_ms=10), 0.25),
    ],
)
def test_goodput_is_the_share_of_all_requests_within_the_limits(goals, goodput):
    samples = [
        stream(50, 10, Tokens(9, 11)),
        stream(100, 20, Tokens(9, 11)),
        stream(50, 10, None),  # whose time per token nobody knows
        sample(10, cause="timeout"),
    ]
    found = figures(run_of(samples, 2.0), TARGET, STREAMING, plan(), goals)

    assert (found["goodput"], found["goodput_rps"]) == (goodput, goodput * 4 / 2)


def test_a_single_token_is_within_any_time_per_token():
    assert Goals(tpot_ms=1).kept_by(stream(50, 10, Tokens(9, 1)))


def test_an_answer_whose_length_is_unknown_keeps_no_time_per_token():
    assert not Goals(tpot_ms=1).kept_by(sample(10, tokens=Tokens(9, None)))


def test_goodput_by_tokens_that_nobody_told_is_null():
    found = figures(run_of([stream(50, 10, None)]), TARGET, STREAMING, plan(), Goals(tpot_ms=20))

    assert (found["goodput"], found["goodput_rps"]) == (None, None)


def test_without_limits_there_is_no_goodput():
    assert "goodput" not in figures(run_of([stream(50, 10, None)]), TARGET, STREAMING, plan())
