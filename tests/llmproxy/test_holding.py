"""What a call is charged at its end, where its response leaves that open."""

import pytest

from llmproxy.bill import Bill
from llmproxy.holding import Holding, Judged
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.charge import UNKNOWN, UNPRICED, Charge
from llmproxy.limits.meters import Claimed, Meter
from llmproxy.limits.periods import NEVER_US
from llmproxy.limits.price_row import build
from llmproxy.limits.reservations import Charge as Told

METER = Meter("m", "a day", "usd", None, "day", "UTC", "likely", 10**6, spent=300_000, period_end=10**15)
# $1 a million tokens in, $2 out: as many micro-dollars a token.
ROW = build("gpt-x", {"in": 10**6, "out": 2 * 10**6}, {}, ())
REASONING = build("gpt-y", {"in": 10**6, "out": 2 * 10**6, "reasons": True}, {}, ())
FIGURES = Bounds(9000, 5000, 400, 250, likely_in=50)
USED = {"prompt_tokens": 100, "completion_tokens": 10}


@pytest.fixture
def ended():
    return []


@pytest.fixture
def holding(ended):
    def make(row=ROW, meter=METER, hold=600, figures=FIGURES):
        judged = Judged(figures, (meter,), row, None, None)
        return Holding("request", judged, [meter], [Claimed(hold, figures.cost, 0)], ended.append)

    return make


def events(holding, count):
    holding.events.feed(b"data: x\n\n" * count)
    return holding


@pytest.mark.parametrize(
    ("row", "seen", "assumed"),
    [
        (ROW, 0, 400),  # the estimate
        (ROW, 1000, 50 + 2000),  # what was seen
        (ROW, 100_000, 9000),  # the bound
        (REASONING, 0, 600),  # the hold
        (REASONING, 1000, 2050),
    ],
)
def test_usage_that_was_not_told_is_assumed(holding, row, seen, assumed):
    billed = events(holding(row), seen).charged(Bill(UNKNOWN))

    assert billed.charge == Charge(assumed, "assumed")


@pytest.mark.parametrize(
    ("reserve", "seen", "assumed"),
    [
        ("likely", 174, 5000),  # the hold, while no more was seen than the estimate
        ("likely", 176, 402),
        ("bound", 176, 5000),  # nobody knows how long it thought
        ("bound", 4000, 8050),
    ],
)
def test_a_model_that_thinks_unseen_is_assumed_to_have_cost_its_hold_until_it_has_written_much(
    holding, reserve, seen, assumed
):
    held = holding(REASONING, METER._replace(reserve=reserve), hold=5000)

    assert events(held, seen).charged(Bill(UNKNOWN)).charge == Charge(assumed, "assumed")


def test_a_told_cost_stays(holding):
    told = Bill(Charge(7, "reported"), USED, "reported")

    assert holding().charged(told) is told


def test_another_model_without_a_price_costs_what_the_one_that_was_asked_for_does(holding):
    billed = holding().charged(Bill(UNPRICED, USED, "reported"))

    assert billed.charge == Charge(120, "reported")


@pytest.mark.parametrize(
    ("used", "assumed"),
    [
        ({"completion_tokens": 10}, 400),  # the estimate
        ({"prompt_tokens": 700}, 700),
        ({"prompt_tokens": 20_000}, 20_000),  # above the bound
    ],
)
def test_what_could_be_read_of_a_usage_is_the_least_that_is_assumed(holding, used, assumed):
    billed = holding().charged(Bill(UNKNOWN, used, "partial"))

    assert billed.charge == Charge(assumed, "assumed")


def test_who_has_no_budget_in_dollars_is_charged_none(holding):
    unknown = Bill(UNKNOWN)

    assert holding(meter=METER._replace(unit="tokens")).charged(unknown) is unknown


@pytest.mark.parametrize(
    ("billed", "is_free", "told"),
    [
        (Bill(Charge(7, "reported"), USED, "reported"), False, Told(7, 110)),
        (Bill(Charge(400, "assumed")), False, Told(400, 250)),
        (Bill(Charge(400, "assumed"), {"prompt_tokens": 9}, "partial"), False, Told(400, 250)),
        (Bill(Charge(400, "assumed"), {"prompt_tokens": 999}, "partial"), False, Told(400, 999)),
        (Bill(Charge(7, "reported"), {"prompt_tokens": 9, "total_tokens": 20}, "partial"), False, Told(7, 20)),
        (Bill(Charge(0, "none")), False, Told(0, 0)),
        (Bill(Charge(9, "stored"), USED, "stored"), False, Told(0, 0)),
        (Bill(Charge(None, None)), True, Told(0, 0)),
    ],
)
def test_the_settlement_says_what_the_bill_does(holding, ended, billed, is_free, told):
    holding().settle(billed, is_free=is_free)

    [settlement] = ended
    assert (settlement.request_id, settlement.charge, settlement.state) == ("request", told, "settled")


@pytest.mark.parametrize(
    ("meter", "headers"),
    [
        (METER, {"x-proxy-budget-remaining": "0.699400", "x-proxy-budget-reset": "2001-09-09T01:46:40Z"}),
        (METER._replace(period="total", period_end=NEVER_US), {"x-proxy-budget-remaining": "0.699400"}),
        (
            METER._replace(spent=10**6),
            {"x-proxy-budget-remaining": "0.000000", "x-proxy-budget-reset": "2001-09-09T01:46:40Z"},
        ),
        (METER._replace(unit="tokens"), {"x-proxy-tokens-remaining": "699400"}),
        (METER._replace(unit="requests"), {}),
    ],
)
def test_the_caller_is_told_what_is_left(holding, meter, headers):
    assert dict(holding(meter=meter).headers()) == headers
