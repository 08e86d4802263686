"""Two servers in turn: rounds, and intervals over them."""

import random

import pytest

from benchmark.figures.comparison import STATISTICS, comparison, in_turn, joined, rounds_of
from benchmark.load.usage import Tokens
from tests.benchmark.samples import plan, run_of, sample, stream


@pytest.mark.parametrize(
    ("requests", "users", "sizes"), [(43, 2, [5] * 3 + [4] * 7), (25, 10, [13, 12]), (5, 5, [5])]
)
def test_rounds_are_together_the_plan_and_each_has_work_for_every_user(requests, users, sizes):
    assert [one.requests for one in rounds_of(plan(requests=requests, concurrency=users))] == sizes


def test_rounds_are_strangers_to_each_other():
    rounds = rounds_of(plan(rate=9.0, arrivals="poisson"))

    assert len({one.seed for one in rounds}) == len(rounds) == 10


def test_rounds_swap_their_order():
    assert list(in_turn(3)) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def test_an_interval_holds_the_true_difference_and_leaves_zero_out():
    dice = random.Random(5)
    slow = [run_of([sample(dice.gauss(30, 3)) for _ in range(400)]) for _ in range(10)]
    fast = [run_of([sample(dice.gauss(20, 3)) for _ in range(400)]) for _ in range(10)]
    found = comparison(slow, fast)

    for name in ("average_latency_ms", "p50_latency_ms"):
        low, high = found[name]["difference_interval_ms"]
        assert 9 < low < 10 < high < 11
        assert found[name]["ratio_interval"][0] < 1.5 < found[name]["ratio_interval"][1]


def test_rounds_that_differ_make_a_wider_interval_than_their_requests_would():
    slow = [run_of([sample(20.0 + 10 * (number % 2))] * 100) for number in range(10)]
    steady = [run_of([sample(20.0)] * 100) for _ in range(10)]
    low, high = comparison(slow, steady)["average_latency_ms"]["difference_interval_ms"]

    assert low <= 2 and high >= 8


def test_one_round_or_no_answer_has_no_interval():
    one, failed = [run_of([sample(10)])], [run_of([sample(10, cause="500")])]

    assert comparison(one, one)["p50_latency_ms"]["ratio_interval"] is None
    assert comparison(one, failed) == dict.fromkeys(["average_latency_ms", "p50_latency_ms", "p99_latency_ms"])


def test_of_streams_the_times_of_tokens_are_compared_too():
    slow = [run_of([stream(60, 20, Tokens(9, 11))] * 20)] * 5
    fast = [run_of([stream(40, 10, Tokens(9, 11))] * 20)] * 5
    found = comparison(slow, fast)

    assert list(found) == list(STATISTICS)
    assert (found["ttft_p50_ms"]["difference_ms"], found["tpot_p50_ms"]["ratio"]) == (20, 2)
    assert found["ttft_p99_ms"]["difference_interval_ms"] == [20, 20]


def test_no_time_at_all_has_no_ratio():
    one = [run_of([stream(60, 0, Tokens(9, 11))])] * 5

    assert comparison(one, one)["tpot_p50_ms"] is None


def test_rounds_are_joined_to_one_run_of_their_own_time():
    both = joined([run_of([sample(1)], 2.0), run_of([sample(2)], 3.0)])

    assert (len(both.samples), both.duration_s) == (2, 5.0)
