"""
Turns of the event loop. Greenlets switch where they wait; what has its next bytes already never waits, and would keep
everybody else of its process waiting. So whatever may go on without a wait asks `give_way` now and then. What takes
milliseconds asks `take_turn` before: many may be about to do as much, and whoever only gives way passes all of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from gevent import get_hub
from gevent.hub import Hub, Waiter

# A look at the clock for each piece costs 0.3 µs, a turn for each piece would cost twenty times that. Another
# client's request takes several turns: to be accepted, read and answered.
TURN_S = 0.002
# Of what costs most to look at, a few milliseconds' worth.
SLICE_BYTES = 8 * 1024
# Of it, what costs no more than a request does.
SMALL_BYTES = 1024


def _next_turn(hub: Hub) -> Any:
    """A timer that fires when the loop has looked at sockets, and seen to them. Fifty sleep(0) come before."""
    return hub.loop.timer(0.0, priority=hub.loop.MINPRI)


class _Queue:
    """
    Who is about to do what takes milliseconds, of one event loop. A turn lets in the first, and then as many as there
    is time for: if it let in all, a hundred of them would make it a hundred times as long for everybody else.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: deque[Waiter] = deque()
        self._timer: Any = None

    def wait(self) -> None:
        """Return in a turn of one's own."""
        waiter = Waiter(self._hub)
        self._waiting.append(waiter)
        if self._timer is None:
            self._ask()
        try:
            waiter.get()
        except BaseException:
            self._waiting.remove(waiter)
            raise

    def _ask(self) -> None:
        self._timer = _next_turn(self._hub)
        self._timer.start(self._let_in)

    def _let_in(self) -> None:
        began = time.monotonic()
        while self._waiting:
            self._waiting.popleft().switch(None)
            if time.monotonic() - began > TURN_S:
                break
        self._timer.close()
        self._timer = None
        if self._waiting:
            self._ask()


class _Turn:
    """The loop's present turn, and since when it is known."""

    __slots__ = ("_began", "_number", "_queues")

    def __init__(self) -> None:
        self._number = -1
        self._began = 0.0
        self._queues: WeakKeyDictionary[Hub, _Queue] = WeakKeyDictionary()

    def give_way(self) -> None:
        """Let others run, and what has arrived meanwhile be seen, if the loop has had no turn for TURN_S."""
        hub = get_hub()
        if self._is_long(hub):
            timer = _next_turn(hub)
            try:
                hub.wait(timer)
            finally:
                timer.close()

    def take_turn(self) -> None:
        """Before what takes milliseconds: likewise, and wait for all who asked for the same before."""
        hub = get_hub()
        if self._is_long(hub):
            if (queue := self._queues.get(hub)) is None:
                queue = self._queues[hub] = _Queue(hub)
            queue.wait()

    def _is_long(self, hub: Hub) -> bool:
        now = time.monotonic()
        if (number := hub.loop.iteration) != self._number:
            self._number, self._began = number, now
        return now - self._began > TURN_S


_turn = _Turn()
give_way = _turn.give_way
take_turn = _turn.take_turn


def in_slices(data: bytes, size: int = SLICE_BYTES) -> Iterator[bytes]:
    """`data` in parts of `size` bytes at most, with the others' turn before each but the first of what is small."""
    for begin in range(0, len(data), size):
        if begin or len(data) > SMALL_BYTES:
            take_turn()
        yield data[begin : begin + size]
