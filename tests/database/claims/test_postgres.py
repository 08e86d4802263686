"""Ruled claims on PostgreSQL when something goes wrong with the server, the connection or a lock."""

import re

import psycopg
import pytest

from database.claims import postgres, postgres_ruled
from llmproxy.admission import StoreUnavailable, utc_now
from models import Token, new_id
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


def losing_one_answer(store, monkeypatch, named="UPDATE tokens"):
    """Let the store's next such statement take place on a connection from before, and its answer be lost."""
    run, lost = store._run, []

    def run_and_lose(cursor, statement, values):
        rows = run(cursor, statement, values)
        if named in statement and not lost:
            lost.append(True)
            raise psycopg.OperationalError("the connection is lost")
        return rows

    monkeypatch.setattr(store, "_run", run_and_lose)
    store.any_reserved()  # leaves a connection


# The last request that the token may make, and the last that its meter has room for.
@pytest.mark.parametrize(
    ("meter", "spent", "held"),
    [({"reserve": "bound", "amount": 100}, 0, 100), ({"unit": "requests", "amount": 1}, 1, 0)],
    ids=["one that holds", "one that only counts"],
)
def test_a_claim_whose_answer_was_lost_is_sent_again_and_counts_once(bench, monkeypatch, meter, spent, held):
    bench.change(Token, rate_limit=1)
    meter = bench.add_meter(**meter)
    losing_one_answer(bench.store, monkeypatch)

    grant, verdict = bench.claim(cost(100))

    assert grant and verdict.is_admitted
    assert (bench.meter(meter).spent, bench.meter(meter).reserved) == (spent, held)
    assert (bench.token().request_count, bench.token().in_flight) == (1, 1 if held else 0)


def test_a_plain_claim_whose_answer_was_lost_is_sent_again_and_counts_once(bench, monkeypatch):
    bench.change(Token, rate_limit=1, is_ruled=False)
    losing_one_answer(bench.store, monkeypatch)

    assert bench.store.claim(bench.token_hash, utc_now())

    assert bench.token().request_count == 1
    assert not bench.store.claim(bench.token_hash, utc_now())


def test_a_plain_claim_that_did_not_take_place_counts_when_it_is_sent_again(bench, monkeypatch):
    bench.change(Token, is_ruled=False)
    assert bench.store.claim(bench.token_hash, utc_now())
    bench.store._idle[0].connection.pgconn.finish()

    assert bench.store.claim(bench.token_hash, utc_now())

    assert bench.token().request_count == 2


def test_a_settlement_whose_answer_was_lost_charges_once(bench, monkeypatch):
    meter = bench.add_meter()
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id)
    losing_one_answer(bench.store, monkeypatch, "UPDATE reservations")

    bench.settle(request_id, 70)

    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (70, 0, 0)


def test_a_claim_that_takes_place_while_its_end_is_told_keeps_its_hold_until_it_is_found(bench, monkeypatch):
    meter = bench.add_meter()
    request_id = new_id()
    execute = bench.store._execute

    def execute_and_claim(statement, values):
        found = execute(statement, values)
        if statement == postgres_ruled.METERS_HELD and not found:
            bench.claim(cost(100), request_id=request_id)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(
            bench.store, "_execute", lambda statement, values, again=None: execute_and_claim(statement, values)
        )
        assert bench.release(request_id) is False
    assert (bench.meter(meter).reserved, bench.rows()[request_id].state) == (100, "held")

    assert bench.release(request_id) is True
    assert (bench.meter(meter).spent, bench.meter(meter).reserved, bench.token().in_flight) == (0, 0, 0)


@pytest.mark.parametrize("has_meter", [True, False])
def test_what_is_held_is_ended_also_where_nobody_knows_its_meters(bench, has_meter):
    meter = bench.add_meter() if has_meter else None
    request_id = new_id()
    bench.claim(cost(100), request_id=request_id, concurrency=1)

    assert bench.release(request_id)

    assert (bench.token().in_flight, bench.rows()[request_id].state) == (0, "settled")
    assert meter is None or bench.meter(meter).reserved == 0


def test_a_lock_that_is_held_for_long_refuses_for_now_and_counts_nothing(bench, database_url):
    meter = bench.add_meter()

    with psycopg.connect(database_url) as other:
        other.execute("SELECT 1 FROM meters FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
            bench.claim(cost(100))

    assert (bench.meter(meter).reserved, bench.token().request_count, bench.rows()) == (0, 0, {})
    assert bench.claim(cost(100))[0]


class Crowd:
    """Connections that are all taken for a while, and by whom others have their answers meanwhile, or nobody."""

    def __init__(self, store, *, moves):
        self._store, self._moves, self._waits = store, moves, 0

    def acquire(self, blocking=True, timeout=None):
        if not blocking:
            return False
        self._waits += 1
        self._store._answered += self._moves
        return self._waits % 3 == 0

    def release(self):
        pass


@pytest.mark.parametrize(("moves", "most_s", "is_admitted"), [(True, 30, True), (False, 30, False), (True, 0, False)])
def test_a_claim_waits_for_a_connection_while_others_have_their_answers(
    bench, monkeypatch, moves, most_s, is_admitted
):
    monkeypatch.setattr(postgres, "MOST_QUEUED_S", most_s)
    bench.store._free = Crowd(bench.store, moves=moves)

    if is_admitted:
        assert bench.claim(cost(0))[0]
    else:
        with pytest.raises(StoreUnavailable, match="every connection is busy"):
            bench.claim(cost(0))


@pytest.mark.parametrize(
    "statement",
    [postgres.CLAIM, postgres_ruled.LOOK, postgres_ruled.CLAIM, postgres_ruled.METERS_HELD, postgres_ruled.SETTLE],
    ids=["plain claim", "look", "claim", "meters held", "settlement"],
)
def test_the_driver_remembers_how_to_fill_a_statement(statement):
    filled = psycopg._queries.PostgresQuery(psycopg.adapt.Transformer())
    values = dict.fromkeys(re.findall(r"%\((\w+)\)s", statement))
    filled.convert(statement, values)
    before = psycopg._queries._query2pg.cache_info().hits

    filled.convert(statement, values)

    assert psycopg._queries._query2pg.cache_info().hits == before + 1
