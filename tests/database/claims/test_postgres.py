"""Ruled claims on PostgreSQL when something goes wrong with the server, the connection or a lock."""

import psycopg
import pytest

from database.claims import postgres_ruled
from llmproxy.admission import StoreUnavailable
from models import new_id
from tests.databases import migrate
from tests.ruled_token import cost

pytestmark = pytest.mark.postgres


@pytest.fixture
def database_url(postgres_server):
    """A migrated database on PostgreSQL, whatever the run has chosen."""
    url = postgres_server.new_database()
    migrate(url)
    yield url
    postgres_server.drop_database(url)


def losing_one_answer(store, monkeypatch):
    """Let the store's next statement take place, and its answer be lost."""
    run, lost = store._run, []

    def run_and_lose(cursor, statement, values):
        rows = run(cursor, statement, values)
        if not lost:
            lost.append(True)
            raise psycopg.OperationalError("the connection is lost")
        return rows

    monkeypatch.setattr(store, "_run", run_and_lose)


def test_a_claim_whose_answer_was_lost_is_sent_again_and_counts_once(bench, monkeypatch):
    meter = bench.add_meter()
    bench.store.state(bench.token_hash)  # leaves a connection from before
    state = bench.store.state(bench.token_hash)
    monkeypatch.setattr(bench.store, "state", lambda _: state)
    losing_one_answer(bench.store, monkeypatch)

    grant, verdict = bench.claim(cost(100))

    assert grant and verdict.is_admitted
    assert (bench.meter(meter).reserved, bench.token().request_count, bench.token().in_flight) == (100, 1, 1)


def test_a_settlement_whose_answer_was_lost_charges_once(bench, monkeypatch):
    meter = bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)
    losing_one_answer(bench.store, monkeypatch)

    bench.settle(request_id, 70)

    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (70, 0, 0)


def test_a_lock_that_is_held_for_long_refuses_for_now_and_counts_nothing(bench, database_url):
    meter = bench.add_meter()

    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM meters FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
            bench.claim(cost(100))

    assert (bench.meter(meter).reserved, bench.token().request_count, bench.rows()) == (0, 0, {})
    assert bench.claim(cost(100))[0]


@pytest.mark.parametrize("name", ["LOOK", "CLAIM", "METERS_HELD", "SETTLE"])
def test_the_driver_remembers_how_to_fill_a_statement(name):
    assert len(getattr(postgres_ruled, name)) <= psycopg._queries.MAX_CACHED_STATEMENT_LENGTH
