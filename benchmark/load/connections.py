"""The kept connections that all users of a target share, and how long each took to open."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geventhttpclient.client
from gevent import monkey

from benchmark.load.stream_reader import READ_BYTES

CONNECT_TIMEOUT_S = 10.0

# gevent's own poll() lets other users run first, which would be counted as latency.
_poll = monkey.get_original("select", "poll")


@dataclass(frozen=True, slots=True)
class Opened:
    """How long a connection took to open: TCP, and the TLS handshake after it, None without TLS."""

    connect_ms: float
    tls_ms: float | None = None


class Connections(geventhttpclient.client.HTTPClientPool):
    """
    Shared by all users, so that each certificate store is read only once.

    Args:
        size: The most connections.
        timeout_s: Longest silence of a server.

    Attributes:
        was_connected: Whether there has been a connection, its TLS included.
    """

    def __init__(self, size: int, timeout_s: float) -> None:
        super().__init__(
            concurrency=size,
            network_timeout=timeout_s,
            connection_timeout=min(CONNECT_TIMEOUT_S, timeout_s),
            block_size=READ_BYTES,
        )
        self.was_connected = False
        self._opened: list[Opened] = []

    def take_opened(self) -> list[Opened]:
        """Those that were opened since this was last asked."""
        opened, self._opened = self._opened, []
        return opened

    def get_client(self, url: Any) -> geventhttpclient.client.HTTPClient:
        is_new = (url.host, url.port) not in self.clients
        client = super().get_client(url)
        if is_new:
            pool: Any = client._connection_pool
            pool._connect_socket = self._opening(pool)
            pool._is_socket_alive = _is_idle
            # It sends what it may, a GET above all, once more for each of these; what fails here shall be seen.
            pool.size = -1
        return client

    def _opening(self, pool: Any) -> Callable[[Any, Any], Any]:
        """What the pool does with a new socket, and with a watch in hand."""

        def connect(sock: Any, address: Any) -> Any:
            began = time.monotonic()
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected = time.monotonic()
            tls_ms = None
            if (context := getattr(pool, "ssl_context", None)) is not None:
                sock = context.wrap_socket(sock, server_hostname=pool._request_host)
                tls_ms = (time.monotonic() - connected) * 1000
            self._opened.append(Opened((connected - began) * 1000, tls_ms))
            self.was_connected = True
            return sock

        return connect


def _is_idle(sock: Any) -> bool:
    """Whether a kept connection is still one. The library asks select(), which fails from the 1024th file on."""
    try:
        poller = _poll()
        poller.register(sock.fileno(), select.POLLIN)
        return not poller.poll(0)
    except (OSError, ValueError):
        return False
