"""A worker's ended calls: the database is told of each, whatever happens meanwhile."""

import gevent
import pytest

from database.claims.settling import Settling
from llmproxy.admission import StoreUnavailable
from llmproxy.limits.reservations import Charge, Settlement
from models import new_id
from tests.ruled_token import WORKER, cost


class Outage:
    """A store that does not answer until it is told to."""

    def __init__(self, store):
        self.store, self.is_over = store, False

    def settle(self, settlement):
        if not self.is_over:
            raise StoreUnavailable("the server does not answer")
        return self.store.settle(settlement)

    def settle_together(self, settlements):
        self.settle(settlements[0])
        return 1

    def held_by(self, worker):
        return self.store.held_by(worker)


@pytest.fixture
def settling(bench):
    return Settling(bench.store, "node", WORKER)


def begun(bench, settling):
    request_id = new_id()
    settling.begin(request_id)
    assert bench.claim(cost(100), request_id=request_id)[0]
    return request_id


def test_it_is_told_how_long_each_ended_call_waited(bench):
    bench.add_meter()
    outage, took = Outage(bench.store), []
    settling = Settling(outage, "node", WORKER, took_s=took.append)
    settling.end(Settlement(begun(bench, settling), Charge(70, 70), "settled"))
    assert not settling.step() and took == []

    outage.is_over = True
    assert settling.step()
    assert len(took) == 1 and took[0] > 0


def test_an_ended_call_is_settled_with_the_next_step(bench, settling):
    meter = bench.add_meter()
    request_id = begun(bench, settling)

    settling.end(Settlement(request_id, Charge(70, 70), "settled"))
    assert (settling.running, settling.pending, bench.meter(meter).spent) == (1, 1, 0)

    assert settling.step()
    assert (settling.running, settling.pending, bench.meter(meter).spent) == (0, 0, 70)


def test_a_database_that_is_away_keeps_nobody_waiting_and_is_told_later(bench, caplog):
    meter = bench.add_meter()
    outage = Outage(bench.store)
    settling = Settling(outage, "node", WORKER)
    ids = [begun(bench, settling) for _ in range(3)]
    for request_id in ids:
        settling.end(Settlement(request_id, Charge(70, 70), "settled"))

    assert [settling.step() for _ in range(5)] == [False] * 5
    assert (settling.pending, bench.meter(meter).spent) == (3, 0)
    assert len(caplog.records) == 1

    outage.is_over = True
    assert settling.step()
    assert (settling.pending, bench.meter(meter).spent, bench.meter(meter).reserved) == (0, 210, 0)


def test_one_call_that_cannot_be_settled_does_not_keep_the_others_from_it(bench, monkeypatch):
    meter = bench.add_meter()
    settling = Settling(bench.store, "node", WORKER)
    bad, good = begun(bench, settling), begun(bench, settling)
    settle = bench.store.settle

    def refuse_the_bad(settlement):
        if settlement.request_id == bad:
            raise StoreUnavailable("DataError")
        return settle(settlement)

    def refuse_all_with_the_bad(settlements):
        raise StoreUnavailable("DataError")

    monkeypatch.setattr(bench.store, "settle", refuse_the_bad)
    monkeypatch.setattr(bench.store, "settle_together", refuse_all_with_the_bad)
    for request_id in (bad, good):
        settling.end(Settlement(request_id, Charge(70, 70), "settled"))

    assert [settling.step() for _ in range(2)] == [False, False]
    assert (settling.pending, bench.meter(meter).spent) == (1, 70)


def test_a_claim_of_unknown_outcome_is_released_when_it_took_place(bench, settling):
    meter = bench.add_meter()
    request_id = begun(bench, settling)

    settling.unknown(request_id)
    settling.step()

    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (0, 0, 0)


def test_a_claim_of_unknown_outcome_that_takes_place_later_is_found_and_released(bench, settling, caplog):
    meter = bench.add_meter()
    late, running = new_id(), begun(bench, settling)
    settling.begin(late)
    settling.unknown(late)
    settling.step()
    bench.claim(cost(100), request_id=late)

    assert settling.release_unknown() == 1

    assert bench.rows()[late].state == "settled"
    assert bench.rows()[running].state == "held"
    assert (bench.meter(meter).reserved, bench.token().in_flight) == (100, 1)
    assert late in caplog.text


def test_what_runs_has_ended_or_belongs_to_others_is_not_released(bench, settling):
    bench.add_meter()
    begun(bench, settling)
    ended = begun(bench, settling)
    settling.end(Settlement(ended, Charge(70, 70), "settled"))
    bench.claim(cost(100), worker="another")

    assert settling.release_unknown() == 0
    assert {row.state for row in bench.rows().values()} == {"held"}


def test_what_ends_while_the_database_answers_is_taken_for_no_unknown_call(bench, settling, monkeypatch):
    bench.add_meter()
    request_id = begun(bench, settling)
    held_by = bench.store.held_by

    def answers_late(worker: str) -> list[str]:
        found = held_by(worker)
        settling.end(Settlement(request_id, Charge(70, 70), "settled"))
        settling.step()
        return found

    monkeypatch.setattr(bench.store, "held_by", answers_late)

    assert settling.release_unknown() == 0


def test_a_claim_that_was_refused_is_not_running(bench, settling):
    request_id = new_id()
    settling.begin(request_id)
    settling.refused(request_id)

    assert settling.running == 0


def test_who_waits_goes_on_when_what_has_ended_is_told(bench, settling):
    bench.add_meter()
    settling.wait(0)
    settling.end(Settlement(begun(bench, settling), Charge(70, 70), "settled"))
    waiting = gevent.spawn(settling.wait, 60)
    gevent.sleep(0)
    assert not waiting.ready()

    settling.step()
    waiting.get(timeout=60)


def test_nobody_waits_for_ever_for_a_database_that_is_away(bench):
    settling = Settling(Outage(bench.store), "node", WORKER)
    settling.end(Settlement(begun(bench, settling), Charge(70, 70), "settled"))

    settling.step()
    settling.wait(0.01)
    assert settling.pending == 1
