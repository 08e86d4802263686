"""
Reads the body of a stream in the event loop itself, so that hundreds of streams are read before the tool is measured.

A greenlet that waits for its socket pays for each event: a read that finds nothing, a timer, two switches, more than
half of what an event costs. The loop's callback pays for none of them; the greenlet sleeps until the stream ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gevent.ssl
from gevent.event import Event

READ_BYTES = 64 * 1024
READABLE = 1

Take = Callable[[bytes, int], None]


def read_stream(response: Any, take: Take, timeout_s: float) -> None:
    """
    Hands each piece of the body to `take` with the nanosecond when it was read, until the body is complete.

    Args:
        response: geventhttpclient's, after its head. It gets its connection back, or closes it when this raises.
        timeout_s: The longest silence before TimeoutError.

    Raises what the connection, the parser or `take` raises.
    """
    reading = _Reading(response, take)
    try:
        # What came with the head.
        reading.hand_on(time.monotonic_ns())
        if response.message_complete:
            return
        if isinstance(response._sock, gevent.ssl.SSLSocket):
            reading.read_decrypted()
        else:
            reading.read_by_callback(timeout_s)
    except BaseException:
        response.release()
        raise


class _Reading:
    """One body on its way."""

    def __init__(self, response: Any, take: Take) -> None:
        self._response, self._take = response, take
        # The library's own methods wait for a number of bytes or a line; what a read brought stands here.
        self._buffer = response._body_buffer
        self._socket = response._sock
        self._ended = Event()
        self._error: BaseException | None = None
        self._read_at_ns = time.monotonic_ns()

    def hand_on(self, now_ns: int) -> None:
        """Whatever the parser took out of its chunks."""
        if self._buffer:
            self._take(bytes(self._buffer), now_ns)
            self._buffer.clear()

    def read_decrypted(self) -> None:
        """A TLS socket may hold bytes that no loop can see: it is asked, and waits by itself."""
        while not self._response.message_complete:
            data = self._socket.recv(READ_BYTES)
            now_ns = time.monotonic_ns()
            self._response.feed(data)
            self.hand_on(now_ns)

    def read_by_callback(self, timeout_s: float) -> None:
        """Returns once the body is complete; the loop reads it meanwhile."""
        file = self._socket.fileno()
        with closing(gevent.get_hub().loop.io(file, READABLE)) as watcher:
            # The connection goes back to the pool with the last byte: whoever gets it next must not meet us there.
            watcher.start(self._read, file, watcher)
            self._wait(int(timeout_s * 1e9))

    def _wait(self, timeout_ns: int) -> None:
        left_ns = timeout_ns
        # One timer for each time-out, and not one for each event.
        while not self._ended.wait(left_ns / 1e9):
            left_ns = self._read_at_ns + timeout_ns - time.monotonic_ns()
            if left_ns <= 0:
                raise TimeoutError("timed out")
        if self._error is not None:
            raise self._error

    def _read(self, file: int, watcher: Any) -> None:
        try:
            data = os.read(file, READ_BYTES)
            self._read_at_ns = now_ns = time.monotonic_ns()
            self._response.feed(data)
            self.hand_on(now_ns)
            if not self._response.message_complete:
                return
        except BlockingIOError:
            return
        except BaseException as error:
            # It belongs to whoever waits, and not to the loop, which would print it and call again.
            self._error = error
        watcher.stop()
        self._ended.set()
