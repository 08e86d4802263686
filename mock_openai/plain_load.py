"""
The cheapest load that Python can make: one request, ever again, over kept connections, from one loop.

For measuring servers that are faster than a load generator with features; `llm-benchmark` is that.
"""

from __future__ import annotations

import selectors
import socket
import time
from types import TracebackType
from typing import Self

PATIENCE_S = 20


class PlainLoad:
    """
    `concurrency` connections to a port of this machine, kept for the length of a `with` block.

    One loop over all connections and no threads: on few processors a costly load disturbs what it measures.
    """

    def __init__(self, port: int, request: bytes, concurrency: int) -> None:
        self._request = request
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        for _ in range(concurrency):
            sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            self._selector.register(sock, selectors.EVENT_READ, _Exchange(sock))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.close()
        for sock in self._sockets:
            sock.close()

    def times_s(self, requests: int) -> list[float]:
        """
        How long each of `requests` took; there are at least as many as connections.

        Raises RuntimeError when a response is no 200 of known length, ConnectionError when the server hangs up.
        """
        times: list[float] = []
        for key in self._selector.get_map().values():
            key.data.send(self._request)
        sent = len(self._sockets)
        while len(times) < requests:
            ready = self._selector.select(PATIENCE_S)
            if not ready:
                raise RuntimeError("no response came")
            for key, _ in ready:
                exchange: _Exchange = key.data
                if exchange.is_complete():
                    times.append(time.perf_counter() - exchange.started)
                    if sent < requests:
                        exchange.send(self._request)
                        sent += 1
        return times


class _Exchange:
    """One request on a connection, and as much of its response as has come."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.started = 0.0
        self._data = b""
        self._size: int | None = None

    def send(self, request: bytes) -> None:
        self.started = time.perf_counter()
        self._data, self._size = b"", None
        self._sock.sendall(request)

    def is_complete(self) -> bool:
        """Take what has come; True when it ends the response."""
        piece = self._sock.recv(65536)
        if not piece:
            raise ConnectionError("the server hung up")
        self._data += piece
        if self._size is None and (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            if b" 200 " not in head[:15]:
                raise RuntimeError(head[:60].decode())
            self._size = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        return self._size is not None and len(self._data) >= self._size
