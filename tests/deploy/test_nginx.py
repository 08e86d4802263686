"""The nginx of compose.yaml for real: its own file, with TLS, in front of two proxies that share a database."""

import base64
import re
import shutil
import socket
import ssl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.sync.client import connect

from mock_openai.mock import MockOpenAI
from tests.databases import database_of
from tests.deploy.compose import ROOT, make_secrets
from tests.e2e.test_streaming import ask
from tests.http_by_hand import Answer, HandClient, call
from tests.nginx import Nginx, needs_nginx
from tests.ports import free_port
from tests.servers import ADMIN_PASSWORD, DEPLOYED, Server, Token, wait_for
from tests.websocket_upstream import WebSocketUpstream

OPERATIONS = (ROOT / "docs/operations.md").read_text()
BASIC = ("Authorization", "Basic " + base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode())
CONFIGURATION = ROOT / "deploy/nginx/llm-proxy.conf"

pytestmark = [
    needs_nginx,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]


class Pair(NamedTuple):
    """Two proxies on one database, and the port of the nginx before them."""

    nodes: tuple[Server, Server]
    port: int
    certificate: Path

    def client(self) -> HandClient:
        """A connection over TLS, which trusts that certificate alone."""
        client = HandClient(f"http://127.0.0.1:{self.port}")
        context = ssl.create_default_context(cafile=str(self.certificate))
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        client._reader = client.sock.makefile("rb")
        return client

    def call(self, method: str, path: str, token: Token, *headers: tuple[str, str], body: bytes = b"") -> Answer:
        with self.client() as client:
            return client.call(method, path, token.bearer, *headers, body=body)


@contextmanager
def two_nodes(upstream: MockOpenAI, directory: Path) -> Iterator[Pair]:
    shared = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": database_of(directory), "DRAIN_OVERLAP": "1"}
    shared["TRUSTED_PROXIES"] = "127.0.0.1"
    make_secrets(directory / "secrets")
    with Server(DEPLOYED, directory / "one", **shared) as one, Server(DEPLOYED, directory / "two", **shared) as two:
        port = free_port()
        with deployed_nginx(directory, port, one.url, two.url):
            yield Pair((one, two), port, directory / "secrets/tls_certificate")


@pytest.fixture(scope="module")
def pair(running_upstream, tmp_path_factory) -> Iterator[Pair]:
    with two_nodes(running_upstream, tmp_path_factory.mktemp("nginx")) as pair:
        yield pair


def deployed_nginx(directory: Path, port: int, *urls: str, ops: str = "", ops_port: int | None = None) -> Nginx:
    """
    nginx with the file as it is in the repository, but for ports and paths.

    Args:
        ops: What both proxies' listeners for operators are, at `ops_port` of nginx.
    """
    text = CONFIGURATION.read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
    text = text.replace("listen 8443", f"listen 127.0.0.1:{ops_port or free_port()}")
    text = text.replace("/run/secrets", str(directory / "secrets"))
    for number, url in enumerate(urls, 1):
        text = text.replace(f"proxy-{number}:8080", url.removeprefix("http://"))
        text = text.replace(f"proxy-{number}:9090", (ops or url).removeprefix("http://"))
    # Nobody is that far away here.
    text = text.replace("proxy_connect_timeout 5s", "proxy_connect_timeout 1s")
    return Nginx(directory, port, text)


def test_events_leave_nginx_as_they_arrive(pair: Pair, upstream) -> None:
    token, gate = pair.nodes[0].issue_token(), str(uuid.uuid4())
    with pair.client() as client:
        ask(client, token, f"gate: {gate}", "events: 3")
        answer = client.read_head()
        received = 0
        while client.read_chunk(answer):  # a piece came: only now may the upstream send another
            received += 1
            upstream.release(gate)

    assert (answer.status, answer.is_whole) == (200, True)
    assert received >= upstream.wait_for("answered")["pieces_sent"] > 3


def test_events_leave_an_nginx_of_defaults_as_they_arrive(proxy, upstream, token, tmp_path: Path) -> None:
    port, gate = free_port(), str(uuid.uuid4())
    place = f"location / {{ proxy_pass {proxy.url}; proxy_set_header X-Forwarded-For $remote_addr; }}"
    server = f"server {{ listen 127.0.0.1:{port}; {place} }}"
    with Nginx(tmp_path, port, server), HandClient(f"http://127.0.0.1:{port}") as client:
        ask(client, token, f"gate: {gate}", "events: 3")
        answer = client.read_head()
        while client.read_chunk(answer):  # held back, it would not come before the next
            upstream.release(gate)

    assert (answer.status, answer.is_whole) == (200, True)
    assert upstream.wait_for("answered")["pieces_sent"] > 3


def test_the_lines_of_the_page_put_it_below_a_path(upstream, tmp_path: Path) -> None:
    (block,) = re.findall(r"test_nginx\.py: below a path -->\n```nginx\n(.*?)```", OPERATIONS, re.DOTALL)
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, ROOT_PATH="/llm") as server:
        port, token = free_port(), server.issue_token()
        lines = block.replace("http://llm_proxy", server.url)
        with Nginx(tmp_path, port, f"server {{ listen 127.0.0.1:{port}; merge_slashes off; {lines} }}"):
            url, target = f"http://127.0.0.1:{port}", "/v1/files/a%2Fb//c?q=%C3%BC&&"
            call(url, "GET", f"/llm{target}", token.bearer)
            assert upstream.last_request()["target"] == target
            redirect = call(url, "GET", "/llm/admin", BASIC)
            page = call(url, "GET", "/llm/admin/", BASIC, ("Accept", "text/html"))
            assert call(url, "GET", "/llm/metrics").status == 404

    assert redirect["location"] == "/llm/admin/"
    assert page.status == 200 and "; Path=/llm/admin" in page["set-cookie"]


def test_the_target_and_odd_headers_pass_as_they_were_sent(pair: Pair, upstream) -> None:
    token = pair.nodes[0].issue_token()
    target = "/v1/files/a%2Fb//c%20d?q=%C3%BC&&"
    pair.call("GET", target, token, ("under_score", "1"), ("x-forwarded-for", "10.0.0.1"))

    seen = upstream.last_request()
    assert seen["target"] == target
    names = {name.lower() for name, _ in seen["headers"]}
    assert "under_score" in names
    assert not {name for name in names if name.startswith("x-forwarded-")}


def test_whoever_came_by_tls_is_told_to_come_so_again(pair: Pair) -> None:
    token = pair.nodes[0].issue_token()
    answers = [pair.call("GET", path, token) for path in ("/v1/models", "/healthz", "/nowhere")]

    assert [answer.status for answer in answers] == [200, 200, 404]
    assert [answer.all("strict-transport-security") for answer in answers] == [["max-age=31536000"]] * 3


def test_a_body_over_nginxs_own_limit_is_the_proxys_business(pair: Pair, upstream) -> None:
    token = pair.nodes[0].issue_token()
    body = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "' + b"x" * 3_000_000 + b'"}]}'

    assert (
        pair.call("POST", "/v1/chat/completions", token, ("Content-Type", "application/json"), body=body).status
        == 200
    )


def test_a_websocket_passes(pair: Pair) -> None:
    with WebSocketUpstream() as upstream:
        token = pair.nodes[0].issue_token(pair.nodes[0].create_project(base_url=upstream.url))
        context = ssl.create_default_context(cafile=str(pair.certificate))
        url, header = f"wss://localhost:{pair.port}/v1/realtime", dict([token.bearer])
        with connect(url, additional_headers=header, ssl=context, proxy=None) as client:
            client.send("hello")
            assert client.recv(timeout=60) == "hello"


def test_nobody_outside_says_where_a_call_comes_from(pair: Pair) -> None:
    token = pair.nodes[0].issue_token()
    forged = [
        ("X-Forwarded-For", "198.51.100.1"),
        ("X_Forwarded_For", "198.51.100.2"),
        ("Forwarded", "for=198.51.100.3"),
    ]

    assert pair.call("GET", "/v1/models", token, *forged).status == 200
    records = wait_for(lambda: [record for node in pair.nodes for record in node.records(token)])
    assert [record["client_address"] for record in records] == ["127.0.0.1"]


def test_what_is_for_operators_stays_inside(upstream, tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    port, inside, ops = free_port(), free_port(), f"127.0.0.1:{free_port()}"
    node = Server(DEPLOYED, tmp_path / "one", UPSTREAM_URL=upstream.url, OPS_BIND=ops, TRUSTED_PROXIES="127.0.0.1")
    certificate, nobody = tmp_path / "secrets/tls_certificate", Token("", "", "")
    with node, deployed_nginx(tmp_path, port, node.url, node.url, ops=f"http://{ops}", ops_port=inside):
        outside, operators = Pair((node, node), port, certificate), Pair((node, node), inside, certificate)
        for path in ("/admin/", "/manage/projects", "/metrics"):
            for target in (path, f"/{path}", f"//{path}", f"/%2F{path.strip('/')}", path.replace("m", "%6D")):
                assert outside.call("GET", target, nobody).status == 404
        assert operators.call("GET", "/admin/", nobody).status == 401
        for target in ("/metrics", "//metrics", "/%6Detrics", "/%2Fmetrics", "///metrics/"):
            assert operators.call("GET", target, nobody).status == 404
        assert outside.call("GET", "/v1/models", nobody).status == 401


def test_no_call_is_lost_while_one_node_stops(upstream, tmp_path: Path) -> None:
    statuses = set()
    with two_nodes(upstream, tmp_path) as pair:
        stopping, staying = pair.nodes
        token = staying.issue_token()
        stopping.terminate()
        while stopping.process.poll() is None:
            statuses.add(pair.call("GET", "/v1/models", token).status)
        statuses |= {pair.call("GET", "/v1/models", token).status for _ in range(10)}

        assert statuses == {200}
        staying.wait_for_records(1, token)


def test_a_node_whose_address_does_not_answer_is_passed_by(upstream, tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    port, shared = free_port(), {"UPSTREAM_URL": upstream.url, "DATABASE_URL": database_of(tmp_path)}
    with Server(DEPLOYED, tmp_path / "data", **shared) as node, silent_address() as silent:
        pair = Pair((node, node), port, tmp_path / "secrets/tls_certificate")
        with deployed_nginx(tmp_path, port, silent, node.url):
            token = node.issue_token()
            kind, body = ("Content-Type", "application/json"), b'{"model": "gpt-4o-mini", "messages": []}'
            statuses = [pair.call("POST", "/v1/chat/completions", token, kind, body=body).status for _ in range(3)]

    assert statuses == [200] * 3


@contextmanager
def silent_address() -> Iterator[str]:
    """Where nobody refuses a connection, and nobody takes one: a listener whose queue is full."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
