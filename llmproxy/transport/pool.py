"""Idle connections, kept for the next call."""

from __future__ import annotations

import ssl
import time
from collections import deque

import gevent
from gevent import Timeout
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout, ProxyError

from llmproxy.egress import Egress
from llmproxy.headers import Origin
from llmproxy.transport.connection import Connection

# Most servers and load balancers close an idle connection after a minute or more.
MAX_IDLE_S = 50.0
# A body that is passed on while it comes can be sent only once, so its connection must not turn out dead. No server
# is known that closes one so soon after a response; under load there is always one this young.
MAX_IDLE_FOR_STREAMED_S = 2.0
MAX_IDLE_PER_ORIGIN = 256


class ConnectionPool:
    """
    Idle connections by origin, the youngest first. Nobody ever waits for one.

    Those through an egress proxy are kept like others: an origin has one way to it while the process lives, and no
    connection to a proxy is used for two origins.
    """

    def __init__(self, timeout_s: float, context: ssl.SSLContext, egress: Egress) -> None:
        self._timeout_s = timeout_s
        self._context = context
        self._egress = egress
        self._idle: dict[Origin, deque[Connection]] = {}
        self._closing: gevent.Greenlet | None = None

    def idle(self, origin: Origin, max_idle_s: float) -> Connection | None:
        """
        A connection kept for less than `max_idle_s` that is still good, or None.

        What the upstream has closed meanwhile is dropped.
        """
        kept = self._idle.get(origin)
        while kept and time.monotonic() - kept[-1].idle_since < max_idle_s:
            connection = kept.pop()
            if not connection.is_readable():
                return connection
            connection.close()
        return None

    def connect(self, origin: Origin, *, tunnels: bool = False) -> Connection:
        """
        A new connection: name look-up, TCP, a proxy's tunnel and TLS under one time limit.

        Args:
            tunnels: Whatever is on the way must pass on bytes of any kind.

        Raises ConnectTimeout, ProxyError or ConnectionError, and whatever is thrown into this greenlet meanwhile.
        """
        proxy = self._egress.proxy_for(origin.scheme, origin.host, origin.port)
        place = f"{origin.host}:{origin.port}" + (f" through the proxy {proxy.place}" if proxy else "")
        tunnels |= origin.scheme == "https"
        try:
            # However the time is spent. Outside of gevent, only the calls' own time limits hold.
            with Timeout(self._timeout_s, TimeoutError):
                return Connection(origin, self._timeout_s, self._context, proxy, tunnels=tunnels)
        except ProxyError:
            raise
        except TimeoutError as exc:
            raise ConnectTimeout(f"no connection to {place} in {self._timeout_s} s") from exc
        except (OSError, UnicodeError) as exc:
            raise RequestsConnectionError(f"no connection to {place}: {exc}") from exc

    def put_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange ended cleanly."""
        kept = self._idle.setdefault(connection.origin, deque())
        now = time.monotonic()
        if len(kept) >= MAX_IDLE_PER_ORIGIN:
            kept.popleft().close()
        connection.was_used = True
        connection.idle_since = now
        kept.append(connection)
        if self._closing is None:
            self._closing = gevent.spawn_later(MAX_IDLE_S, self._close_the_old)

    def _close_the_old(self) -> None:
        """
        Close what has been idle for too long, as soon as it has, until there is none.

        The youngest is taken first, so that after a burst the others would lie here for good, and so would all of an
        origin that is never called again.
        """
        try:
            while self._idle:
                old = time.monotonic() - MAX_IDLE_S
                for origin, kept in list(self._idle.items()):
                    while kept and kept[0].idle_since <= old:
                        kept.popleft().close()
                    if not kept:
                        del self._idle[origin]
                gevent.sleep(min((kept[0].idle_since for kept in self._idle.values()), default=old) - old)
        finally:
            self._closing = None

    def count_idle(self) -> int:
        """How many connections wait for a next call."""
        return sum(map(len, self._idle.values()))

    def close(self) -> None:
        """Close every idle connection."""
        for kept in self._idle.values():
            while kept:
                kept.pop().close()
        if self._closing is not None:
            self._closing.kill(block=False)
