"""Waiting for something to read on one of gevent's sockets, at the price of no timer for each wait."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent.socket
from gevent import get_hub
from gevent.hub import Waiter

from llmproxy.sockets import READ

NEVER = float("inf")


class Readiness:
    """
    Waits until there is something to read; one greenlet at a time.

    Its timer is not set anew for each wait: when it rings it looks how long the present wait may still last.

    Args:
        sock: To be closed after this only.

    Attributes:
        deadline: Until when, by the monotonic clock, the present wait may last.
    """

    __slots__ = ("_hub", "_readable", "_rings_at", "_timer", "_waiter", "deadline")

    def __init__(self, sock: gevent.socket.socket) -> None:
        self._hub = get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), READ)
        self._timer = self._hub.loop.timer(0.0)
        self._rings_at = NEVER
        self._waiter: Waiter | None = None
        self.deadline = NEVER

    def wait(self, timeout_s: float) -> float:
        """
        Wait until there is something to read, the end of the stream included. Returns the seconds that are left.

        Raises TimeoutError when nothing has come in time.
        """
        deadline = time.monotonic() + timeout_s
        self.watch(self.wake, timeout_s)
        return max(deadline - time.monotonic(), 0.001)

    def watch(self, on_readable: Callable[[], None], timeout_s: float) -> None:
        """
        Have the event loop call `on_readable` whenever there is something to read, until somebody calls `wake`.

        Nothing is switched to and nothing is started anew for what comes: that costs a third of a `wait`.
        `on_readable` may neither wait nor raise, and puts `deadline` off.

        Raises what `wake` is given, and TimeoutError when the deadline has passed.
        """
        now = time.monotonic()
        self.deadline = now + timeout_s
        if self.deadline < self._rings_at:
            self._ring_in(timeout_s, now)
        self._waiter = waiter = Waiter(self._hub)
        self._readable.start(on_readable)
        try:
            waiter.get()
        finally:
            self._readable.stop()
            self._waiter = None
            self.deadline = NEVER

    def wake(self, error: BaseException | None = None) -> None:
        """End the present wait, by raising `error` in it if there is one. To be called in the event loop."""
        if self._waiter is None:
            return
        if error is None:
            self._waiter.switch(None)
        else:
            self._waiter.throw(error)

    def _ring_in(self, delay_s: float, now: float) -> None:
        self._rings_at = now + delay_s
        self._timer.close()
        self._timer = self._hub.loop.timer(delay_s)
        self._timer.start(self._look)

    def _look(self) -> None:
        self._rings_at = NEVER
        now = time.monotonic()
        if self.deadline <= now:
            self.wake(TimeoutError())
        elif self.deadline < NEVER:
            self._ring_in(self.deadline - now, now)

    def close(self) -> None:
        """Let go of the socket."""
        self._timer.close()
        self._readable.close()
