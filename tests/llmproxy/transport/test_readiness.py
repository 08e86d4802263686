"""Waiting for something to read, on gevent's own sockets: most tests here run on the others."""

from __future__ import annotations

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
    with gevent.Timeout(30), pytest.raises(TimeoutError):
        readiness.wait(0.05)


def test_a_wait_outlasts_the_time_of_an_earlier_one(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(0.05)
    pair[0].recv(1)
    gevent.spawn_later(0.1, pair[1].send, b"y")
    assert readiness.wait(60) > 0


def test_a_shorter_wait_need_not_last_as_long_as_an_earlier_one(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(3600)
    pair[0].recv(1)
    with gevent.Timeout(30), pytest.raises(TimeoutError):
        readiness.wait(0.05)


def test_no_wait_times_out_after_a_pause_longer_than_its_time(pair, readiness) -> None:
    gevent.spawn(pair[1].send, b"x")
    readiness.wait(0.02)
    pair[0].recv(1)
    gevent.sleep(0.05)
    gevent.spawn(pair[1].send, b"y")
    assert readiness.wait(60) > 0
