"""
The upstream as the proxy sees it: a requests Session made for proxying, and the one place where that
library's errors become ours.
"""

from __future__ import annotations

from typing import Any, cast

import requests
from requests.exceptions import ProxyError as RefusedByProxy
from requests.exceptions import RequestException, Timeout

from llmproxy.egress import Egress
from llmproxy.errors import EgressRefused, ProxyError, UpstreamTimeout, UpstreamUnreachable
from llmproxy.transport.adapter import UpstreamAdapter
from llmproxy.transport.connection import Timeouts, verifying_context
from llmproxy.transport.request import UpstreamRequest
from llmproxy.transport.response import UpstreamResponse


class UpstreamSession(requests.Session):
    """
    A Session that sends a prepared request as it is.

    What requests' own `send` does around the adapter (cookies kept, redirects followed and their bodies read,
    hooks, times taken) is what a proxy must not do, and costs 12 µs.
    """

    def __init__(self, timeouts: Timeouts, egress: Egress | None = None) -> None:
        super().__init__()
        self.adapter = UpstreamAdapter(timeouts, verifying_context(), egress)
        self.mount("https://", self.adapter)
        self.mount("http://", self.adapter)

    def send(self, request: requests.PreparedRequest, **_: Any) -> UpstreamResponse:
        """The response with its body unread. Raises what the adapter raises."""
        return cast(UpstreamResponse, self.get_adapter(url=request.url or "").send(request, stream=True))


class Upstream:
    """
    Opens calls to upstreams. One per process, made after the fork.

    Args:
        timeouts: For every call.
        egress: The way to upstreams; direct to all without one.
    """

    def __init__(self, timeouts: Timeouts, egress: Egress | None = None) -> None:
        self._session = UpstreamSession(timeouts, egress)

    def open(self, request: UpstreamRequest) -> UpstreamResponse:
        """
        Send a request and return the response with its body unread, to be closed by the caller.

        Raises:
            UpstreamUnreachable, EgressRefused, UpstreamTimeout: from the upstream or the way to it.
            ClientGone, BadRequest, BodyTooLarge, BodyTooSlow: from the client's body.
            ProxyError: whatever `on_connection` raised.
        """
        try:
            return self._session.send(request)
        except RequestException as exc:
            raise translate(exc) from exc

    def count_connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many wait for a next call."""
        idle = self._session.adapter.count_idle()
        return self._session.adapter.count_open() - idle, idle

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()


def translate(exc: RequestException) -> ProxyError:
    """Our error for one of requests'."""
    kind = UpstreamTimeout if isinstance(exc, Timeout) else UpstreamUnreachable
    error = EgressRefused() if isinstance(exc, RefusedByProxy) else kind()
    error.detail = str(exc)
    return error
