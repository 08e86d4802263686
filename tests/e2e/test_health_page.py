"""Health tells of the whole node: what its workers do now, and why they could not reach an upstream."""

import base64
import json
import uuid
from typing import Any

import pytest

from mock_openai.mock import MockOpenAI
from tests.http_by_hand import HandClient, call
from tests.servers import ADMIN_PASSWORD, DEPLOYED, Server, fetch, wait_for

JSON = ("Content-Type", "application/json")
STREAM = b'{"model": "gpt-4o-mini", "stream": true, "messages": []}'


def page(server: Server, path: str, kind: str = "text/html") -> str:
    basic = base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
    return fetch(server.url, "GET", path, {"Authorization": f"Basic {basic}", "Accept": kind})[2].decode()


def health(server: Server) -> dict[str, Any]:
    return json.loads(page(server, "/admin/health", "application/json"))


def test_health_counts_the_workers_and_the_calls_of_all_of_them(upstream: MockOpenAI, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, WEB_CONCURRENCY="2") as server:
        token, gates = server.issue_token(), [str(uuid.uuid4()) for _ in range(4)]
        clients = [HandClient(server.url) for _ in gates]
        for client, gate in zip(clients, gates, strict=True):
            headers = (token.bearer, JSON, ("x-mock-gate", gate))
            client.send_request("POST", "/v1/chat/completions", *headers, body=STREAM)
            client.read_chunk(client.read_head())

        wait_for(lambda: health(server)["node"]["streams"] == 4, otherwise=lambda: health(server))
        node = health(server)["node"]

        assert node == {"workers": 2, "workers_wanted": 2, "calls": 4, "streams": 4, "websockets": 0}
        asked = page(server, f"/admin/projects/{token.project_id}/switch")
        assert "At least <strong>4 calls</strong> of it run on this node now." in asked
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("place", "cause"),
    [("http://127.0.0.1:9", "refused"), ("https://{upstream}", "tls"), ("https://nowhere.invalid", "dns")],
)
def test_health_tells_why_an_upstream_was_not_reached(proxy, upstream, place, cause):
    place = place.format(upstream=upstream.url.partition("://")[2])
    token = proxy.issue_token(proxy.create_project(base_url=place))

    assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 502

    failure = wait_for(lambda: health(proxy)["failures"].get(place), otherwise=lambda: health(proxy))
    assert failure["cause"] == cause


def test_a_client_that_leaves_is_no_failure_of_the_upstream(proxy, lonely_mock):
    token = proxy.issue_token(proxy.create_project(base_url=lonely_mock.url))
    with HandClient(proxy.url) as client:
        client.send_request("GET", "/v1/models", token.bearer, ("x-mock-hold", "1"))
        lonely_mock.wait_for("waiting", path="/v1/models")
    [record] = proxy.wait_for_records(1, token)

    assert record["outcome"] == "client_closed"
    assert lonely_mock.url not in health(proxy)["failures"]
