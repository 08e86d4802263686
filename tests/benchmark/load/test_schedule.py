"""Who sends when, and when a run is over."""

from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from benchmark.load.schedule import Schedule
from tests.benchmark.samples import plan

SECOND = 1_000_000_000


def gaps_ms(**changes) -> list[float]:
    """Between the turns of a thousand requests, whose times have all come."""
    schedule = Schedule(plan(requests=1001, rate=1000.0, **changes))
    turns = [schedule.take() for _ in range(1001)]
    return [(later - earlier) / 1e6 for earlier, later in pairwise(turns)]


@pytest.mark.parametrize(("duration_s", "end_s"), [(None, 2), (1.0, 2), (3.0, 3)])
def test_a_run_is_over_with_its_last_answer_and_not_before_the_time_that_was_asked_for(duration_s, end_s):
    schedule = Schedule(plan(requests=None if duration_s else 5, duration_s=duration_s))

    # Its clock has not begun: it stands at zero.
    assert schedule.end_ns(2 * SECOND) == end_s * SECOND


def test_even_arrivals_keep_one_distance():
    assert gaps_ms() == pytest.approx([1.0] * 1000, abs=1e-5)


def test_arrivals_of_strangers_have_the_rate_and_the_spread_of_a_poisson_process():
    gaps = gaps_ms(arrivals="poisson")

    assert 0.9 < fmean(gaps) < 1.1 and 0.85 < pstdev(gaps) < 1.15
    # Of exponential gaps 63 % are shorter than their mean.
    assert 0.58 < sum(gap < 1.0 for gap in gaps) / 1000 < 0.68


def test_a_seed_makes_the_same_arrivals_again():
    assert gaps_ms(arrivals="poisson", seed=7) == gaps_ms(arrivals="poisson", seed=7)
    assert gaps_ms(arrivals="poisson", seed=7) != gaps_ms(arrivals="poisson", seed=8)


def test_no_turn_is_given_beyond_the_plan():
    schedule = Schedule(plan(requests=2))

    assert [schedule.take() is None for _ in range(4)] == [False, False, True, True]
