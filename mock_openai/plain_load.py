"""
The cheapest load that Python can make: one request, ever again, over kept connections, from one loop.

For measuring servers that are faster than a load generator with features; `runner` is that.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast


def times(port: int, request: bytes, requests: int, concurrency: int) -> Iterator[float]:
    """
    How long each of `requests` took, over `concurrency` kept connections.

    One loop over all connections and no threads: on few processors a costly load disturbs what it measures.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as open_sockets:
        for _ in range(concurrency):
            sock = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(request)
            selector.register(sock, selectors.EVENT_READ, _Exchange(time.perf_counter()))
        sent, answered = concurrency, 0
        while answered < requests:
            ready = selector.select(timeout=20)
            if not ready:
                raise RuntimeError("no answer came")
            for key, _ in ready:
                sock, exchange = cast(socket.socket, key.fileobj), key.data
                if not exchange.is_complete_with(sock.recv(65536)):
                    continue
                yield time.perf_counter() - exchange.started
                answered += 1
                if sent < requests:
                    exchange.restart()
                    sock.sendall(request)
                    sent += 1


class _Exchange:
    """One request on a connection, and as much of its answer as has come."""

    def __init__(self, started: float) -> None:
        self.started = started
        self._data = b""
        self._size: int | None = None

    def restart(self) -> None:
        """Begin the next one."""
        self.__init__(time.perf_counter())  # type: ignore[misc]

    def is_complete_with(self, piece: bytes) -> bool:
        """True when `piece` ends the answer. Raises when it is not a 200 of known length."""
        if not piece:
            raise ConnectionError("the server hung up")
        self._data += piece
        if self._size is None and (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            if b" 200 " not in head[:15]:
                raise RuntimeError(head[:60].decode())
            self._size = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return self._size is not None and len(self._data) >= self._size
