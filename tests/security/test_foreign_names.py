"""The names of headers are chosen by strangers and by upstreams: none of them stays in memory."""

import itertools
import sys

import pytest

from tests.e2e.test_memory import ALLOWED_MIB, Peak
from tests.http_by_hand import HandClient
from tests.servers import on_both_servers
from tests.upstream import Peer, ScriptedUpstream

pytestmark = [
    on_both_servers,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux"),
]
_numbers = itertools.count()


def fresh_names(size: int, count: int) -> list[str]:
    return [f"X-{next(_numbers)}-".ljust(size, "a") for _ in range(count)]


@pytest.mark.parametrize("path", ["/v1/models", "/healthz"])
def test_names_without_a_token_take_no_memory(proxy, path):
    def send(count: int) -> None:
        for _ in range(count):
            client.send_request("GET", path, *[(name, "1") for name in fresh_names(3900, 2)])
            assert client.read_answer().status in (200, 401)

    with HandClient(proxy.url) as client:
        send(50)
        with Peak(proxy) as peak:
            send(2000)

    # Remembered, they would take 30 MiB.
    assert peak.grown_mib < ALLOWED_MIB


def test_names_of_an_upstream_take_no_memory(proxy):
    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            lines = "".join([f"{name}: 1\r\n" for name in fresh_names(1000, 60)])
            peer.send(f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok".encode())

    with ScriptedUpstream(every=script) as upstream, HandClient(proxy.url) as client:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url))
        for _ in range(20):
            assert client.call("GET", "/v1/models", token.bearer).status == 200
        with Peak(proxy) as peak:
            for _ in range(400):
                assert client.call("GET", "/v1/models", token.bearer).status == 200

    # Remembered, they would take 24 MiB and more.
    assert peak.grown_mib < ALLOWED_MIB
