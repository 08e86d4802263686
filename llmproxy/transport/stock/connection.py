"""urllib3's connections and pools, told of the exchange that runs on them."""

from __future__ import annotations

import socket
import time
from functools import partial
from typing import Any, ClassVar, cast

from gevent import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from llmproxy.transport.attempt import ConnectionAttempt
from llmproxy.transport.pool import MAX_IDLE_FOR_STREAMED_S, MAX_IDLE_S
from llmproxy.transport.stock.exchange import Exchange
from llmproxy.transport.stock.parser import StockParser

# One write of the kernel takes so much whole or not at all.
ONE_WRITE_BYTES = 16 * 1024


class PlainConnection(HTTPConnection):
    """
    A connection without TLS, at most one exchange at a time.

    Attributes:
        idle_since: When its last exchange ended, by the monotonic clock.
        exchange: The one that runs, or ran.
        open_now: How many connections of this kind the process has.
    """

    open_now: ClassVar[int] = 0

    idle_since = 0.0
    exchange: Exchange
    _counted = 0

    def take(self, exchange: Exchange) -> None:
        """Run `exchange` here, on the kept connection when it is young enough for it."""
        max_idle_s = MAX_IDLE_FOR_STREAMED_S if exchange.body.held is None else MAX_IDLE_S
        if exchange.needs_fresh or time.monotonic() - self.idle_since >= max_idle_s:
            self.close()
        self.exchange = exchange
        self.response_class = partial(StockParser, exchange)  # type: ignore[assignment]
        is_kept = not self.is_closed
        if not is_kept:
            self.connect()
        exchange.runs_on(self.sock, is_kept=is_kept)

    def connect(self) -> None:
        """Connect within the time limit, aborted when the call ends."""
        attempt = ConnectionAttempt(self.exchange.timeouts.connect_s)
        self.exchange.request.on_connection(attempt)
        try:
            with attempt:
                super().connect()
            self._count(1)
        except ConnectionAbortedError as exc:
            raise NewConnectionError(self, str(exc)) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc

    def close(self) -> None:
        """Close, whatever its state."""
        self._count(0)
        super().close()

    def detach(self) -> socket.socket:
        """Its socket, which is the caller's from here on."""
        self._count(0)
        sock: Any = self.sock
        self.sock = None
        return cast("socket.socket", sock)

    def _count(self, mine: int) -> None:
        PlainConnection.open_now += mine - self._counted
        self._counted = mine

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")  # http.client takes ASCII alone

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send, each step within the idle time."""
        self.timeout = self.exchange.timeouts.idle_s
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        """Send, and count."""
        exchange = self.exchange
        try:
            super().send(data)
        except TimeoutError as exc:
            raise ReadTimeoutError(None, None, "the upstream does not take the request") from exc  # type: ignore[arg-type]
        except OSError:
            exchange.send_failed = True
            exchange.sent += len(data) if len(data) > ONE_WRITE_BYTES else 0
            raise
        exchange.sent += len(data)

    def getresponse(self) -> Any:
        """The head of the answer, within the time that the first byte may take."""
        # The sockets' own time limit starts anew with each byte.
        limit = Timeout(self.exchange.timeouts.first_byte_s)
        limit.start()
        try:
            return super().getresponse()
        except Timeout as exc:
            if exc is not limit:
                raise
            raise ReadTimeoutError(None, None, "the upstream did not answer in time") from None  # type: ignore[arg-type]
        finally:
            limit.close()


class TLSConnection(PlainConnection, HTTPSConnection):
    """A connection with TLS."""


class PlainPool(HTTPConnectionPool):
    """Connections without TLS."""

    ConnectionCls = PlainConnection

    def _make_request(self, conn: Any, method: str, url: str, *args: Any, **options: Any) -> BaseHTTPResponse:
        exchange: Exchange = options["headers"].exchange
        conn.take(exchange)
        response: BaseHTTPResponse = super()._make_request(conn, method, exchange.request.target, *args, **options)
        return response

    def count_idle(self) -> int:
        """How many connections wait in it."""
        kept = list(self.pool.queue) if self.pool else []
        return sum(connection is not None and not connection.is_closed for connection in kept)


class TLSPool(PlainPool, HTTPSConnectionPool):
    """Connections with TLS."""

    ConnectionCls = TLSConnection
