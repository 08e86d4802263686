"""CORS_ORIGINS: what a browser is told when a page of another origin calls, and that nobody else notices."""

import pytest

from mock_openai.mock import MockOpenAI
from tests.conftest import serve
from tests.http_by_hand import Answer, HandClient
from tests.servers import DEPLOYED, MANAGEMENT_TOKEN, Server, on_both_servers

PAGE, OTHER = "https://app.example", "https://app.example.evil"
ASKED = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization,content-type")]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\n\r\n{}"


@pytest.fixture(scope="module")
def open_proxy(server_kind, running_upstream: MockOpenAI, tmp_path_factory):
    """A proxy for pages of two origins."""
    yield from serve(
        server_kind, running_upstream, tmp_path_factory, CORS_ORIGINS=f"{PAGE}, chrome-extension://abcdef"
    )


def ask(server: Server, method: str, *headers: tuple[str, str], path: str = "/v1/models") -> Answer:
    with HandClient(server.url) as client:
        client.send_request(method, path, *headers)
        return client.read_answer(method)


def cross_origin_headers(answer: Answer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers if name.lower().startswith("access-control-")}


@on_both_servers
@pytest.mark.parametrize("path", ["/v1/chat/completions", "//v1/models", "/v1/"])
@pytest.mark.parametrize("origin", [PAGE, "chrome-extension://abcdef"])
def test_a_preflight_needs_no_token_and_is_no_call(open_proxy, upstream, origin, path):
    before = len(open_proxy.records())
    answer = ask(open_proxy, "OPTIONS", ("Origin", origin), *ASKED, path=path)

    assert (answer.status, answer.body) == (204, b"")
    assert cross_origin_headers(answer) == {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-max-age": "7200",
    }
    assert answer.all("vary") == ["Origin"]
    assert upstream.requests() == []
    assert len(open_proxy.records()) == before


@on_both_servers
def test_a_connection_goes_on_after_a_preflight(open_proxy):
    token = open_proxy.issue_token()
    with HandClient(open_proxy.url) as client:
        client.send_request("OPTIONS", "/v1/models", ("Origin", PAGE), *ASKED)
        assert client.read_answer("OPTIONS").status == 204
        client.send_request("GET", "/v1/models", ("Origin", PAGE), token.bearer)

        assert client.read_answer().status == 200


@on_both_servers
def test_a_page_may_read_a_response_with_all_its_headers_and_the_upstream_does_not_decide(open_proxy, recorder):
    token = open_proxy.issue_token(open_proxy.create_project(base_url=recorder.url))
    recorder.answers(OK)
    answer = ask(open_proxy, "GET", ("Origin", PAGE), token.bearer)

    expected = {"access-control-allow-origin": PAGE, "access-control-expose-headers": "*"}
    assert answer.status == 200
    assert cross_origin_headers(answer) == expected and len(answer.all("access-control-allow-origin")) == 1
    assert answer.all("vary") == ["Accept", "Origin"]
    assert recorder.received().all("origin") == [PAGE]


@on_both_servers
def test_a_page_may_read_a_refusal(open_proxy):
    answer = ask(open_proxy, "POST", ("Origin", PAGE), ("Content-Length", "0"))

    assert (answer.status, answer.json["error"]["type"]) == (401, "invalid_request_error")
    assert answer["access-control-allow-origin"] == PAGE


def test_a_page_of_another_origin_gets_nothing_to_read(open_proxy, recorder):
    token = open_proxy.issue_token(open_proxy.create_project(base_url=recorder.url))
    recorder.answers(OK)
    for origin in (OTHER, "null", "", PAGE.upper(), f"{PAGE}, {PAGE}", f"{PAGE}:443", "http://app.example"):
        preflight = ask(open_proxy, "OPTIONS", ("Origin", origin), *ASKED)
        answer = ask(open_proxy, "GET", ("Origin", origin), token.bearer)

        assert (preflight.status, cross_origin_headers(preflight)) == (401, {})
        assert (answer.status, cross_origin_headers(answer)) == (200, {})


def test_who_sends_no_origin_gets_what_the_upstream_sends(open_proxy, recorder):
    token = open_proxy.issue_token(open_proxy.create_project(base_url=recorder.url))
    recorder.answers(OK)
    answer = ask(open_proxy, "GET", token.bearer)

    assert cross_origin_headers(answer) == {"access-control-allow-origin": "*"}
    assert answer.all("vary") == ["Accept"]


def test_an_options_that_is_no_preflight_is_forwarded(open_proxy, upstream):
    answer = ask(open_proxy, "OPTIONS", ("Origin", PAGE), open_proxy.issue_token().bearer)

    assert answer["access-control-allow-origin"] == PAGE
    assert upstream.last_request()["method"] == "OPTIONS"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "", "A B"])
def test_what_no_page_may_send_is_not_promised(open_proxy, method):
    answer = ask(open_proxy, "OPTIONS", ("Origin", PAGE), ("Access-Control-Request-Method", method))

    assert answer.status == 401
    assert "access-control-allow-methods" not in cross_origin_headers(answer)


def test_what_is_no_headers_name_is_not_repeated(open_proxy):
    odd = ("Access-Control-Request-Headers", "authorization, x:y, ,a b,x-kept")
    answer = ask(open_proxy, "OPTIONS", ("Origin", PAGE), ASKED[0], odd)

    assert answer["access-control-allow-headers"] == "authorization, x-kept"


@pytest.mark.parametrize("path", ["/manage/tokens", "/admin/", "/healthz", "/metrics"])
def test_nothing_but_the_api_is_for_pages(open_proxy, path):
    preflight = ask(open_proxy, "OPTIONS", ("Origin", PAGE), *ASKED, path=path)
    answer = ask(open_proxy, "GET", ("Origin", PAGE), ("Authorization", f"Bearer {MANAGEMENT_TOKEN}"), path=path)

    assert cross_origin_headers(preflight) == cross_origin_headers(answer) == {}
    assert preflight.status != 204


def test_every_page_may_call_when_all_may(running_upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=running_upstream.url, CORS_ORIGINS="*") as server:
        preflight = ask(server, "OPTIONS", ("Origin", "null"), *ASKED)
        answer = ask(server, "GET", ("Origin", OTHER), server.issue_token().bearer)

    assert (preflight.status, preflight["access-control-allow-origin"]) == (204, "*")
    assert (answer.status, answer["access-control-allow-origin"]) == (200, "*")


def test_without_the_setting_nobody_answers_a_preflight(proxy, upstream, token):
    assert ask(proxy, "OPTIONS", ("Origin", PAGE), *ASKED).status == 401
    assert cross_origin_headers(ask(proxy, "GET", ("Origin", PAGE), token.bearer)) == {}


def test_no_response_allows_credentials(open_proxy):
    answers = [
        ask(open_proxy, "OPTIONS", ("Origin", PAGE), *ASKED),
        ask(open_proxy, "GET", ("Origin", PAGE), ("Cookie", "a=b"), open_proxy.issue_token().bearer),
    ]

    for answer in answers:
        assert not answer.all("access-control-allow-credentials") and not answer.all("set-cookie")
