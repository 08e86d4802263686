"""What greenlets ask for at one time is done in one transaction, and each gets what is its own."""

import gevent
import pytest

from database.claims.together import MOST, Together
from llmproxy.admission import StoreUnavailable


class Database:
    """Counts transactions, each of which is whole or not at all."""

    def __init__(self):
        self.transactions, self.written, self.is_away = 0, [], False

    def transaction(self, work):
        gevent.sleep(0)  # for the lock
        if self.is_away:
            raise StoreUnavailable("SQLITE_BUSY")
        self.transactions += 1
        before = list(self.written)
        try:
            return work(self)
        except BaseException:
            self.written = before
            raise


@pytest.fixture
def database():
    return Database()


def write(what):
    def work(connection):
        connection.written.append(what)
        if what == "bad":
            raise OverflowError(what)
        return f"{what} is written"

    return work


def asking(together, whats):
    """Greenlets that each ask for one thing, all of them by now."""
    greenlets = [gevent.spawn(together.do, write(what)) for what in whats]
    gevent.sleep(0)
    return greenlets


def test_what_is_asked_for_at_one_time_is_one_transaction(database):
    greenlets = asking(Together(database.transaction), ["a", "b", "c"])

    assert [greenlet.get(timeout=60) for greenlet in greenlets] == ["a is written", "b is written", "c is written"]
    assert (database.transactions, database.written) == (1, ["a", "b", "c"])


def test_who_asks_alone_has_no_company_and_who_asks_beside_others_has(database):
    together = Together(database.transaction)

    def turn(count):
        gevent.sleep(0.002)
        return [together.has_company() for _ in range(count)]

    assert turn(1) == [False]
    assert turn(3) == [False, True, True]
    assert turn(1) == [True]
    assert turn(1) == [False]


def test_nobody_waits_for_company(database):
    together = Together(database.transaction)

    assert [together.do(write(what)) for what in "ab"] == ["a is written", "b is written"]
    assert database.transactions == 2


def test_a_transaction_takes_no_more_than_others_can_wait_for(database):
    greenlets = asking(Together(database.transaction), list(range(MOST + 1)))

    gevent.joinall(greenlets, timeout=5, raise_error=True)
    assert (database.transactions, database.written) == (2, list(range(MOST + 1)))


def test_one_that_fails_fails_alone(database):
    good, bad, other = asking(Together(database.transaction), ["good", "bad", "other"])

    assert (good.get(timeout=60), other.get(timeout=60)) == ("good is written", "other is written")
    with pytest.raises(OverflowError):
        bad.get(timeout=60)
    assert database.written == ["good", "other"]


def test_where_there_is_no_answer_nobody_gets_one_and_the_next_is_asked_anew(database):
    together = Together(database.transaction)
    database.is_away = True

    for greenlet in asking(together, ["a", "b"]):
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
            greenlet.get(timeout=60)

    database.is_away = False
    assert together.do(write("c")) == "c is written"
    assert database.written == ["c"]


def test_what_nobody_waits_for_any_more_is_not_done(database):
    ended, other = asking(Together(database.transaction), ["ended", "other"])
    ended.kill()

    assert other.get(timeout=60) == "other is written"
    assert database.written == ["other"]
