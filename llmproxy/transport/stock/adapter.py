"""requests' HTTPAdapter, taught to send an UpstreamRequest."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, cast

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import RequestException, Timeout
from urllib3.exceptions import HTTPError

from llmproxy.transport.answer import UpstreamResponse
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.pool import MAX_IDLE_PER_ORIGIN
from llmproxy.transport.request import UpstreamRequest
from llmproxy.transport.stock.answer import StockAnswer
from llmproxy.transport.stock.connection import PlainConnection, PlainPool, TLSPool
from llmproxy.transport.stock.exchange import Exchange, WireHeaders

MAX_ORIGINS = 256


class StockAdapter(HTTPAdapter):
    """Sends an UpstreamRequest as UpstreamAdapter does; the response's ``raw`` is a StockAnswer."""

    def __init__(self, timeouts: Timeouts, context: ssl.SSLContext) -> None:
        self._timeouts = timeouts
        self._context = context
        super().__init__(pool_connections=MAX_ORIGINS, pool_maxsize=MAX_IDLE_PER_ORIGIN)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """requests' own, with our pools."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TLSPool}

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Where to connect: the origin, which the URL may name in another way."""
        origin = _exchange_of(request).request.origin
        tls = {"ssl_context": self._context} if origin.scheme == "https" else {}
        return {"scheme": origin.scheme, "host": origin.host, "port": origin.port}, tls

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the pool's context verifies."""

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:
        """Nothing of meaning: urllib3 would escape it anew. Our pools put the target in its place."""
        return "/"

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """Ours, without cookies."""
        exchange = _exchange_of(req)
        return UpstreamResponse(exchange.request, StockAnswer(resp, exchange))

    def send(self, request: UpstreamRequest, **_: Any) -> Response:  # type: ignore[override]
        """The answer's head, its body unread. Raises what the docstring of `llmproxy.transport` names."""
        exchange = Exchange(request, self._timeouts)
        try:
            return self._send(exchange)
        except RequestsConnectionError:
            if not exchange.may_repeat():
                raise
        # The kept connection died idle; a fresh one tells whether the upstream is there.
        return self._send(Exchange(request, self._timeouts, needs_fresh=True))

    def count_open(self) -> int:
        """How many connections this process has, by whatever adapter of this kind."""
        return PlainConnection.open_now

    def count_idle(self) -> int:
        """How many of them wait for a next call."""
        return sum(pool.count_idle() for pool in self._pools())

    def close(self) -> None:
        """Close every idle connection; urllib3 would wait until nobody refers to its pools."""
        for pool in self._pools():
            pool.close()
        super().close()

    def _pools(self) -> list[Any]:
        pools = self.poolmanager.pools
        found = [pools.get(key) for key in pools.keys()]  # noqa: SIM118  it cannot be iterated over
        return [pool for pool in found if pool is not None]

    def _send(self, exchange: Exchange) -> Response:
        wire = PreparedRequest()
        wire.method, wire.url = exchange.request.method, exchange.request.url
        wire.headers = WireHeaders(exchange)  # type: ignore[assignment]
        wire.body = exchange.body if exchange.body.held is None else exchange.body.held or None  # type: ignore[assignment]
        times = (self._timeouts.connect_s, self._timeouts.first_byte_s)
        try:
            return super().send(wire, stream=True, timeout=times)
        except (RequestsConnectionError, Timeout):
            raise
        except (RequestException, HTTPError) as exc:
            raise RequestsConnectionError(f"no answer from {exchange.request.origin.host}: {exc}") from exc


def _exchange_of(request: PreparedRequest) -> Exchange:
    return cast("WireHeaders", request.headers).exchange
