"""ROOT_PATH: everything below a path, whether or not the reverse proxy takes it off."""

import base64
import re

import pytest
from websockets.sync.client import connect

from mock_openai.mock import MockOpenAI
from tests.conftest import serve
from tests.http_by_hand import Answer, call
from tests.ports import free_port
from tests.servers import ADMIN_PASSWORD, MANAGEMENT_TOKEN, WAIT_S, Server, on_both_servers
from tests.websocket_upstream import WebSocketUpstream

pytestmark = on_both_servers

BASIC = ("Authorization", "Basic " + base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode())
HTML = ("Accept", "text/html")


@pytest.fixture(scope="module")
def below(server_kind, running_upstream: MockOpenAI, tmp_path_factory):
    """A proxy below a path."""
    settings = {"ROOT_PATH": "/tools/llm/", "CORS_ORIGINS": "https://app.example"}
    yield from serve(server_kind, running_upstream, tmp_path_factory, **settings)


def get(server: Server, path: str, *headers: tuple[str, str]) -> Answer:
    return call(server.url, "GET", path, *headers)


@pytest.mark.parametrize("root", ["/tools/llm", ""])
@pytest.mark.parametrize("target", ["/v1/files/a%2Fb//c?q=%7e&&", "/v1/", "/v1/models?"])
def test_a_call_goes_up_as_it_was_sent_but_for_the_path(below, upstream, root, target):
    answer = get(below, root + target, below.issue_token().bearer)

    assert upstream.last_request()["target"] == target
    assert below.record_of(answer["x-proxy-request-id"])["endpoint"] == target.partition("?")[0]


@pytest.mark.parametrize(
    "target",
    ["/tools/llm/v1/../v1/models", "/tools/%6clm/v1/models", "/tools/llm/../llm/v1/models", "/tools/llm//v1/models"],
)
def test_a_target_that_leads_elsewhere_is_refused(below, upstream, target):
    assert get(below, target, below.issue_token().bearer).status in (400, 404)
    assert upstream.requests() == []


@pytest.mark.parametrize(
    "target", ["/tools/llm", "/tools/llmx/v1/models", "/tools/llm/tools/llm/v1/models", "/llm/v1/models"]
)
def test_what_is_not_below_the_path_is_not_found(below, upstream, target):
    assert get(below, target, below.issue_token().bearer).status == 404
    assert upstream.requests() == []


def test_management_and_health_are_below_the_path_and_at_the_top(below):
    operator = ("Authorization", f"Bearer {MANAGEMENT_TOKEN}")

    for root in ("/tools/llm", ""):
        assert get(below, f"{root}/manage/projects", operator).status == 200
        assert get(below, f"{root}/healthz").status == 200


def test_links_redirects_and_cookies_of_the_admin_pages_stay_below_the_path(below):
    for root in ("/tools/llm", ""):
        page = get(below, f"{root}/admin/", BASIC, HTML)
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.body.decode())

        assert page.status == 200 and len(links) > 10
        assert [link for link in links if not link.startswith("/tools/llm/admin/")] == []
        assert all("; Path=/tools/llm/admin" in cookie for cookie in page.all("set-cookie")) and page.all(
            "set-cookie"
        )
    assert {get(below, link.replace("&amp;", "&"), BASIC).status for link in set(links)} == {200}
    assert get(below, "/tools/llm/admin", BASIC)["location"].endswith("/tools/llm/admin/")


def test_what_is_for_operators_stays_on_their_listener(server_kind, upstream, tmp_path):
    ops = f"127.0.0.1:{free_port()}"
    settings = {"UPSTREAM_URL": upstream.url, "ROOT_PATH": "/llm", "OPS_BIND": ops}
    around = ["/admin/", "/llm/admin/", "//llm/admin/", "/llm//admin/", "/llm/llm/admin/", "/%6clm/admin/"]
    with Server(server_kind, tmp_path / "data", **settings) as server:
        assert {get(server, target, BASIC).status for target in around} == {404}
        assert {call(f"http://{ops}", "GET", f"{root}/admin/", BASIC).status for root in ("", "/llm")} == {200}
        assert call(f"http://{ops}", "GET", "/llm/v1/models", BASIC).status == 404


def test_a_websocket_opens_below_the_path(below):
    with WebSocketUpstream() as upstream:
        token = below.issue_token(below.create_project(base_url=upstream.url))
        url = below.url.replace("http", "ws") + "/tools/llm/v1/realtime?model=m"
        with connect(url, additional_headers=dict([token.bearer]), proxy=None) as client:
            client.send("hello")
            assert client.recv(timeout=WAIT_S) == "hello"

    assert upstream.paths == ["/v1/realtime?model=m"]


def test_a_page_of_another_origin_may_call_below_the_path(below):
    asked = ("Access-Control-Request-Method", "POST")

    assert call(below.url, "OPTIONS", "/tools/llm/v1/models", ("Origin", "https://app.example"), asked).status == 204
