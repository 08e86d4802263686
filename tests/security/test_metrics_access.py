"""Who may ask for the metrics, and what it costs the others when somebody does so all the time."""

import threading
import time

import pytest

from app import create_app
from config import load
from tests.blueprints.conftest import close
from tests.http_by_hand import HandClient, call
from tests.servers import Server, environment, on_both_servers

BY_PROXY = [
    ("X-Forwarded-For", "203.0.113.1"), ("X-Real-IP", "203.0.113.1"), ("Forwarded", "for=203.0.113.1"),
    ("X-Forwarded-Proto", "https"), ("Via", "1.1 nginx"), ("X-Forwarded-For", ""), ("X-Forwarded-For", "127.0.0.1"),
]  # fmt: skip


@on_both_servers
@pytest.mark.parametrize("header", BY_PROXY)
def test_without_a_token_what_a_proxy_passes_on_gets_no_metrics(header, proxy):
    answer = call(proxy.url, "GET", "/metrics", header)

    assert answer.status == 403 and "METRICS_TOKEN" in answer.json["error"]["message"]
    assert call(proxy.url, "GET", "/metrics").status == 200


def test_without_a_token_another_machine_gets_no_metrics(tmp_path):
    """The application alone: a peer whose address is none of loopback's is hard to come by in a test."""
    app = create_app(load(environment(tmp_path / "data")))
    statuses = {
        peer: app.test_client().get("/metrics", environ_base={"REMOTE_ADDR": peer}).status_code
        for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.1", "192.0.2.1", "fe80::1", "")
    }
    close(app)

    assert [peer for peer, status in statuses.items() if status == 200] == [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
    ]
    assert set(statuses.values()) == {200, 403}


@on_both_servers
def test_a_token_is_asked_for_from_everywhere(server_kind, upstream, tmp_path):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, METRICS_TOKEN="m" * 20) as server:
        right = ("Authorization", f"Bearer {'m' * 20}")
        assert call(server.url, "GET", "/metrics").status == 401
        assert call(server.url, "GET", "/metrics", right, ("X-Forwarded-For", "203.0.113.1")).status == 200


def test_one_text_serves_all_who_ask_within_a_second(proxy, upstream, token):
    proxy.metrics()
    texts, began = set(), time.monotonic()

    def ask() -> None:
        with HandClient(proxy.url) as client:
            for _ in range(20):
                texts.add(client.call("GET", "/metrics").body)

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()

    assert 1 <= len(texts) <= time.monotonic() - began + 2
