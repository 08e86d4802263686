"""Reads many paced streams at once, and says how late each event came and whether any is missing."""

from __future__ import annotations

import re
import selectors
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

from measure.suite.sample import request
from measure.suite.server import Server

_SENT = re.compile(rb'"sent_ns":(\d+),')
_LONGEST_MARK = 40


@dataclass(frozen=True)
class StreamRound:
    """
    One round.

    Attributes:
        delays_ms: From an event's sending to its arrival, sorted.
        lost: Events that never came.
        cpu_us: Of the server that was asked, per event.
        own_cpu_us: Of this process, per event.
    """

    delays_ms: list[float]
    lost: int
    cpu_us: float
    own_cpu_us: float

    def percentile(self, share: float) -> float:
        """A delay in milliseconds."""
        return self.delays_ms[min(int(len(self.delays_ms) * share), len(self.delays_ms) - 1)]


def stream_round(server: Server, *, streams: int, per_s: float, duration_s: float) -> StreamRound:
    """Hold `streams` of them for a while. Raises when one breaks off or is refused."""
    events = int(per_s * duration_s)
    readers = []
    with ExitStack() as held, selectors.DefaultSelector() as selector:
        cpu, own = server.cpu_s(), time.process_time()
        begun = time.monotonic()
        for number in range(streams):
            # Spread over one gap between two events, as streams that nobody coordinates would be.
            _read_until(selector, begun + max(number / streams / per_s, number * 0.0005))
            reader = held.enter_context(open_stream(server, events=events, per_s=per_s))
            selector.register(reader.sock, selectors.EVENT_READ, reader)
            readers.append(reader)
        deadline = time.monotonic() + duration_s + 30
        while selector.get_map() and time.monotonic() < deadline:
            _read_ready(selector, 1)
        cpu, own = server.cpu_s() - cpu, time.process_time() - own
    delays = sorted(delay / 1e6 for reader in readers for delay in reader.delays_ns)
    expected = streams * events
    return StreamRound(delays, expected - len(delays), cpu / expected * 1e6, own / expected * 1e6)


def open_stream(server: Server, *, events: int, per_s: float) -> StreamReader:
    """A stream that has been asked for."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request(server.bearer, query=f"?events={events}&per_s={per_s}"))
    return StreamReader(sock, events)


class StreamReader:
    """One stream; closes its socket at the end of a `with` block."""

    def __init__(self, sock: socket.socket, events: int) -> None:
        self.sock = sock
        self.delays_ns: list[int] = []
        self._events = events
        self._tail = b""
        self._is_begun = False

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read(self) -> bool:
        """Take what has arrived; False when the stream is over. Raises when it is not a stream."""
        data = self.sock.recv(65536)
        now = time.monotonic_ns()
        if not self._is_begun and data[9:12] not in (b"200", b""):
            raise RuntimeError(f"the server answered {data[:200]!r}")
        self._is_begun = True
        text = self._tail + data
        end = 0
        for mark in _SENT.finditer(text):
            self.delays_ns.append(now - int(mark[1]))
            end = mark.end()
        self._tail = text[max(end, len(text) - _LONGEST_MARK) :]
        return bool(data) and len(self.delays_ns) < self._events


def _read_until(selector: selectors.BaseSelector, moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        _read_ready(selector, left)


def _read_ready(selector: selectors.BaseSelector, timeout_s: float) -> None:
    for key, _ in selector.select(timeout_s):
        if not key.data.read():
            selector.unregister(key.fileobj)
