"""
Turns of the event loop. Greenlets switch where they wait; what has its next bytes already never waits, and would keep
everybody else of its process waiting. So whatever may go on without a wait asks `give_way` now and then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from gevent import get_hub

# A look at the clock for each piece costs 0.3 µs, a turn for each piece would cost twenty times that. Another
# client's request takes several turns: to be accepted, read and answered.
TURN_S = 0.002
# Of what costs most to look at, a few milliseconds' worth.
SLICE_BYTES = 8 * 1024


class _Turn:
    """The loop's present turn, and since when it is known."""

    __slots__ = ("_began", "_number")

    def __init__(self) -> None:
        self._number = -1
        self._began = 0.0

    def give_way(self) -> None:
        """Let others run, and what has arrived meanwhile be seen, if the loop has had no turn for TURN_S."""
        hub = get_hub()
        now = time.monotonic()
        if (number := hub.loop.iteration) != self._number:
            self._number, self._began = number, now
        elif now - self._began > TURN_S:
            # Not sleep(0): fifty of those come before the loop looks at a socket. And after all that it sees there.
            timer = hub.loop.timer(0.0, priority=hub.loop.MINPRI)
            try:
                hub.wait(timer)
            finally:
                timer.close()


give_way = _Turn().give_way


def in_slices(data: bytes, size: int = SLICE_BYTES) -> Iterator[bytes]:
    """`data` in parts of `size` bytes at most, with the others' turn between two of them."""
    for begin in range(0, len(data), size):
        if begin:
            give_way()
        yield data[begin : begin + size]
