"""How slowly a request body may come, and what ends the wait for one that comes more slowly."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gevent import get_hub, getcurrent

from llmproxy.client.guard import CallGuard
from llmproxy.client.request_body import ByteStream
from llmproxy.errors import BodyTooSlow


@dataclass(frozen=True, slots=True)
class UploadPace:
    """
    A floor under the rate of a body, and the time that it may lag behind.

    An idle limit alone lets a client hold a connection for ever by sending a byte now and then.
    """

    min_bytes_per_s: float
    grace_s: float

    def allowed_s(self, size: int) -> float:
        """Seconds that may be spent waiting for the first `size` bytes."""
        return self.grace_s + size / self.min_bytes_per_s


class PacedStream:
    """
    A client's body that has to keep to a pace. Only the waiting for the client counts, not what an upstream takes.

    Args:
        stream: Where the bytes come from.
        pace: More slowly than this, a read raises BodyTooSlow.
        guard: Of the call, which is told that the client is waited for: what ends the call then ends a read.
    """

    __slots__ = ("_guard", "_pace", "_size", "_stream", "_waited_s")

    def __init__(self, stream: ByteStream, pace: UploadPace, guard: CallGuard) -> None:
        self._guard = guard
        self._stream = stream
        self._pace = pace
        self._size = 0
        self._waited_s = 0.0

    def read1(self, size: int, /) -> bytes:
        """As a ByteStream has it. Raises what ended the call meanwhile, too."""
        began = time.monotonic()
        # gevent.Timeout does the same for five times the cost, and every body is read through here.
        timer = get_hub().loop.timer(max(0.0, self._pace.allowed_s(self._size + 1) - self._waited_s))
        timer.start(getcurrent().throw, BodyTooSlow)
        self._guard.reads_client = True
        try:
            data = self._stream.read1(size)
        finally:
            self._guard.reads_client = False
            timer.stop()
            timer.close()
            self._waited_s += time.monotonic() - began
        self._size += len(data)
        return data
