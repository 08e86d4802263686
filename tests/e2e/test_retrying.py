"""A kept connection that died costs one more try where that does no harm; nothing else is ever repeated."""

import pytest

from mock_openai.mock import MockOpenAI
from tests.http_by_hand import call

SMALL, LARGE = b"x" * 100, b"x" * 200_000
NAMES = {None: "nothing", SMALL: "small", LARGE: "large"}.get


def warm(proxy, upstream, token) -> None:
    """Leaves one kept connection to the upstream."""
    assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200
    upstream.wait_for("answered", path="/v1/models")


def once(name: str) -> tuple[str, str]:
    return "x-mock-once", name


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", SMALL), ("POST", LARGE)], ids=NAMES)
def test_a_connection_that_the_upstream_closed_while_idle_is_not_used(proxy, token_for, method, body):
    with MockOpenAI() as upstream:  # of its own: nobody else has connections to it
        token = token_for(upstream.url)
        call(proxy.url, "GET", "/v1/models", token.bearer, ("x-mock-close-idle", "1"))
        upstream.wait_for_open_connections(0)

        assert call(proxy.url, method, "/v1/echo", token.bearer, body=body).status == 200
        assert len(upstream.requests("/v1/echo")) == 1


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(("method", "body"), [("GET", None), ("PUT", SMALL)], ids=NAMES)
def test_a_kept_connection_that_dies_under_a_request_costs_one_more_try(proxy, upstream, token, method, body, how):
    warm(proxy, upstream, token)
    controls = (("x-mock-drop", "1"), ("x-mock-cut-with", how), once("drop"))
    answer = call(proxy.url, method, "/v1/echo", token.bearer, *controls, body=body)

    assert (answer.status, answer.json["body_length"]) == (200, len(body or b""))
    tries = upstream.requests("/v1/echo")
    assert [request["outcome"] for request in tries] == ["cut", "answered"]
    assert tries[0]["connection"] != tries[1]["connection"] and tries[1]["turn"] == 1
    assert len(proxy.wait_for_records(2, token)) == 2


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_post_that_reached_the_upstream_is_not_sent_twice(proxy, upstream, token, how):
    warm(proxy, upstream, token)
    controls = (("x-mock-drop", "1"), ("x-mock-cut-with", how), once("post"))
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, *controls, body=SMALL)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert [request["outcome"] for request in upstream.requests("/v1/echo")] == ["cut"]


def test_a_second_death_is_an_answer(proxy, upstream, token):
    warm(proxy, upstream, token)
    answer = call(proxy.url, "PUT", "/v1/echo", token.bearer, ("x-mock-drop", "1"), body=SMALL)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert len(upstream.requests("/v1/echo")) == 2


def test_a_fresh_connection_that_dies_is_not_replaced(proxy, upstream, token_for):
    # A base URL of its own, written in another way, has no kept connections.
    token = token_for(upstream.url.replace("127.0.0.1", "localhost") + "/fresh/v1")
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, ("x-mock-drop", "1"), once("fresh"), body=SMALL)

    assert answer.status == 502
    assert len(upstream.requests("/fresh/v1/echo")) == 1


def test_a_body_too_large_to_be_kept_is_not_sent_twice(proxy, upstream, token):
    warm(proxy, upstream, token)
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, ("x-mock-drop", "1"), once("large"), body=LARGE)

    assert answer.status == 502
    assert len(upstream.requests("/v1/echo")) == 1


def test_an_answer_that_began_is_never_asked_for_again(proxy, recorder, token_for):
    token = token_for(recorder.url)
    recorder.answers(b"HTTP/1.1 200 OK\r\nContent-", closes=True)

    assert call(proxy.url, "GET", "/v1/x", token.bearer).status == 502
    assert recorder.received().line == "GET /v1/x HTTP/1.1"
    assert not recorder.has_received()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_no_status_is_ever_retried_here(proxy, upstream, token, status):
    warm(proxy, upstream, token)
    answer = call(proxy.url, "POST", "/v1/chat/completions", token.bearer, ("x-mock-status", str(status)), body=SMALL)

    assert answer.status == status
    assert len(upstream.requests("/v1/chat/completions")) == 1


def test_a_timeout_is_never_retried(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()
    warm(impatient_proxy, upstream, token)

    assert call(impatient_proxy.url, "GET", "/v1/echo", token.bearer, ("x-mock-hold", "1")).status == 504
    assert len(upstream.requests("/v1/echo")) == 1
