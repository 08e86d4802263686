"""
The upstream as the proxy sees it: a requests Session made for proxying, and the one place where that
library's errors become ours.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, cast

import requests
from requests.exceptions import ChunkedEncodingError, RequestException, Timeout
from requests.exceptions import ProxyError as RefusedByProxy

from llmproxy.egress import Egress
from llmproxy.errors import Cause, EgressRefused, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from llmproxy.headers import Origin
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
    Opens calls to upstreams. One per process: its first call comes after the fork.

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
            raise translate(exc, request.origin) from exc

    def count_connections(self) -> tuple[int, int]:
        """How many connections are in use, and how many wait for a next call."""
        idle = self._session.adapter.count_idle()
        return self._session.adapter.count_open() - idle, idle

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()


def translate(exc: RequestException, origin: Origin) -> UpstreamError:
    """Our error for one of requests', met on the way to `origin` or back."""
    kind = UpstreamTimeout if isinstance(exc, Timeout) else UpstreamUnreachable
    error = EgressRefused() if isinstance(exc, RefusedByProxy) else kind()
    error.detail = str(exc)
    error.upstream = origin.place
    error.cause = _cause_of(exc)
    return error


def _cause_of(exc: BaseException) -> Cause:
    """Why, by the first error of the chain that tells it: ours says only where it happened."""
    each: BaseException | None = exc
    while each is not None:
        for kinds, cause in _CAUSES:
            if isinstance(each, kinds):
                return cause
        if isinstance(each, OSError) and each.errno in _NO_WAY:
            return "network"
        each = each.__cause__ or each.__context__
    return "other"


_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
# In this order: a time-out of a handshake is one, and its other side's hanging up is no fault of a certificate.
_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Cause], ...] = (
    (RefusedByProxy, "egress"),
    ((Timeout, TimeoutError), "timeout"),
    ((socket.gaierror, UnicodeError), "dns"),
    (ConnectionRefusedError, "refused"),
    (ssl.SSLEOFError, "hung_up"),
    (ssl.SSLError, "tls"),
    ((ConnectionError, ChunkedEncodingError), "hung_up"),
)
