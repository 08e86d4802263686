"""Claims and settlements of tokens with rules or meters, on whichever database the run has chosen."""

import time
from collections import Counter
from datetime import timedelta

import gevent
import pytest
from sqlalchemy import delete

from llmproxy.admission import utc_now
from llmproxy.limits.periods import NEVER_US, US_PER_S, period_ends
from llmproxy.limits.reservations import Charge, Settlement
from models import Meter, Project, Token, new_id
from tests.ruled_token import PROJECT, cost

DAY_US = 86_400 * US_PER_S


def now_us() -> int:
    return time.time_ns() // 1000


def numbers(meter: Meter) -> tuple[int, int, int, int]:
    return meter.spent, meter.reserved, meter.bounds, meter.mean


# The plain claim, and the look.


@pytest.mark.parametrize("table", [Token, Project])
def test_a_token_with_rules_is_not_claimed_as_a_plain_one(bench, table):
    bench.change(Token, is_ruled=False)
    assert bench.store.claim(bench.token_hash, utc_now())

    bench.change(table, is_ruled=True)

    assert bench.store.claim(bench.token_hash, utc_now()) is None
    assert bench.token().request_count == 1


def test_the_look_at_a_plain_token_finds_no_rules(bench):
    bench.change(Token, is_ruled=False)

    assert bench.store.state(bench.token_hash).ruled is None


def test_the_look_finds_rules_versions_and_meters(bench):
    token_id = bench.token().id
    mine = bench.add_meter(
        token_id=token_id, name="mine", models="gpt-5,gpt-4*", spent=5, period="week", zone="Asia/Tokyo"
    )
    its = bench.add_meter(name="its", unit="tokens", period="minute", reserve="bound")
    bench.change(Token, rules={"models": ["gpt-5"]}, rules_version=3, in_flight=2)
    bench.change(Project, default_tier="flex", rules_version=4)

    look = bench.store.state(bench.token_hash).ruled

    assert (look.version, look.project_version, look.in_flight) == (3, 4, 2)
    assert (look.rules.replace(" ", ""), look.project_rules) == ('{"models":["gpt-5"]}', None)
    assert (look.project_name, look.default_tier) == ("a project", "flex")
    assert {meter.id: meter.name for meter in look.meters} == {mine: "mine", its: "its"}
    [first] = [meter for meter in look.meters if meter.id == mine]
    assert first[2:] == ("usd", "gpt-5,gpt-4*", "week", "Asia/Tokyo", "likely", 1_000_000, 5, 0, 0, 0, 0)
    assert abs(look.database_us(time.monotonic()) - now_us()) < 5 * US_PER_S


def test_the_look_finds_no_meters_of_other_tokens_and_projects(bench):
    other = "0c7f6f5f-46a5-4c3e-9c5a-f3f9d3f52b11"
    bench.add_project(id=other, name="another")
    bench.add_meter(project_id=other)
    neighbour = Token(token_hash="b" * 64, project_id=PROJECT, created_at=utc_now(), expires_at=utc_now())
    bench.session.add(neighbour)
    bench.session.commit()
    bench.add_meter(token_id=neighbour.id)

    assert bench.store.state(bench.token_hash).ruled.meters == ()


# The claim.


def test_a_claim_counts_the_request_holds_the_call_and_tells_all_that_it_needs(bench):
    meter = bench.add_meter()
    request_id = new_id()

    grant, verdict = bench.claim(cost(300_000, 100_000), request_id=request_id)

    assert (grant.token_id, grant.project_id, grant.sealed_key) == (bench.token().id, PROJECT, "sealed")
    assert (grant.base_url, grant.stream_usage) == (None, "as-sent")
    assert verdict.is_admitted
    assert numbers(bench.meter(meter)) == (0, 100_000, 300_000, 0)
    assert bench.meter(meter).period_end == period_ends("day", "UTC", now_us())[0]
    token, row = bench.token(), bench.rows()[request_id]
    assert (token.request_count, token.in_flight) == (1, 1)
    assert token.window_started_at and token.last_used_at
    assert (row.token_id, row.project_id, row.node, row.worker) == (token.id, PROJECT, "node", "worker")
    assert (row.state, row.holds, row.estimate) == ("held", [[meter, 100_000, 300_000, 100_000]], 100_000)
    assert abs(row.at - now_us()) < 5 * US_PER_S


def test_the_verdict_has_the_meters_as_the_claim_found_them(bench):
    bench.add_meter(spent=7, reserved=1, bounds=2, mean=3, period_end=NEVER_US, period="total")

    _, verdict = bench.claim(cost(10))

    assert verdict.meters[0][7:] == (1_000_000, 7, 1, 2, 3, NEVER_US)
    assert (verdict.in_flight, abs(verdict.now_us - now_us()) < 5 * US_PER_S) == (0, True)


@pytest.mark.parametrize(("spent", "passes"), [(999_999, True), (1_000_000, False)])
def test_a_budget_that_is_used_up_admits_nothing_and_counts_nothing(bench, spent, passes):
    meter = bench.add_meter(spent=spent, period_end=now_us() + US_PER_S * 60)

    grant, verdict = bench.claim(cost(10))

    assert (grant is not None, verdict.is_admitted, verdict.is_stale) == (passes, passes, False)
    assert (bench.token().request_count, bench.token().in_flight) == (int(passes), int(passes))
    assert bench.meter(meter).reserved == (10 if passes else 0)
    assert len(bench.rows()) == int(passes)


def test_one_meter_that_refuses_leaves_the_others_as_they_are(bench):
    wide, full = bench.add_meter(), bench.add_meter(amount=0)
    requests = bench.add_meter(unit="requests")

    grant, verdict = bench.claim(cost(10))

    assert grant is None
    assert [numbers(bench.meter(meter)) for meter in (wide, full, requests)] == [(0, 0, 0, 0)] * 3
    assert {meter.id for meter in verdict.meters} == {wide, full, requests}


def test_a_call_on_rates_and_requests_counts_at_once_and_holds_nothing(bench):
    rate = bench.add_meter(unit="tokens", period="minute")
    requests = bench.add_meter(unit="requests", period="hour")
    request_id = new_id()

    bench.claim(cost(300, 100), request_id=request_id)

    assert numbers(bench.meter(rate)) == (100, 0, 0, 0)
    assert numbers(bench.meter(requests)) == (1, 0, 0, 0)
    assert bench.rows()[request_id].holds == [[rate, 0, 0, 100]]


def test_a_call_on_which_nothing_is_to_be_settled_leaves_no_reservation(bench):
    requests, budget = bench.add_meter(unit="requests"), bench.add_meter()

    grant, _ = bench.claim(cost(0))

    assert grant
    assert (bench.meter(requests).spent, numbers(bench.meter(budget))) == (1, (0, 0, 0, 0))
    assert (bench.rows(), bench.token().in_flight, bench.token().request_count) == ({}, 0, 1)


def test_a_token_with_rules_alone_is_counted(bench):
    grant, _ = bench.claim(cost(100))

    assert grant
    assert (bench.rows(), bench.token().request_count, bench.token().in_flight) == ({}, 1, 0)


@pytest.mark.parametrize(
    ("columns", "bound", "passes"),
    [
        ({"reserve": "bound", "bounds": 600_000}, 400_000, True),
        ({"reserve": "bound", "bounds": 600_000}, 400_001, False),
        ({"reserve": "bound"}, 1_000_001, False),
        ({"reserve": "likely", "bounds": 9_500_000, "reserved": 1}, 500_000, True),
        ({"reserve": "likely", "bounds": 9_500_000, "reserved": 1}, 500_001, False),
        ({"reserve": "likely"}, 10**12, True),
    ],
)
def test_the_bound_is_looked_at(bench, columns, bound, passes):
    bench.add_meter(**columns)

    assert (bench.claim(cost(bound, 1))[0] is not None) is passes


def test_a_call_is_held_for_three_times_the_mean(bench):
    meter = bench.add_meter(mean=10_000)

    bench.claim(cost(500_000, 100))

    assert bench.meter(meter).reserved == 30_000


@pytest.mark.parametrize(("in_flight", "passes"), [(1, True), (2, False)])
def test_no_more_calls_run_at_a_time_than_may(bench, in_flight, passes):
    bench.change(Token, in_flight=in_flight)

    grant, verdict = bench.claim(cost(0), concurrency=2)

    assert (grant is not None, verdict.is_stale, verdict.in_flight) == (passes, False, in_flight)
    assert bench.token().in_flight == 2
    assert len(bench.rows()) == int(passes)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Token, {"is_active": False}),
        (Project, {"is_active": False}),
        (Token, {"expires_at": utc_now() - timedelta(hours=1)}),
        (Token, {"rules_version": 1}),
        (Project, {"rules_version": 1}),
        (Project, {"name": "another"}),
        (Project, {"default_tier": "priority"}),
        (Token, {"rate_limit": 0, "window_started_at": utc_now(), "request_count": 0}),
    ],
)
def test_what_changed_since_the_look_refuses_the_claim(bench, table, values):
    meter = bench.add_meter()
    look = bench.store.state

    def look_and_change(token_hash):
        found = look(token_hash)
        bench.change(table, **values)
        return found

    bench.store.state = look_and_change
    grant, verdict = bench.claim(cost(10))

    assert (grant, verdict.is_stale) == (None, True)
    assert numbers(bench.meter(meter)) == (0, 0, 0, 0)


def test_a_meter_that_was_deleted_since_the_look_refuses_the_claim(bench):
    bench.add_meter()
    kept = bench.add_meter()
    look = bench.store.state

    def look_and_delete(token_hash):
        found = look(token_hash)
        bench.session.execute(delete(Meter).where(Meter.id != kept))
        bench.session.commit()
        return found

    bench.store.state = look_and_delete
    grant, verdict = bench.claim(cost(10))

    assert (grant, verdict.is_stale) == (None, True)
    assert numbers(bench.meter(kept)) == (0, 0, 0, 0)


def test_the_hourly_limit_holds_for_ruled_tokens_too(bench):
    bench.change(Token, rate_limit=3)

    passed = [bench.claim(cost(0))[0] is not None for _ in range(5)]

    assert passed == [True] * 3 + [False] * 2
    bench.change(Token, window_started_at=utc_now() - timedelta(hours=1))
    assert bench.claim(cost(0))[0] is not None
    assert bench.token().request_count == 1


def test_a_claim_that_is_sent_again_counts_once(bench):
    meter = bench.add_meter()
    request_id = new_id()

    first, again = (bench.claim(cost(100), request_id=request_id)[0] for _ in range(2))

    assert first and again
    assert numbers(bench.meter(meter)) == (0, 100, 100, 0)
    assert (bench.token().request_count, bench.token().in_flight, len(bench.rows())) == (1, 1, 1)


@pytest.mark.sqlite
def test_settlements_that_are_made_together_charge_what_each_would_have(bench):
    mine = bench.add_meter(token_id=bench.token().id)
    its = bench.add_meter(unit="tokens")
    ids = [new_id() for _ in range(5)]
    for request_id in ids[:4]:
        bench.claim(cost(100), request_id=request_id)
    bench.settle(ids[1], 5, 50)
    bench.settle(ids[2], None, state="assumed")

    told = [
        Settlement(ids[0], Charge(10, 20), "settled"),
        Settlement(ids[0], Charge(10, 20), "settled"),  # said twice
        Settlement(ids[1], Charge(10, 20), "settled"),  # already settled
        Settlement(ids[2], Charge(30, 40), "settled"),  # assumed to have cost 100
        Settlement(ids[3], Charge(7, 8), None),
        Settlement(ids[4], Charge(10, 20), "settled"),  # never claimed
    ]
    assert bench.store.settle_together(told) == len(told)

    assert numbers(bench.meter(mine))[:3] == (10 + 5 + 30 + 7, 0, 0)
    assert numbers(bench.meter(its))[:3] == (20 + 50 + 40 + 8, 0, 0)
    assert bench.token().in_flight == 0
    assert {request_id: row.state for request_id, row in bench.rows().items()} == dict.fromkeys(ids[:3], "settled")


# Periods.


@pytest.mark.parametrize(
    ("period", "period_end", "is_over"),
    [
        ("day", -1, True),
        ("day", 0, True),
        ("day", DAY_US // 2, False),
        ("day", DAY_US + 3500 * US_PER_S, False),
        ("day", DAY_US + 3700 * US_PER_S, True),
        ("day", 400 * DAY_US, True),
        ("week", 8 * DAY_US, True),
        ("month", 31 * DAY_US, False),
        ("month", 33 * DAY_US, True),
    ],
)
def test_a_period_that_is_over_or_ends_too_far_ahead_is_replaced_by_the_claim(bench, period, period_end, is_over):
    end = now_us() + period_end
    meter = bench.add_meter(period=period, spent=500, reserved=3, bounds=4, period_end=end)

    bench.claim(cost(10))

    found = bench.meter(meter)
    assert (found.spent, found.reserved, found.bounds) == (0 if is_over else 500, 13, 14)
    assert found.period_end == (period_ends(period, "UTC", now_us())[0] if is_over else end)
    assert (found.last_spent, found.last_end) == ((500, end) if is_over else (0, 0))


def test_a_rate_begins_again_with_its_minute(bench):
    rate = bench.add_meter(unit="tokens", period="minute", spent=500, period_end=now_us() - 1)

    bench.claim(cost(10))

    assert bench.meter(rate).spent == 10
    assert bench.meter(rate).period_end in period_ends("minute", "UTC", now_us() - US_PER_S)


def test_a_total_never_ends(bench):
    meter = bench.add_meter(period="total", spent=10, period_end=NEVER_US)

    bench.claim(cost(10))

    assert (bench.meter(meter).spent, bench.meter(meter).period_end) == (10, NEVER_US)


def test_a_new_total_begins_with_its_first_call(bench):
    meter = bench.add_meter(period="total")

    bench.claim(cost(10))

    assert bench.meter(meter).period_end == NEVER_US


def test_days_are_the_meters_own(bench):
    meter = bench.add_meter(zone="Pacific/Auckland")

    bench.claim(cost(10))

    assert bench.meter(meter).period_end == period_ends("day", "Pacific/Auckland", now_us())[0]


def test_calls_that_are_claimed_and_settled_together_count_as_one_after_another(bench):
    mine = bench.add_meter(amount=100, reserve="bound", token_id=bench.token().id)
    its = bench.add_meter(unit="tokens", amount=1000)
    ids = [new_id() for _ in range(20)]
    claims = [gevent.spawn(bench.claim, cost(10), request_id=request_id) for request_id in ids]
    admitted = [
        request_id
        for request_id, claim in zip(ids, gevent.joinall(claims, raise_error=True), strict=True)
        if claim.value[1].is_admitted
    ]

    assert len(admitted) == 10
    assert numbers(bench.meter(mine))[:3] == (0, 100, 100) and numbers(bench.meter(its))[:3] == (0, 100, 100)
    ends = [gevent.spawn(bench.settle, request_id, 7, 9) for request_id in admitted]
    gevent.joinall(ends, raise_error=True)
    assert numbers(bench.meter(mine))[:3] == (70, 0, 0) and numbers(bench.meter(its))[:3] == (90, 0, 0)


def test_calls_that_are_claimed_together_pass_as_often_as_the_hour_and_the_concurrency_allow(bench):
    bench.change(Token, rate_limit=7)
    bench.add_meter()
    claims = [gevent.spawn(bench.claim, cost(10), request_id=new_id(), concurrency=5) for _ in range(20)]
    gevent.joinall(claims, raise_error=True)

    assert Counter(claim.value[0] is not None for claim in claims) == {True: 5, False: 15}
    assert (bench.token().request_count, bench.token().in_flight) == (5, 5)
    ends = [gevent.spawn(bench.settle, request_id, 7) for request_id in bench.rows()]
    more = [gevent.spawn(bench.claim, cost(10), request_id=new_id()) for _ in range(20)]
    gevent.joinall([*ends, *more], raise_error=True)
    assert Counter(claim.value[0] is not None for claim in more) == {True: 2, False: 18}
    assert (bench.token().request_count, bench.token().in_flight) == (7, 2)


def test_a_call_is_paid_by_the_period_in_which_it_is_settled(bench):
    meter = bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100, 40), request_id=request_id)
    bench.change(Meter, spent=77, period_end=(ended := now_us() - 1))

    bench.settle(request_id, 50)

    assert numbers(bench.meter(meter)) == (50, 0, 0, 1)
    assert (bench.meter(meter).last_spent, bench.meter(meter).last_end) == (77, ended)
    assert bench.meter(meter).period_end == period_ends("day", "UTC", now_us())[0]


# The settlement.


def test_a_settlement_charges_the_cost_and_lets_the_hold_go(bench):
    meter = bench.add_meter(spent=5, period_end=now_us() + 60 * US_PER_S)
    request_id = new_id()
    bench.claim(cost(10_000, 4_000), request_id=request_id)

    assert bench.settle(request_id, 3_200)

    assert numbers(bench.meter(meter)) == (3_205, 0, 0, 100)
    assert (bench.token().in_flight, bench.rows()[request_id].state) == (0, "settled")


def test_tokens_are_charged_to_meters_of_tokens(bench):
    usd, tokens = bench.add_meter(), bench.add_meter(unit="tokens", period="month")
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)

    bench.settle(request_id, 7, tokens=42)

    assert (bench.meter(usd).spent, bench.meter(tokens).spent) == (7, 42)


@pytest.mark.parametrize(
    ("first", "second", "spent", "state"),
    [
        (("settled", 50), ("settled", 70), 50, "settled"),
        (("settled", 50), ("assumed", None), 50, "settled"),
        (("settled", 50), (None, 70), 50, None),
        (("assumed", None), ("assumed", None), 40, "assumed"),
        (("assumed", None), ("settled", 70), 70, "settled"),
        (("assumed", None), (None, 10), 10, None),
        ((None, 30), ("settled", 70), 30, None),
        ((None, None), (None, None), 40, None),
        (("settled", 0), ("settled", 70), 0, "settled"),
    ],
)
def test_nothing_is_charged_twice_whoever_comes_first(bench, first, second, spent, state):
    meter = bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100, 40), request_id=request_id)

    for target, told in (first, second):
        bench.settle(request_id, told, told, target)

    assert numbers(bench.meter(meter))[:3] == (spent, 0, 0)
    assert bench.token().in_flight == 0
    assert bench.rows()[request_id].state == state if state else bench.rows() == {}


def test_a_settlement_of_nobody_changes_nothing(bench):
    meter = bench.add_meter(spent=5, period_end=now_us() + 60 * US_PER_S)

    assert not bench.settle(new_id(), 100)

    assert numbers(bench.meter(meter)) == (5, 0, 0, 0)


def test_a_claim_of_unknown_outcome_is_released(bench):
    meter = bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)

    assert bench.release(request_id)

    assert numbers(bench.meter(meter)) == (0, 0, 0, 0)
    assert bench.token().in_flight == 0


def test_a_token_that_is_gone_does_not_keep_its_projects_meters_from_being_settled(bench):
    its = bench.add_meter()
    bench.add_meter(token_id=bench.token().id)
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)
    bench.session.execute(delete(Token))
    bench.session.commit()

    assert bench.settle(request_id, 70)

    assert numbers(bench.meter(its))[:3] == (70, 0, 0)
    assert bench.session.query(Meter).count() == 1


def test_a_meter_that_is_gone_does_not_keep_the_others_from_being_settled(bench):
    kept, gone = bench.add_meter(), bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)
    bench.session.execute(delete(Meter).where(Meter.id == gone))
    bench.session.commit()

    assert bench.settle(request_id, 70)

    assert numbers(bench.meter(kept))[:3] == (70, 0, 0)
    assert bench.token().in_flight == 0


def test_a_rate_is_corrected_at_the_end_of_the_call(bench):
    rate = bench.add_meter(unit="tokens", period="hour")
    request_id = new_id()
    bench.claim(cost(300, 100), request_id=request_id)

    bench.settle(request_id, 0, tokens=30)

    assert numbers(bench.meter(rate)) == (30, 0, 0, 0)


def test_a_rate_forgets_what_was_before_its_minute(bench):
    rate = bench.add_meter(unit="tokens", period="minute")
    request_id = new_id()
    bench.claim(cost(300, 100), request_id=request_id)
    bench.change(Meter, spent=50, period_end=bench.meter(rate).period_end + 60 * US_PER_S)

    bench.settle(request_id, 0, tokens=30)

    assert bench.meter(rate).spent == 50
