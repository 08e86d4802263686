"""Records end reservations: what nobody settled is charged from them, and nothing twice."""

import pytest

from accounting.reservations import charge_of, pass_records
from accounting.rollup import Rollup, UsageSums
from llmproxy.admission import StoreUnavailable
from llmproxy.limits.reservations import UNTOLD, Charge, Settlement, part_id
from models import new_id
from tests.accounting.test_rollup import catch_up
from tests.records import append, read, record, refused
from tests.ruled_token import cost


@pytest.mark.parametrize(
    ("call", "charge"),
    [
        (record(cost_usd=0.25, cost_source="reported"), Charge(250_000, 15)),
        (record(cost_usd=0.25, cost_source="assumed", usage_source="absent"), Charge(250_000, None)),
        (record(cost_usd=0, cost_source="none", usage_source="absent", metadata=None), Charge(0, 0)),
        (record(cost_usd=None, cost_source="unpriced"), Charge(0, 15)),
        (record(cost_usd=None), Charge(None, 15)),
        (record(cost_usd="much", metadata=None), UNTOLD),
        (record(cost_usd=None, cost_source="absent", usage_source="absent"), UNTOLD),
        (refused(cost_usd=0, cost_source="none"), Charge(0, 0)),
    ],
)
def test_a_record_says_what_is_charged(call, charge):
    assert charge_of(read(call)) == charge


def test_a_response_of_a_session_is_charged_by_its_own_record(bench):
    meter = bench.add_meter(amount=10**9)
    ids = [part_id(ONE, number) for number in (1, 2, 11)]
    for request_id in ids:
        bench.claim(cost(1_000), request_id=request_id)

    pass_records(bench.store, [read(record(request_id=ids[1], part=2, **COST)), read(record(request_id=ONE))])

    assert sorted(bench.rows()) == sorted([ids[0], ids[2]])
    assert bench.meter(meter).spent == 250_000


ONE, OTHER = new_id(), new_id()
COST = {"cost_usd": 0.25, "cost_source": "reported"}


@pytest.mark.parametrize(
    ("before", "spent"),
    [(None, 250_000), ("settled", 70), ("assumed", 250_000)],
)
def test_passing_a_record_charges_what_its_call_cost_once_and_deletes_the_reservation(bench, before, spent):
    meter = bench.add_meter(amount=10**9)
    request_id = new_id()
    bench.claim(cost(1_000), request_id=request_id)
    if before:
        bench.store.settle(Settlement(request_id, Charge(70, 70) if before == "settled" else UNTOLD, before))
    records = [read(record(**told)) for told in ({}, {"request_id": request_id} | COST, {})]

    passed = [pass_records(bench.store, records) for _ in range(2)]

    assert passed == [0 if before == "settled" else 1, 0]
    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.meter(meter).bounds) == (spent, 0, 0)
    assert (bench.rows(), bench.token().in_flight) == ({}, 0)


class _NothingReserved:
    """A store that is asked for no call by its id."""

    def any_reserved(self):
        return False


def test_where_nothing_is_reserved_no_call_is_looked_up():
    assert pass_records(_NothingReserved(), [read(record())]) == 0


def test_any_reservation_is_found_whoever_holds_it(bench):
    bench.add_meter(amount=10**9)
    before = bench.store.any_reserved()

    bench.claim(cost(1_000))

    assert (before, bench.store.any_reserved()) == (False, True)


def test_the_rollup_ends_the_reservations_of_what_it_passes(bench, database, tmp_path):
    meter = bench.add_meter(amount=10**9)
    ids = [new_id() for _ in range(3)]
    for request_id in ids:
        bench.claim(cost(1_000), request_id=request_id)
    log = tmp_path / "api_logs.jsonl"
    append(log, [record(request_id=name, cost_usd=0.001, cost_source="reported") for name in ids[:2]])
    rollup = Rollup(log, UsageSums(database, "node-1"), bench.store)

    assert catch_up(rollup) == 2
    rollup.close()

    assert set(bench.rows()) == {ids[2]}
    assert (bench.meter(meter).spent, bench.meter(meter).reserved) == (2_000, 1_000)


def test_a_database_that_does_not_answer_leaves_the_batch_for_the_next_time(bench, database, tmp_path, monkeypatch):
    meter = bench.add_meter(amount=10**9)
    ids = [new_id() for _ in range(2)]
    for request_id in ids:
        bench.claim(cost(1_000), request_id=request_id)
    log = tmp_path / "api_logs.jsonl"
    append(log, [record(request_id=name, cost_usd=0.001, cost_source="reported") for name in ids])
    rollup = Rollup(log, UsageSums(database, "node-1"), bench.store)
    settle, failed = bench.store.settle, []

    def settle_once(settlement):
        if not failed and bench.rows().keys() != set(ids):
            failed.append(True)
            raise StoreUnavailable("the server does not answer")
        return settle(settlement)

    monkeypatch.setattr(bench.store, "settle", settle_once)
    with pytest.raises(StoreUnavailable):
        catch_up(rollup)

    assert catch_up(rollup) == 2
    rollup.close()
    assert bench.rows() == {}
    assert (bench.meter(meter).spent, bench.meter(meter).reserved) == (2_000, 0)
