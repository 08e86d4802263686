"""Waiting for something to read on one of gevent's sockets, at the price of no timer for each wait."""

from __future__ import annotations

import time

import gevent.socket
from gevent import get_hub

from llmproxy.sockets import READ

NEVER = float("inf")


class Readiness:
    """
    Waits until there is something to read; one greenlet at a time.

    Its timer is not set anew for each wait: when it rings it looks how long the present wait may still last.

    Args:
        sock: To be closed after this only.
    """

    __slots__ = ("_deadline", "_hub", "_readable", "_rings_at", "_timer")

    def __init__(self, sock: gevent.socket.socket) -> None:
        self._hub = get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), READ)
        self._timer = self._hub.loop.timer(0.0)
        self._rings_at = NEVER
        self._deadline = NEVER

    def wait(self, timeout_s: float) -> float:
        """
        Wait until there is something to read, the end of the stream included. Returns the seconds that are left.

        Raises TimeoutError when nothing has come in time.
        """
        now = time.monotonic()
        self._deadline = now + timeout_s
        if self._deadline < self._rings_at:
            self._ring_in(timeout_s, now)
        try:
            self._hub.wait(self._readable)
            return max(self._deadline - time.monotonic(), 0.001)
        finally:
            self._deadline = NEVER

    def _ring_in(self, delay_s: float, now: float) -> None:
        self._rings_at = now + delay_s
        self._timer.close()
        self._timer = self._hub.loop.timer(delay_s)
        self._timer.start(self._look)

    def _look(self) -> None:
        self._rings_at = NEVER
        now = time.monotonic()
        if self._deadline <= now:
            self._hub.cancel_wait(self._readable, TimeoutError)
        elif self._deadline < NEVER:
            self._ring_in(self._deadline - now, now)

    def close(self) -> None:
        """Let go of the socket."""
        self._timer.close()
        self._readable.close()
