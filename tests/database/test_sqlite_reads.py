"""SQLite's questions are asked in threads where a process serves: others run meanwhile, and the rows are the same."""

import gevent
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from database import sqlite_reads
from database.engine import open_engine, write_transaction

pytestmark = pytest.mark.sqlite
# As many rows as it is told, counted by SQLite.
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :most) SELECT i FROM n"


@pytest.fixture
def engine(database_url, monkeypatch) -> Engine:
    monkeypatch.setattr(sqlite_reads, "_pools", [])
    sqlite_reads.ask_in_threads()
    engine = open_engine(database_url)
    yield engine
    engine.dispose()
    sqlite_reads._pools[0].kill()


@pytest.fixture
def others():
    """What another greenlet does whenever it gets a turn."""
    turns = []

    def run() -> None:
        while True:
            turns.append("turn")
            gevent.sleep(0.001)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    turns.clear()
    yield turns
    greenlet.kill()


def test_others_run_while_a_question_is_asked(engine, others):
    with engine.connect() as connection:
        for _ in range(20):  # a question may be over before the machine lets anybody else run
            count = connection.execute(text(f"SELECT count(*) FROM ({COUNT})"), {"most": 300_000}).scalar()
            assert count == 300_000
            if others:
                break

    assert others


def test_nobody_runs_within_a_transaction_that_writes(engine, others):
    with Session(engine) as session, write_transaction(session):
        turns = len(others)
        session.execute(text("CREATE TABLE t (i INTEGER)"))
        session.execute(text("INSERT INTO t VALUES (1)"))
        assert session.execute(text("SELECT i FROM t")).scalar() == 1
        assert len(others) == turns


def test_nobody_runs_within_a_transaction_that_asks_before_it_writes(engine, others):
    with Session(engine) as session, write_transaction(session):
        turns = len(others)
        assert session.execute(text(f"SELECT count(*) FROM ({COUNT})"), {"most": 300_000}).scalar() == 300_000
        assert len(others) == turns


@pytest.mark.parametrize("most", [0, 1, 2, 1000])
def test_rows_are_told_in_every_way(engine, most):
    expected = list(range(1, most + 1)) or [1]
    with engine.connect() as connection:
        for read in (
            lambda rows: [row.i for row in rows.fetchall()],
            lambda rows: [row.i for row in rows],
            lambda rows: [row.i for part in iter(lambda: rows.fetchmany(7), []) for row in part],
            lambda rows: [row.i for row in iter(rows.fetchone, None)],
            lambda rows: rows.scalars().all(),
        ):
            assert read(connection.execute(text(COUNT), {"most": most})) == expected


def test_an_error_is_the_drivers(engine):
    with engine.connect() as connection, pytest.raises(OperationalError, match="no such table"):
        connection.execute(text("SELECT 1 FROM nowhere"))


def test_whoever_is_ended_while_it_asks_leaves_the_connection_to_the_next(engine):
    def ask() -> None:
        with engine.connect() as connection:
            connection.execute(text(f"SELECT count(*) FROM ({COUNT})"), {"most": 1_000_000_000}).scalar()

    asking = gevent.spawn(ask)
    while not engine.pool.checkedout():
        gevent.sleep(0)
    asking.kill()

    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert engine.pool.checkedout() == 0
