"""What a proxy may answer to a CONNECT, whole and byte by byte, and what becomes of it."""

import socket
import threading

import pytest
from requests.exceptions import ProxyError

from llmproxy.egress import proxy_of
from llmproxy.headers import Origin
from llmproxy.transport.tunnel import MAX_HEAD_BYTES, open_tunnel

ORIGIN = Origin("https", "api.example", 443, "api.example", "/v1")
PROXY = proxy_of("http://planted-user:planted-word@proxy:3128")


def asked(answer: bytes, *, origin: Origin = ORIGIN, by_bytes: bool = False) -> bytes:
    """What was sent for a tunnel to a proxy that answers so, and then hangs up."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        sender = threading.Thread(target=_send, args=(theirs, answer, by_bytes))
        sender.start()
        try:
            open_tunnel(ours, origin, PROXY)
        finally:
            sender.join()
        return theirs.recv(65536)


def _send(sock: socket.socket, data: bytes, by_bytes: bool) -> None:
    for piece in [data[at : at + 1] for at in range(len(data))] if by_bytes else [data]:
        sock.send(piece)
    sock.shutdown(socket.SHUT_WR)


def test_the_proxy_is_asked_for_host_and_port_with_its_credentials() -> None:
    assert asked(b"HTTP/1.1 200 OK\r\n\r\n") == (
        b"CONNECT api.example:443 HTTP/1.1\r\nHost: api.example:443\r\n"
        b"Proxy-Authorization: Basic cGxhbnRlZC11c2VyOnBsYW50ZWQtd29yZA==\r\n\r\n"
    )


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    origin = Origin("https", "fd00::1", 8443, "[fd00::1]:8443", "/v1")

    assert asked(b"HTTP/1.1 200 OK\r\n\r\n", origin=origin).startswith(b"CONNECT [fd00::1]:8443 HTTP/1.1\r\n")


@pytest.mark.parametrize("by_bytes", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n", b"HTTP/1.0 200\r\n\r\n", b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nVia: squid\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 204 x\r\nA: b\r\n\r\n",
    ],
)  # fmt: skip
def test_a_tunnel_is_open_after_any_success(answer: bytes, by_bytes: bool) -> None:
    assert asked(answer, by_bytes=by_bytes)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 407, 429, 499])
def test_a_refusal_names_the_proxy_the_place_and_the_status_alone(status: int) -> None:
    answer = f"HTTP/1.1 {status} planted-phrase\r\nContent-Length: 7\r\nX: planted\r\n\r\nplanted"
    with pytest.raises(ProxyError) as refusal:
        asked(answer.encode())

    assert str(refusal.value).startswith(f"the proxy proxy:3128 refused the way to api.example:443 by a {status}")
    assert "planted" not in str(refusal.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"HTTP/1.1 302 x\r\nLocation: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x01", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * MAX_HEAD_BYTES,
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_anything_else_is_no_tunnel(answer: bytes) -> None:
    with pytest.raises(ConnectionError, match=r"^the proxy proxy:3128 ") as failure:
        asked(answer)

    assert "planted" not in str(failure.value)
