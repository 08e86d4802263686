"""The rule of admission, the hold, the mean and the settlement of meters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.meters import Claimed, Meter, admitted, claimed, corrected, mean_after, settled, shortage, turned

USD = Meter("id", "name", "usd", None, "day", "UTC", "likely", amount=5_000_000)
BOUND = USD._replace(reserve="bound")
RATE = USD._replace(unit="tokens", period="minute", amount=1000)
REQUESTS = USD._replace(unit="requests", amount=10)


def call(bound: int, hold: int | None = None) -> Claimed:
    return Claimed(bound if hold is None else hold, bound, 0)


@pytest.mark.parametrize("spent", [0, 4_999_999])
def test_a_meter_never_refuses_while_none_of_its_calls_runs_and_something_is_left(spent):
    assert shortage(USD._replace(spent=spent), call(10**12)) is None


@pytest.mark.parametrize("meter", [USD, BOUND, RATE, REQUESTS])
def test_a_meter_that_is_used_up_refuses(meter):
    assert shortage(meter._replace(spent=meter.amount), call(0)) == "exhausted"


@pytest.mark.parametrize(("hold", "short"), [(1_000_000, None), (1_000_001, "reserved")])
def test_beside_running_calls_what_is_held_must_fit(hold, short):
    busy = USD._replace(spent=3_000_000, reserved=1_000_000, bounds=1_000_000)

    assert shortage(busy, call(hold)) == short


@pytest.mark.parametrize(("bound", "short"), [(46_000_000, None), (46_000_001, "reserved")])
def test_what_all_calls_may_cost_stays_within_ten_times_the_amount(bound, short):
    busy = USD._replace(spent=3_000_000, reserved=1, bounds=1_000_000)

    assert shortage(busy, call(bound, hold=1)) == short


@pytest.mark.parametrize(
    ("spent", "bounds", "bound", "short"),
    [
        (1_000_000, 0, 4_000_000, None),
        (1_000_000, 0, 4_000_001, "too_small"),
        (1_000_000, 3_000_000, 1_000_000, None),
        (1_000_000, 3_000_000, 1_000_001, "reserved"),
        (1_000_000, 1, 4_000_001, "reserved"),
    ],
)
def test_a_meter_that_reserves_the_bound_admits_what_must_fit(spent, bounds, bound, short):
    assert shortage(BOUND._replace(spent=spent, bounds=bounds, reserved=bounds), call(bound)) == short


@pytest.mark.parametrize(
    ("mean", "estimate", "bound", "hold"),
    [(0, 500, 10_000, 500), (1000, 500, 10_000, 3000), (10_000, 500, 10_000, 10_000), (0, 500, 400, 400)],
)
def test_a_call_is_held_for_what_it_is_likely_to_cost_and_never_for_more_than_its_bound(mean, estimate, bound, hold):
    meter = USD._replace(mean=mean)

    assert claimed(meter, bound=bound, estimate=estimate) == Claimed(hold, bound, 0)
    assert claimed(meter._replace(reserve="bound"), bound=bound, estimate=estimate) == Claimed(bound, bound, 0)


def test_rates_and_requests_count_at_admission_and_hold_nothing():
    assert claimed(RATE, bound=900, estimate=300) == Claimed(0, 0, 300)
    assert claimed(REQUESTS, bound=900, estimate=300) == Claimed(0, 0, 1)
    assert not RATE.holds
    assert not REQUESTS.holds
    assert USD.holds


MINUTE_US = 60 * 10**6
IN_MINUTE = RATE._replace(period_end=2 * MINUTE_US)


def test_a_rate_is_corrected_at_the_end_while_its_minute_goes_on():
    running = admitted(IN_MINUTE, Claimed(0, 0, 300))

    assert settled(running, Claimed(0, 0, 300), 120, at_us=MINUTE_US).spent == 120
    assert settled(running, Claimed(0, 0, 300), 120, at_us=MINUTE_US - 1) == running


def test_a_rate_that_was_reset_meanwhile_is_not_brought_below_nothing():
    assert settled(IN_MINUTE, Claimed(0, 0, 300), 120, at_us=MINUTE_US).spent == 0


def test_a_request_stays_counted():
    running = admitted(REQUESTS, Claimed(0, 0, 1))

    assert settled(running, Claimed(0, 0, 1), 10**6, at_us=0).spent == 1


def test_what_was_assumed_is_replaced_by_what_was_told():
    assert corrected(USD._replace(spent=500, mean=7), 300, 120, at_us=0) == USD._replace(spent=320, mean=7)
    assert corrected(USD._replace(spent=100), 300, 120, at_us=0).spent == 0


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20))
def test_when_all_calls_have_ended_nothing_is_held_and_all_is_spent(calls):
    meter, running = USD._replace(amount=10**15), []
    for estimate, bound, cost in calls:
        one = claimed(meter, bound=bound, estimate=estimate)
        meter = admitted(meter, one)
        running.append((one, cost))
    for one, cost in running:
        meter = settled(meter, one, cost, at_us=0)

    assert (meter.reserved, meter.bounds, meter.spent) == (0, 0, sum(cost for *_, cost in calls))


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_mean_moves_towards_the_cost_and_not_beyond(mean, cost):
    after = mean_after(mean, cost)

    assert min(mean, cost) <= after <= max(mean, cost)
    assert abs(after - mean) == abs(cost - mean) // 32


def test_a_first_dear_call_moves_the_mean_by_a_thirty_second():
    assert settled(USD, call(0), 3_200, at_us=0).mean == 100


NOW = 1_800_000_000 * 10**6
DAY_US = 86_400 * 10**6
ENDS = NOW + DAY_US // 2, NOW + DAY_US * 3 // 2


@pytest.mark.parametrize("period_end", [NOW + 1, ENDS[0], NOW + DAY_US + 3600 * 10**6])
def test_a_period_that_goes_on_is_left_alone(period_end):
    meter = USD._replace(spent=7, period_end=period_end)

    assert turned(meter, NOW, ENDS) is meter


@pytest.mark.parametrize("period_end", [0, NOW - 1, NOW, NOW + DAY_US + 3600 * 10**6 + 1, NOW + 400 * DAY_US])
def test_a_period_that_is_over_or_ends_too_far_ahead_is_replaced(period_end):
    meter = USD._replace(spent=7, reserved=5, bounds=6, mean=3, period_end=period_end)

    assert turned(meter, NOW, ENDS) == meter._replace(spent=0, period_end=ENDS[0])


def test_a_clock_that_is_past_the_end_it_was_told_takes_the_one_after():
    assert turned(USD, ENDS[0], ENDS).period_end == ENDS[1]
    assert turned(USD, ENDS[0] - 1, ENDS).period_end == ENDS[0]
