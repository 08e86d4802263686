"""What dead workers hold is assumed; what living, paused or silent ones hold is not."""

from datetime import timedelta

import pytest
from sqlalchemy import event

from database import lease
from database.claims.reaper import LEASE, SILENCE_S, Reaper, _lease_of
from database.claims.workers import Worker
from llmproxy.admission import StoreUnavailable, utc_now
from llmproxy.limits.reservations import Charge, Settlement
from models import new_id
from tests.ruled_token import cost

HERE, ELSEWHERE = new_id(), new_id()
TICK_S = 10.0


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def reaper(bench, database, tmp_path, clock):
    return Reaper(bench.store, database, tmp_path, HERE, now_s=clock)


def hold(bench, **whose) -> str:
    request_id = new_id()
    assert bench.claim(cost(1_000, 300), request_id=request_id, **whose)[0]
    return request_id


def look(reaper, clock, seconds: float) -> int:
    """How many calls it ends in so many seconds."""
    ended = 0
    for _ in range(int(seconds / TICK_S)):
        clock.now_s += TICK_S
        ended += reaper.step(utc_now())
    return ended


def test_what_a_dead_worker_of_this_node_holds_is_assumed_to_have_cost_its_estimate(bench, reaper, tmp_path):
    meter = bench.add_meter(period="total", amount=10**9)
    alive, dead = Worker(tmp_path), Worker(tmp_path)
    running, left = hold(bench, node=HERE, worker=alive.name), hold(bench, node=HERE, worker=dead.name)
    assert reaper.step(utc_now()) == 0

    dead.leave()

    assert reaper.step(utc_now()) == 1
    assert {name: row.state for name, row in bench.rows().items()} == {running: "held", left: "assumed"}
    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (300, 300, 1)
    assert reaper.step(utc_now()) == 0


def test_a_call_that_was_assumed_and_lives_is_settled_at_what_it_cost(bench, reaper):
    meter = bench.add_meter(period="total", amount=10**9)
    request_id = hold(bench, node=HERE, worker="gone")
    reaper.step(utc_now())

    bench.store.settle(Settlement(request_id, Charge(70, 70), "settled"))

    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (70, 0, 0)


def test_a_node_without_others_asks_for_no_leases(bench, reaper, database, tmp_path):
    bench.add_meter()
    hold(bench, node=HERE, worker=Worker(tmp_path).name)
    asked = []
    event.listen(database, "before_cursor_execute", lambda _c, _cur, statement, *_: asked.append(statement))

    reaper.step(utc_now())
    alone = [statement for statement in asked if statement.startswith("SELECT leases")]
    hold(bench, node=ELSEWHERE, worker="w")
    reaper.step(utc_now())

    assert (alone, [statement for statement in asked if statement.startswith("SELECT leases")] != []) == ([], True)


def test_another_node_is_dead_when_its_lease_has_not_moved_for_ten_minutes(bench, reaper, clock):
    bench.add_meter()
    hold(bench, node=ELSEWHERE, worker="w")

    assert look(reaper, clock, SILENCE_S) == 0
    assert look(reaper, clock, TICK_S) == 1


def test_another_node_that_prolongs_its_lease_lives_whatever_its_clock_says(bench, reaper, clock, database):
    bench.add_meter()
    hold(bench, node=ELSEWHERE, worker="w")

    for beat in range(30):
        its_now = utc_now() + timedelta(days=400, seconds=beat)
        lease.hold(database, _lease_of(ELSEWHERE), ELSEWHERE, its_now, LEASE)
        assert look(reaper, clock, 60) == 0


def test_a_database_that_was_away_begins_the_ten_minutes_anew(bench, reaper, clock, monkeypatch):
    bench.add_meter()
    hold(bench, node=ELSEWHERE, worker="w")
    look(reaper, clock, SILENCE_S - TICK_S)

    with monkeypatch.context() as outage:
        outage.setattr(bench.store, "holders", lambda: (_ for _ in ()).throw(StoreUnavailable("away")))
        with pytest.raises(StoreUnavailable):
            reaper.step(utc_now())

    assert look(reaper, clock, SILENCE_S) == 0
    assert look(reaper, clock, TICK_S) == 1


def test_a_process_that_was_paused_begins_the_ten_minutes_anew(bench, reaper, clock):
    bench.add_meter()
    hold(bench, node=ELSEWHERE, worker="w")
    look(reaper, clock, SILENCE_S / 2)

    clock.now_s += 3600

    assert look(reaper, clock, SILENCE_S) == 0
    assert look(reaper, clock, TICK_S) == 1


def test_each_node_prolongs_its_own_lease(bench, database, tmp_path, reaper):
    reaper.step(utc_now())

    for worker in ("one", "another"):
        assert lease.hold(database, _lease_of(HERE), HERE, utc_now(), LEASE), worker
    assert not lease.hold(database, _lease_of(HERE), ELSEWHERE, utc_now(), LEASE)


def test_the_name_of_a_lease_fits_and_tells_nodes_apart():
    assert len(_lease_of(HERE)) == 32
    assert _lease_of(HERE) != _lease_of(ELSEWHERE)


def test_two_reapers_at_once_charge_once(bench, database, tmp_path):
    meter = bench.add_meter(period="total", amount=10**9)
    for _ in range(5):
        hold(bench, node=HERE, worker="gone")
    reapers = [Reaper(bench.store, database, tmp_path, HERE) for _ in range(2)]

    assert sum(reaper.step(utc_now()) for reaper in reapers) == 5
    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (1_500, 0, 0)
