"""
What an event of a stream costs the servers that pass it on, none of them ever faster or slower than its reader.

Upstream and reader are one loop here. A batch of events goes out, to as many streams as would be due within the same
millisecond, and the next one when all of it has arrived. Without that, a server that falls behind finds several
events at each look, which then cost it less: on a busy machine it would seem cheap.
"""

from __future__ import annotations

import itertools
import json
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from measure.suite.certificate import signed_in
from measure.suite.sample import CHUNK, RESPONSE_HEADERS, request
from measure.suite.server import Server
from measure.suite.turn import Turn

# What falls due within it lies together, as the events of many calls do in one read of a network card.
TICK_S = 0.001
TURN_EVENTS = 200
PATIENCE_S = 20
_EVENT = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
_PIECE = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_MARK = b'"choices"'
_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in RESPONSE_HEADERS.items())
    + "\r\n"
).encode()


class Lockstep:
    """
    The upstream, for the length of a `with` block: `server` is where the proxies find it.

    Args:
        work: It speaks TLS, and keeps its certificate here.
    """

    def __init__(self, work: Path | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._context, authority = None, None
        if work:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate, authority = signed_in(work)
            self._context.load_cert_chain(certificate)
        self.server = Server(self._listener.getsockname()[1], authority=authority)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def cost(
        self, proxies: Sequence[Server], *, streams: int, per_s: float, seconds: float, is_paced: bool
    ) -> list[list[Turn]]:
        """
        Hold so many streams through each proxy, of which one at a time has events, and count their turns.

        Args:
            per_s: Events of each stream; how many lie together follows from it.
            is_paced: Whether the batches keep to that pace, where the machine can; else they follow each other.
        """
        size = max(1, round(streams * per_s * TICK_S))
        gap_s = size / streams / per_s if is_paced else 0
        with ExitStack() as held:
            sides = [held.enter_context(_Side(proxy)) for proxy in proxies]
            for side in sides:
                side.open(streams, self._listener, self._context)
                side.turn(2 * streams, size, gap_s)
            turns: list[list[Turn]] = [[] for _ in sides]
            pairs = list(zip(sides, turns, strict=True))
            end = time.monotonic() + seconds
            # Who was first is last the next time.
            for ordered in itertools.cycle((pairs, pairs[::-1])):
                for side, taken in ordered:
                    taken.append(side.turn(TURN_EVENTS, size, gap_s))
                if time.monotonic() > end:
                    break
        return turns


class _Side:
    """One proxy's streams, both ends of them."""

    def __init__(self, proxy: Server) -> None:
        self._proxy = proxy
        self._selector = selectors.DefaultSelector()
        self._held = ExitStack()
        self._upstreams: list[socket.socket] = []
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        self._held.close()

    def open(self, streams: int, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Ask for the streams, one after the other. Raises when one is refused."""
        for _ in range(streams):
            reader = self._held.enter_context(socket.create_connection(("127.0.0.1", self._proxy.port), PATIENCE_S))
            reader.sendall(request(self._proxy.bearer))
            upstream = _accepted(listener, reader)
            upstream.settimeout(PATIENCE_S)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context:
                upstream = context.wrap_socket(upstream, server_side=True)
            self._upstreams.append(self._held.enter_context(upstream))
            upstream.recv(65536)
            upstream.sendall(_HEAD)
            head = reader.recv(65536)
            if b" 200 " not in head[:15]:
                raise RuntimeError(f"the server answered {head[:200]!r}")
            self._selector.register(reader, selectors.EVENT_READ, bytearray())

    def turn(self, events: int, size: int, gap_s: float) -> Turn:
        """Send so many events in batches of `size`, each as soon as the one before has arrived."""
        before, due = self._proxy.cpu_s(), time.monotonic()
        for _ in range(events // size):
            time.sleep(max(0, due - time.monotonic()))
            for _ in range(size):
                self._upstreams[self._next].sendall(_PIECE)
                self._next = (self._next + 1) % len(self._upstreams)
            self._receive(size)
            due = max(due + gap_s, time.monotonic())
        return Turn(self._proxy.cpu_s() - before, events // size * size)

    def _receive(self, events: int) -> None:
        while events > 0:
            ready = self._selector.select(PATIENCE_S)
            if not ready:
                raise RuntimeError("an event never came")
            for key, _ in ready:
                data = cast(socket.socket, key.fileobj).recv(65536)
                if not data:
                    raise ConnectionError("a stream broke off")
                text = key.data + data
                events -= text.count(_MARK)
                # What may be the first bytes of a mark: too few to hold a whole one, which would count twice.
                key.data[:] = text[1 - len(_MARK) :]


def _accepted(listener: socket.socket, reader: socket.socket) -> socket.socket:
    """The connection that a proxy makes for what it was just asked. Raises when it answers by itself."""
    with selectors.DefaultSelector() as waiting:
        for sock in (listener, reader):
            waiting.register(sock, selectors.EVENT_READ)
        ready = [key.fileobj for key, _ in waiting.select(PATIENCE_S)]
    if listener not in ready:
        raise RuntimeError(f"the server answered {reader.recv(200)!r}" if ready else "no call came through")
    return listener.accept()[0]
