"""Where a call goes: targets byte for byte, base URLs with prefixes, redirects that are not followed."""

import pytest

from tests.http_by_hand import call
from tests.servers import DEPLOYED, Server

TARGETS = [
    "/v1/echo/a%2Fb//c;x=%7e?q=%20&a=b&&=",
    "/v1/echo//double//slashes//",
    "/v1//echo",
    "/v1/",
    "/v1/echo?",
    "/v1/echo??a=?&b=%3f",
    "/v1/echo/a|b/[c]/{d}?e=f|g[h]={i}",
    "/v1/echo/%C3%BC%ff%00%0a%0D/%E2%82",
    "/v1/echo/~user/!$&'()*+,;=:@/-._",
    "/v1/echo/...a/b..c/.hidden?x=/../y",
    "/v1/echo/%2e%2ea/%5C/%3F%23",
    "/v1/echo/" + "x" * 2000,
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_path_and_query_reach_the_upstream_byte_for_byte(proxy, upstream, token, target):
    assert call(proxy.url, "GET", target, token.bearer).status in (200, 404)

    assert upstream.last_request()["target"] == target


@pytest.mark.parametrize(
    ("suffix", "reached"),
    [("", "/v1/models"), ("/", "/v1/models"), ("/v1", "/v1/models"), ("/v1/", "/v1/models"),
     ("/openai", "/openai/models"), ("/openai/v1/", "/openai/v1/models"), ("/a/b%20c", "/a/b%20c/models"),
     ("/api/paas/v4", "/api/paas/v4/models"), ("/v1/v1", "/v1/v1/models"),
     ("/v1beta/openai/", "/v1beta/openai/models")],
)  # fmt: skip
def test_a_base_urls_path_stands_in_the_place_of_v1(proxy, upstream, token_for, suffix, reached):
    call(proxy.url, "GET", "/v1/models?a=b", token_for(upstream.url + suffix).bearer)

    assert upstream.last_request()["target"] == reached + "?a=b"


def test_the_path_of_upstream_url_stands_in_the_place_of_v1(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url + "/v1beta/openai") as server:
        call(server.url, "GET", "/v1/models", server.issue_token().bearer)

    assert upstream.last_request()["target"] == "/v1beta/openai/models"


def test_a_redirect_is_not_followed_and_nobody_else_gets_the_key(proxy, upstream, recorder, token):
    answer = call(proxy.url, "GET", "/v1/models", token.bearer, ("x-mock-redirect", f"{recorder.url}/v1/models"))

    assert (answer.status, answer["location"]) == (302, f"{recorder.url}/v1/models")
    assert not recorder.has_received() and len(upstream.requests()) == 1
