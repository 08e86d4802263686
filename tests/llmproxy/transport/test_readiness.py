"""Waiting for something to read, on gevent's own sockets: most tests here run on the others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from llmproxy.transport.readiness import Readiness


@pytest.fixture
def pair() -> Iterator[tuple[gevent.socket.socket, gevent.socket.socket]]:
    near, far = gevent.socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def readiness(pair: tuple[gevent.socket.socket, gevent.socket.socket]) -> Iterator[Readiness]:
    made = Readiness(pair[0])
    yield made
    made.close()


def test_a_wait_ends_when_there_is_something_to_read(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    assert 0 < readiness.wait(60) <= 60


def test_a_wait_ends_at_the_end_of_the_stream(pair, readiness) -> None:
    gevent.spawn(pair[1].close)
    assert readiness.wait(60) > 0


def test_a_wait_for_nothing_ends_by_a_timeout(readiness) -> None:
    with gevent.Timeout(60), pytest.raises(TimeoutError):
        readiness.wait(0.05)


def test_a_wait_outlasts_the_time_of_an_earlier_one(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(0.5)
    pair[0].recv(1)
    gevent.spawn_later(0.7, pair[1].send, b"y")
    assert readiness.wait(60) > 0


def test_a_shorter_wait_need_not_last_as_long_as_an_earlier_one(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(3600)
    pair[0].recv(1)
    with gevent.Timeout(60), pytest.raises(TimeoutError):
        readiness.wait(0.05)


def test_no_wait_times_out_after_a_pause_longer_than_its_time(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(0.5)
    pair[0].recv(1)
    gevent.sleep(0.7)
    gevent.spawn(pair[1].send, b"y")
    assert readiness.wait(60) > 0


def test_a_watch_calls_back_for_whatever_comes_until_it_is_woken(pair, readiness) -> None:
    seen = []

    def read() -> None:
        seen.append(pair[0].recv(1))
        if seen[-1] == b"z":
            readiness.wake()

    gevent.spawn(pair[1].sendall, b"xyz")
    readiness.watch(read, 60)
    assert seen == [b"x", b"y", b"z"]


def test_a_watch_raises_what_it_is_woken_with(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    with pytest.raises(ConnectionResetError):
        readiness.watch(lambda: readiness.wake(ConnectionResetError()), 60)


def test_nothing_is_called_back_once_a_watch_is_over(pair, readiness) -> None:
    seen = []
    gevent.spawn(pair[1].send, b"x")
    readiness.watch(lambda: [seen.append(1), readiness.wake()], 60)
    gevent.sleep(0.02)  # what has come is still there
    assert seen == [1]


def test_a_watch_of_nothing_ends_by_a_timeout(readiness) -> None:
    with gevent.Timeout(60), pytest.raises(TimeoutError):
        readiness.watch(readiness.wake, 0.05)


def test_a_watch_times_out_where_its_deadline_was_put_off_to(pair, readiness) -> None:
    begun = time.monotonic()

    def read() -> None:
        pair[0].recv(1)
        readiness.deadline = begun + 0.9

    gevent.spawn(pair[1].send, b"x")
    with gevent.Timeout(60), pytest.raises(TimeoutError):
        readiness.watch(read, 0.5)
    assert time.monotonic() >= begun + 0.9


def test_a_watcher_that_is_killed_leaves_nothing_behind(pair, readiness) -> None:
    seen = []
    watching = gevent.spawn(readiness.watch, lambda: seen.append(1), 60)
    gevent.sleep(0)
    watching.kill()
    gevent.spawn(pair[1].send, b"x")
    assert (readiness.wait(60) > 0, seen) == (True, [])


def test_one_who_wakes_nobody_does_no_harm(readiness) -> None:
    readiness.wake()
