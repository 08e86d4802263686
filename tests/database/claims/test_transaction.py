"""What one transaction on SQLite does to meters, however often they are asked for in it."""

import sqlite3
from collections.abc import Iterator
from typing import cast

import pytest
from sqlalchemy import create_engine

from database.claims.transaction import Transaction
from models import Meter

pytestmark = pytest.mark.once


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A database of two meters: `a` has spent 100 in a period that ends at 7, `b` nothing."""
    engine = create_engine("sqlite://")
    with engine.begin() as begun:
        Meter.__table__.create(begun)
        row = {"project_id": "p", "name": "m", "unit": "usd", "period": "day", "amount": 1000}
        for meter_id, spent, end in (("a", 100, 7), ("b", 0, 0)):
            begun.execute(Meter.__table__.insert().values(id=meter_id, spent=spent, period_end=end, **row))
    raw = engine.raw_connection()
    driver = cast(sqlite3.Connection, raw.driver_connection)
    driver.isolation_level = None
    yield driver
    raw.close()
    engine.dispose()


def add(transaction: Transaction, meter_id: str, spent: int, **columns: int) -> None:
    [meter] = transaction.meters([meter_id])
    transaction.change([meter._replace(spent=meter.spent + spent, **columns)])


def test_a_meter_is_read_once_and_written_once(connection):
    said: list[str] = []
    connection.set_trace_callback(said.append)
    transaction = Transaction(connection)
    for _ in range(3):
        add(transaction, "a", 5)
    transaction.write()
    transaction.write()

    assert [statement.split()[0] for statement in said] == ["SELECT", "UPDATE"]
    assert connection.execute("SELECT spent FROM meters ORDER BY id").fetchall() == [(115,), (0,)]


def test_meters_come_in_the_order_in_which_they_are_asked_for_without_those_that_are_gone(connection):
    transaction = Transaction(connection)

    for asked in (["b", "gone", "a"], ["a", "b"], []):
        assert [meter.id for meter in transaction.meters(asked)] == [each for each in asked if each != "gone"]


def test_what_stood_at_the_end_of_a_period_is_kept_that_ends_between_two_calls(connection):
    transaction = Transaction(connection)
    add(transaction, "a", 20)
    [meter] = transaction.meters(["a"])
    transaction.change([meter._replace(spent=3, period_end=9)])
    add(transaction, "a", 4)
    transaction.write()

    kept = connection.execute("SELECT spent, period_end, last_spent, last_end FROM meters WHERE id = 'a'").fetchone()
    assert kept == (7, 9, 120, 7)
