"""A way through an egress proxy to an origin: CONNECT, RFC 9110 section 9.3.6."""

from __future__ import annotations

import re
import socket

from requests.exceptions import ProxyError

from llmproxy.egress import EgressProxy, authority
from llmproxy.headers import Origin

MAX_HEAD_BYTES = 16 * 1024

_end_of_head = re.compile(rb"\r?\n\r?\n").search
_status_of = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n").match
_HINTS = {407: ": check the credentials in HTTPS_PROXY and HTTP_PROXY", 403: ": it does not allow that host or port"}


def open_tunnel(sock: socket.socket, origin: Origin, proxy: EgressProxy) -> None:
    """
    Have the proxy at the other end of `sock` connect it to the origin.

    Raises:
        ProxyError: it refused, by a status of 4xx.
        OSError: it failed, hung up, or spoke no HTTP.
    """
    place = authority(origin.host, origin.port)
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    status, has_more = _response(sock, proxy)
    if 400 <= status < 500:
        raise refusal(status, origin, proxy)
    # The origin speaks after us only. What came with the head did not come from there.
    if not 200 <= status < 300 or has_more:
        raise ConnectionError(f"the proxy {proxy.place} answered {status}{' and more' if has_more else ''}")


def refusal(status: int, origin: Origin, proxy: EgressProxy) -> ProxyError:
    """The error for a proxy that lets nobody through to the origin. Nothing else of what it said is in it."""
    place = authority(origin.host, origin.port)
    return ProxyError(f"the proxy {proxy.place} refused the way to {place} by a {status}{_HINTS.get(status, '')}")


def _response(sock: socket.socket, proxy: EgressProxy) -> tuple[int, bool]:
    """The status of the proxy's response, and whether something has come after its head."""
    received = b""
    while not (end := _end_of_head(received)):
        piece = sock.recv(4096)
        if not piece or len(received) > MAX_HEAD_BYTES:
            raise ConnectionError(f"the proxy {proxy.place} hung up, or sent no end of its head")
        received += piece
    if not (found := _status_of(received)):
        raise ConnectionError(f"the proxy {proxy.place} speaks no HTTP")
    return int(found[1]), end.end() < len(received)
