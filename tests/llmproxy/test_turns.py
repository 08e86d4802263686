"""Letting others run, from a greenlet that goes on without a wait."""

from collections import Counter
from types import SimpleNamespace

import gevent
import gevent.socket
import pytest

from llmproxy import turns
from llmproxy.turns import SLICE_BYTES, TURN_S, give_way, in_slices, take_turn


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still between two steps."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(turns.time, "monotonic", lambda: now.s)
    gevent.sleep(0.001)  # the loop's turn before the test's
    give_way()
    return now


@pytest.fixture
def other():
    """A greenlet that waits for its turn; what it has done."""
    done = []
    greenlet = gevent.spawn(done.append, "ran")
    yield done
    greenlet.join()


def test_who_has_run_for_long_lets_others_run(clock, other):
    clock.s += TURN_S * 1.1
    give_way()

    assert other == ["ran"]


def test_who_has_not_goes_on(clock, other):
    clock.s += TURN_S * 0.9
    give_way()

    assert other == []


def test_a_wait_counts_as_a_turn(clock, other):
    clock.s += TURN_S * 0.9
    gevent.sleep(0.001)
    give_way()
    late = []
    gevent.spawn(late.append, "ran")
    clock.s += TURN_S * 0.9
    give_way()

    assert late == []


def test_what_has_arrived_meanwhile_is_seen(clock):
    near, far = gevent.socket.socketpair()
    with near, far:
        reader = gevent.spawn(near.recv, 1)
        gevent.sleep(0.001)
        give_way()
        far.send(b"x")
        clock.s += TURN_S * 1.1
        give_way()

        assert reader.value == b"x"


@pytest.mark.parametrize("size", [0, 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES])
def test_slices_are_the_whole_in_order(size):
    data = bytes(range(256)) * (size // 256 + 1)
    slices = list(in_slices(data[:size]))

    assert b"".join(slices) == data[:size]
    assert all(0 < len(part) <= SLICE_BYTES for part in slices)


def test_others_run_between_two_slices(clock, other):
    for _ in in_slices(bytes(SLICE_BYTES + 1)):
        clock.s += TURN_S * 1.1

    assert other == ["ran"]


def test_of_many_who_wait_a_turn_lets_in_no_more_than_it_has_room_for(clock):
    """Else a hundred callers would make the turn of everybody else a hundred times as long."""
    turns_of_slices = []

    def go_on():
        for _ in range(3):
            take_turn()
            turns_of_slices.append(gevent.get_hub().loop.iteration)
            clock.s += TURN_S * 1.1

    gevent.joinall([gevent.spawn(go_on) for _ in range(20)], raise_error=True)

    assert len(turns_of_slices) == 60
    assert max(Counter(turns_of_slices).values()) <= 2


def test_who_only_gives_way_passes_all_who_wait_for_turns(clock):
    begun = []

    def go_on():
        take_turn()
        begun.append(clock.s)
        clock.s += TURN_S * 1.1

    slices = [gevent.spawn(go_on) for _ in range(20)]
    gevent.idle()
    give_way()
    seen = len(begun)
    gevent.joinall(slices)

    assert (seen < 5, len(begun)) == (True, 20)


def test_who_is_ended_while_waiting_for_a_turn_takes_none(clock):
    def go_on():
        clock.s += TURN_S * 1.1
        take_turn()

    greenlets = [gevent.spawn(go_on) for _ in range(3)]
    gevent.idle()
    greenlets[1].kill()
    gevent.joinall(greenlets, timeout=60)

    assert all(greenlet.dead for greenlet in greenlets)
