"""HTTPS_PROXY, HTTP_PROXY and NO_PROXY: the way out of a network in which the proxy alone can look up names."""

import base64
import json
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from websockets.sync.client import connect

from mock_openai.mock import MockOpenAI
from tests.e2e.test_streaming import ask
from tests.e2e.test_tracing import Collector
from tests.egress_proxy import CREDENTIALS, EgressProxyServer
from tests.http_by_hand import HandClient, call
from tests.meters import DOLLAR, add_meter
from tests.receiver import Receiver, receiver  # noqa: F401
from tests.servers import ADMIN_PASSWORD, DEPLOYED, WAIT_S, Server, Token, fetch, on_both_servers, wait_for
from tests.websocket_upstream import WebSocketUpstream


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_upstream(authority, tmp_path_factory) -> Iterator[MockOpenAI]:
    place = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("*.upstream.internal")
    certificate.cert_chain_pems[0].write_to_path(place / "cert.pem")
    certificate.private_key_pem.write_to_path(place / "key.pem")
    with MockOpenAI(cert=place / "cert.pem", key=place / "key.pem") as mock:
        yield mock


@pytest.fixture(scope="module")
def running_egress() -> Iterator[EgressProxyServer]:
    with EgressProxyServer() as running:
        yield running


@pytest.fixture
def egress(running_egress) -> EgressProxyServer:
    running_egress.asked.clear()
    running_egress.refuses, running_egress.is_silent = None, False
    return running_egress


@pytest.fixture(scope="module")
def server(server_kind, running_egress, authority, tmp_path_factory) -> Iterator[Server]:
    """A proxy whose only way out is the egress proxy."""
    place = tmp_path_factory.mktemp(server_kind)
    authority.cert_pem.write_to_path(ca := place / "ca.pem")
    settings = {
        "HTTPS_PROXY": running_egress.proxy_url, "http_proxy": running_egress.proxy_url, "no_proxy": "near.internal",
        "SSL_CERT_FILE": str(ca), "CONNECT_TIMEOUT": "5", "UPSTREAM_URL": "https://nobody.internal",
    }  # fmt: skip
    with Server(server_kind, place / "data", **settings) as running:
        running.secrets |= set(CREDENTIALS.split(":")) | {"planted-p@ssword", "planted-reason"}
        yield running
        assert running.leaks() == []
        assert "Traceback" not in running.output()


@pytest.fixture
def name() -> str:
    """Of an upstream that nobody has connected to yet."""
    return f"{uuid.uuid4().hex}.upstream.internal"


def named(url: str, name: str) -> str:
    return url.replace("127.0.0.1", name)


def token_for(server: Server, url: str, name: str) -> Token:
    return server.issue_token(server.create_project(base_url=named(url, name)))


def place_of(upstream, name: str) -> str:
    return named(upstream.url, name).partition("://")[2]


@on_both_servers
def test_a_call_goes_through_a_tunnel_which_is_kept_for_the_next(server, egress, tls_upstream, name):
    token, before = token_for(server, tls_upstream.url, name), egress.connections
    answers = [call(server.url, "GET", "/v1/models?a=b", token.bearer) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3
    assert (egress.asked, egress.connections - before) == ([f"CONNECT {place_of(tls_upstream, name)} HTTP/1.1"], 1)
    seen = tls_upstream.last_request()
    headers = {name.lower(): value for name, value in seen["headers"]}
    assert (seen["target"], headers["host"]) == ("/v1/models?a=b", place_of(tls_upstream, name))
    assert "proxy-authorization" not in headers


@on_both_servers
def test_a_call_to_an_unencrypted_upstream_is_passed_on_and_its_connection_kept(server, egress, upstream, name):
    token, before = token_for(server, upstream.url, name), egress.connections
    answers = [call(server.url, "GET", "/v1/files/a%2Fb?q=%20&", token.bearer) for _ in range(2)]

    assert [answer.status for answer in answers] == [200] * 2
    line = f"GET {named(upstream.url, name)}/v1/files/a%2Fb?q=%20& HTTP/1.1"
    assert (egress.asked, egress.connections - before) == ([line] * 2, 1)
    assert upstream.last_request()["target"] == "/v1/files/a%2Fb?q=%20&"
    assert "proxy-authorization" not in {name.lower() for name, _ in upstream.last_request()["headers"]}


@pytest.mark.parametrize("encrypted", [True, False])
def test_events_arrive_as_they_are_sent(server, egress, upstream, tls_upstream, encrypted, name):
    source, gate = tls_upstream if encrypted else upstream, str(uuid.uuid4())
    with HandClient(server.url) as client:
        ask(client, token_for(server, source.url, name), f"gate: {gate}", "events: 3")
        answer = client.read_head()
        while client.read_chunk(answer):
            source.release(gate)

    assert (answer.status, answer.is_whole) == (200, True)
    assert len(egress.asked) == 1


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_websocket_takes_a_tunnel(server, egress, authority, upstream, encrypted, name):
    context = None
    if encrypted:
        authority.issue_cert("*.upstream.internal").configure_cert(context := ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with WebSocketUpstream(tls=context) as websockets:
        token = token_for(server, websockets.url, name)
        where = server.url.replace("http", "ws") + "/v1/realtime"
        with connect(where, additional_headers=dict([token.bearer]), proxy=None) as client:
            client.send("hello")
            assert client.recv(timeout=WAIT_S) == "hello"

    assert egress.asked == [f"CONNECT {place_of(websockets, name)} HTTP/1.1"]


def test_a_websocket_takes_no_connection_that_forwards_requests(server, egress, upstream, name):
    token = token_for(server, upstream.url, name)
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
    nonce = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    answer = call(
        server.url, "GET", "/v1/realtime", token.bearer, *nonce, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    )

    assert answer.status not in (101, 502)  # the stand-in speaks none
    assert [line.partition(" ")[0] for line in egress.asked] == ["GET", "CONNECT"]


@pytest.mark.parametrize(("encrypted", "status"), [(True, 403), (True, 407), (False, 407)])
def test_a_refusal_says_so_and_is_not_tried_again(server, egress, upstream, tls_upstream, encrypted, status, name):
    source, egress.refuses = tls_upstream if encrypted else upstream, status
    source.reset()
    token = token_for(server, source.url, name)
    answer = call(server.url, "GET", "/v1/models", token.bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "egress_refused")
    assert answer["x-should-retry"] == "false" and not answer.all("proxy-authenticate")
    assert (len(egress.asked), source.requests()) == (1, [])
    [record] = server.wait_for_records(1, token)
    assert (record["outcome"], record["error"]["code"]) == ("upstream_failed", "egress_refused")
    place = egress.url.partition("://")[2]
    told = f"the proxy {place} refused the way to {place_of(source, name)} by a {status}"
    wait_for(lambda: told in server.output(), otherwise=server.output)  # the record comes first


def test_a_proxy_that_cannot_reach_the_upstream_is_a_failure_to_try_again(server, egress, tls_upstream, name):
    egress.refuses = 503
    answer = call(server.url, "GET", "/v1/models", token_for(server, tls_upstream.url, name).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert not answer.all("x-should-retry")


def test_a_proxy_that_says_nothing_is_waited_for_as_long_as_a_connection_may_take(server, egress, tls_upstream, name):
    egress.is_silent = True
    answer = call(server.url, "GET", "/v1/models", token_for(server, tls_upstream.url, name).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")


def test_a_client_that_leaves_while_a_tunnel_is_asked_for_is_not_waited_for(server, egress, tls_upstream, name):
    egress.is_silent = True
    token = token_for(server, tls_upstream.url, name)
    with HandClient(server.url) as client:
        client.send_request("GET", "/v1/models", token.bearer)
        wait_for(lambda: egress.asked)

    [record] = server.wait_for_records(1, token)
    assert record["outcome"] == "client_closed"


def test_the_upstream_proves_who_it_is_through_the_tunnel(server, egress, tls_upstream):
    project = server.create_project(base_url=named(tls_upstream.url, "other.internal"))
    answer = call(server.url, "GET", "/v1/models", server.issue_token(project).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert len(egress.asked) == 1


METADATA = ["2852039166", "0xA9FEA9FE", "169.16689662", "[::ffff:a9fe:a9fe]", "169.254.169.254"]


@pytest.mark.parametrize("host", METADATA)
def test_no_proxy_is_asked_for_a_clouds_metadata(server, egress, host):
    """A name is the proxy's to look up; an address is known here."""
    body = {"base_url": f"https://{host}:1/v1", "name": f"metadata at {host}", "openai_api_key": "sk-x"}
    status, project = server.manage("POST", "/projects", body)
    if status != 400:
        answer = call(server.url, "GET", "/v1/models", server.issue_token(project["id"]).bearer)
        assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")

    assert egress.asked == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_loopback_is_reached_directly(server, egress, upstream, name):
    project = server.create_project(base_url=upstream.url.replace("127.0.0.1", name))

    assert call(server.url, "GET", "/v1/models", server.issue_token(project).bearer).status == 200
    assert egress.asked == []


def test_what_no_proxy_names_is_not_looked_for_at_the_proxy(server, egress, upstream):
    project = server.create_project(base_url=named(upstream.url, "a.near.internal"))

    assert call(server.url, "GET", "/v1/models", server.issue_token(project).bearer).status in (502, 504)
    assert egress.asked == []


def test_the_health_page_tries_an_upstream_the_same_way(server, egress, upstream, name):
    token_for(server, upstream.url, name)
    basic = base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
    sent = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
    sent |= {"Accept": "application/json"}
    form = f"url={quote(named(upstream.url, name), safe='')}".encode()
    status, _, body = fetch(server.url, "POST", "/admin/health/upstream", sent, form)

    assert (status, json.loads(body)["reachable"]) == (200, True)
    assert egress.asked == [f"GET {named(upstream.url, name)}/v1/models HTTP/1.1"]


def test_a_client_that_leaves_takes_its_tunnel_with_it(server, egress, tls_upstream, name):
    token, gate = token_for(server, tls_upstream.url, name), str(uuid.uuid4())
    with HandClient(server.url) as client:
        ask(client, token, f"gate: {gate}", "events: 3")
        client.read_chunk(client.read_head())

    [record] = server.wait_for_records(1, token)
    assert record["outcome"] == "client_closed"
    tls_upstream.wait_for("client_gone", path="/v1/chat/completions")


def test_the_start_says_which_way_calls_go(server, egress, name):
    place = egress.url.partition("://")[2]

    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        assert f"{name} is set: what NO_PROXY does not name is reached through {place}" in server.output()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def shipping(egress, receiver: Receiver, collector, upstream, tmp_path: Path) -> Iterator[Server]:  # noqa: F811
    """A proxy whose receivers are behind the egress proxy, its upstream not."""
    (tmp_path / "proxy").write_text(egress.proxy_url)
    settings = {
        "UPSTREAM_URL": upstream.url, "HTTP_PROXY_FILE": str(tmp_path / "proxy"), "OTEL_BSP_SCHEDULE_DELAY": "50",
        "LOGGING_URL": named(receiver.url, "logs.test"),
        "ALERT_URL": named(receiver.url, "alerts.test"), "ALERT_SECRET": f"whsec_{'A' * 32}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": named(collector.url, "collector.test"),
    }  # fmt: skip
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        server.secrets |= {*CREDENTIALS.split(":"), "planted-p@ssword", "planted-receiver-secret"}
        yield server
        assert server.leaks() == [], [line for line in server.output().splitlines() if "planted" in line]


def hosts_in(lines: list[str]) -> set[str]:
    return {line.split("/")[2].partition(":")[0] for line in lines}


def test_records_traces_and_alerts_take_the_same_way(shipping, egress, collector, receiver: Receiver):  # noqa: F811
    add_meter(shipping, shipping.create_project(), spent=DOLLAR, period="total", period_end=2**62)
    answer = call(shipping.url, "GET", "/v1/models", shipping.issue_token().bearer)
    collector.span_of(answer["x-proxy-request-id"])
    wait_for(lambda: receiver.records)

    wait_for(lambda: hosts_in(egress.asked) == {"logs.test", "collector.test", "alerts.test"})


def test_a_refusal_to_pass_on_records_and_traces_is_logged_without_a_secret(shipping, egress):
    egress.refuses = 407
    call(shipping.url, "GET", "/v1/models", shipping.issue_token().bearer)
    wait_for(lambda: hosts_in(egress.asked) == {"logs.test", "collector.test"})

    wait_for(lambda: "it answered 407: check the credentials in HTTP_PROXY" in shipping.output())


def test_records_wait_for_a_proxy_that_is_away(upstream, receiver: Receiver, tmp_path: Path):  # noqa: F811
    settings = {"UPSTREAM_URL": upstream.url, "LOGGING_URL": named(receiver.url, "logs.test")}
    settings |= {"HTTP_PROXY": "http://planted-user:planted-word@127.0.0.1:9", "LOG_STRICT": "on"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        assert call(server.url, "GET", "/v1/models", server.issue_token().bearer).status == 200
        wait_for(lambda: "the egress proxy refused, or cannot be reached" in server.output())
        server.secrets |= {"planted-user", "planted-word"}
        assert server.leaks() == []
