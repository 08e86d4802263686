"""Delivery of alerts: by one process, again after a failure and later each time, and given up when it was refused."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, select

from control.alerts import count_waiting
from llmproxy.api_log.sink import BatchRefused, SinkUnavailable
from llmproxy.webhook import BUDGET_THRESHOLD
from models import alerts
from server.alerts import MAX_PAUSE_S, Alerts


class Receiver:
    """Takes events, or fails in the way it is told."""

    name = "https://receiver.example"

    def __init__(self) -> None:
        self.fails: list[Exception | None] = []
        self.tries: list[str] = []

    def deliver(self, event_id: str, body: bytes, now: datetime) -> None:
        assert body and now.tzinfo is UTC
        self.tries.append(event_id)
        if error := self.fails.pop(0) if self.fails else None:
            raise error


class Clock:
    """Seconds, to be moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alerting(database: Engine, receiver: Receiver, clock: Clock) -> Alerts:
    return Alerts(database, receiver, monotonic=clock)


@pytest.fixture(autouse=True)
def events(database: Engine) -> None:
    """Three that wait: a, b and c."""
    usual = {"kind": BUDGET_THRESHOLD, "subject": "m", "period_end": 0, "body": "{}", "state": "waiting"}
    with database.begin() as connection:
        for at, name in enumerate("abc"):
            connection.execute(insert(alerts).values(id=name, threshold=at, at=at, **usual))


def states(engine: Engine) -> str:
    with engine.connect() as connection:
        return " ".join(connection.scalars(select(alerts.c.state).order_by(alerts.c.id)))


def test_what_waits_is_delivered_once_in_its_order(alerting, receiver, database):
    alerting.deliver()
    alerting.deliver()

    assert receiver.tries == ["a", "b", "c"]
    assert states(database) == "delivered delivered delivered"


def test_a_receiver_that_is_down_is_asked_again_with_the_same_event_after_a_pause(
    alerting, receiver, clock, database
):
    receiver.fails = [None, SinkUnavailable("it answered 503")]
    alerting.deliver()
    alerting.deliver()
    tries_at_first = list(receiver.tries)
    clock.now += 1
    alerting.deliver()

    assert tries_at_first == ["a", "b"]
    assert receiver.tries == ["a", "b", "b", "c"]
    assert count_waiting(database) == 0


def test_the_pause_grows_to_its_most_and_no_further(alerting, receiver, clock):
    alerting.uniform = lambda low, high: high
    receiver.fails = [SinkUnavailable("down")] * 9
    pauses = []
    for _ in range(9):
        alerting.deliver()
        pauses.append(alerting._asks_at - clock.now)
        clock.now = alerting._asks_at

    assert pauses == [1, 2, 4, 8, 16, 32, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]


def test_a_receiver_is_left_alone_for_as_long_as_it_asks(alerting, receiver, clock):
    receiver.fails = [SinkUnavailable("it answered 429", retry_after_s=90)]
    alerting.deliver()
    clock.now += 89.9
    alerting.deliver()

    assert receiver.tries == ["a"]


def test_an_event_that_is_refused_is_given_up_and_the_others_go_on(alerting, receiver, database):
    receiver.fails = [BatchRefused("400 no")]
    alerting.deliver()
    alerting.deliver()

    assert receiver.tries == ["a", "b", "c"]
    assert states(database) == "refused delivered delivered"


def test_another_process_delivers_nothing_while_one_does(alerting, database, clock):
    alerting.look()
    other = Receiver()
    Alerts(database, other, monotonic=clock).deliver()

    assert other.tries == []


def test_an_outage_is_told_once_and_so_is_its_end(alerting, receiver, clock, caplog):
    caplog.set_level("INFO")
    receiver.fails = [SinkUnavailable("it answered 503")] * 3
    for _ in range(4):
        alerting.deliver()
        clock.now += MAX_PAUSE_S

    assert [record.message for record in caplog.records] == [
        "https://receiver.example does not take alerts, they wait in the database: it answered 503",
        "https://receiver.example takes alerts again",
    ]
