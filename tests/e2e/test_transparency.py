"""Bytes in, bytes out: what goes up and what comes down, compared with the same call made without the proxy."""

import gzip
import json
import re

import brotli
import pytest

from benchmark.mock_openai import MockOpenAI
from tests.http_by_hand import Answer, HandClient, call
from tests.raw_upstream import RawUpstream
from tests.servers import UPSTREAM_KEY, Server, Token

KEY = ("Authorization", f"Bearer {UPSTREAM_KEY}")
JSON = ("Content-Type", "application/json")
CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
# Hop by hop, or what an origin says of itself alone. `x-request-id` counts up with each of the mock's answers.
NOT_COMPARED = {
    "alt-svc",
    "connection",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "transfer-encoding",
    "x-proxy-request-id",
    "x-request-id",
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "MKCOL", "REPORT", "M-SEARCH", "PURGE"]
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


def compared(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in headers if pair[0].lower() not in NOT_COMPARED]


def assert_same(proxied: Answer, direct: Answer) -> None:
    assert (proxied.version, proxied.status, proxied.reason) == (direct.version, direct.status, direct.reason)
    assert compared(proxied.headers) == compared(direct.headers)
    assert proxied.body == direct.body


def went_up(upstream: MockOpenAI) -> dict[str, str]:
    """The headers of the last request as the upstream saw them, names in lower case; each name once."""
    pairs = upstream.last_request()["headers"]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    return headers


@pytest.fixture
def twice(proxy: Server, upstream: MockOpenAI, token: Token):
    """Makes one call directly and one through the proxy; both answers, the proxied one first."""

    def send(method, target, *headers, body=None, version="1.1"):
        direct = call(upstream.url, method, target, KEY, *headers, body=body, version=version)
        proxied = call(proxy.url, method, target, token.bearer, *headers, body=body, version=version)
        return proxied, direct

    return send


@pytest.mark.parametrize("target", TARGETS)
def test_a_path_and_query_reach_the_upstream_byte_for_byte(proxy, upstream, token, target):
    assert call(proxy.url, "GET", target, token.bearer).status in (200, 404)

    assert upstream.last_request()["target"] == target


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_forwarded_with_its_body(proxy, upstream, token, method):
    answer = call(proxy.url, method, "/v1/echo", token.bearer, JSON, body=b'{"a": 1}')

    assert (answer.status, answer.json["method"], answer.json["body_length"]) == (200, method, 8)


def test_a_method_that_nobody_registered_is_forwarded(proxy, raw_upstream: RawUpstream, token_for):
    raw_upstream.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    assert call(proxy.url, "FROBNICATE", "/v1/x", token_for(raw_upstream.url).bearer).body == b"ok"
    assert raw_upstream.requests[0].startswith(b"FROBNICATE /v1/x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("method", "target", "body", "controls"),
    [
        ("GET", "/v1/models", None, ()),
        ("HEAD", "/v1/models", None, ()),
        ("POST", "/v1/chat/completions", CHAT, ()),
        ("POST", "/v1/chat/completions", STREAM, ()),
        ("POST", "/v1/chat/completions", STREAM, ("event-split: 7",)),
        ("POST", "/v1/chat/completions", CHAT, ("framing: chunked",)),
        ("POST", "/v1/chat/completions", CHAT, ("size: 300000",)),
        ("POST", "/v1/chat/completions", CHAT, ("status: 400",)),
        ("POST", "/v1/chat/completions", CHAT, ("status: 403",)),
        ("POST", "/v1/chat/completions", CHAT, ("status: 404",)),
        ("POST", "/v1/chat/completions", CHAT, ("status: 429", "retry-after-ms: 50")),
        ("POST", "/v1/chat/completions", CHAT, ("status: 500",)),
        ("POST", "/v1/chat/completions", CHAT, ("status: 503", "retry-after-ms: 1500")),
        ("POST", "/v1/chat/completions", CHAT, ("status: 299",)),
        ("GET", "/v1/files/file-1/content", None, ("size: 1000000",)),
        ("GET", "/v1/models", None, ("informational: 103",)),
        ("GET", "/v1/models", None, ("informational: 102,103",)),
        ("DELETE", "/v1/files/file-1", None, ("status: 204",)),
        ("GET", "/v1/models", None, ("status: 304",)),
        ("GET", "/v1/models", None, ("header: x-latin: caf\xe9",)),
        ("GET", "/v1/models", None, ("header: x-empty:",)),
        ("GET", "/v1/models", None, ("redirect: https://elsewhere.example/v1/models?a=b",)),
        ("GET", "/v1/models", None, ("redirect: /v1/echo", "status: 307")),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "" if isinstance(value, bytes) else None,
)
def test_an_answer_comes_down_as_it_was_sent(twice, upstream, method, target, body, controls):
    headers = [("x-mock-" + control.partition(":")[0], control.partition(": ")[2]) for control in controls]
    proxied, direct = twice(method, target, JSON, *headers, body=body)

    assert_same(proxied, direct)


def test_an_answer_has_one_date_and_one_server_header_the_upstreams(twice):
    proxied, _ = twice("GET", "/v1/models")

    assert (proxied["date"], proxied["server"]) == ("Thu, 01 Jan 2026 00:00:00 GMT", "cloudflare")


def test_an_answer_of_the_proxy_itself_has_one_date(proxy):
    answer = call(proxy.url, "GET", "/v1/models")

    assert (len(answer.all("date")), len(answer.all("server"))) in ((1, 0), (1, 1))


def test_what_an_origin_says_of_its_own_connection_stays_behind(twice):
    proxied, direct = twice("POST", "/v1/chat/completions", JSON, ("x-mock-trailer", "1"), body=STREAM)

    for name in ("set-cookie", "alt-svc", "strict-transport-security"):
        assert direct.all(name) and not proxied.all(name)
    assert not proxied.all("trailer") and not proxied.trailers


def test_the_upstreams_request_id_and_the_proxys_both_come_down(proxy, upstream, token):
    answer = call(proxy.url, "GET", "/v1/models", token.bearer, ("x-mock-header", "x-proxy-request-id: forged"))

    assert answer["x-request-id"].startswith("req_")
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f-]{27}", answer["x-proxy-request-id"])


def test_headers_that_connection_lists_are_dropped_from_an_answer(proxy, raw_upstream, token_for):
    raw_upstream.answers(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
        b"X-Public: 2\r\nContent-Length: 0\r\n\r\n"
    )
    answer = call(proxy.url, "GET", "/v1/x", token_for(raw_upstream.url).bearer)

    assert not answer.all("x-private") and not answer.all("keep-alive") and answer["x-public"] == "2"


def test_an_answer_without_a_content_type_stays_without(proxy, raw_upstream, token_for):
    raw_upstream.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    answer = call(proxy.url, "GET", "/v1/x", token_for(raw_upstream.url).bearer)

    assert answer.all("content-type") == [] and answer.body == b"ok"


@pytest.mark.parametrize("phrase", [b"OK", b"Very Well", b"I'm a teapot, (sort of) [really]!", b""])
def test_the_reason_phrase_comes_down_as_sent(proxy, raw_upstream, token_for, phrase):
    raw_upstream.answers(b"HTTP/1.1 200 " + phrase + b"\r\nContent-Length: 2\r\n\r\nok")
    answer = call(proxy.url, "GET", "/v1/x", token_for(raw_upstream.url).bearer)

    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.reason == (phrase.decode() or "Unknown")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 caf\xe9",
        b"HTTP/1.1 200 OK\r\nX-Odd: a\x01b",
        b"HTTP/1.1 200 OK\r\nX Odd: b",
        b"HTTP/1.1 999 Odd",
    ],
    ids=["latin reason", "control character", "space in a name", "odd status"],
)
def test_an_answer_that_is_hardly_http_still_leaves_an_answer_and_a_record(proxy, raw_upstream, token_for, head):
    raw_upstream.answers(head + b"\r\nContent-Length: 2\r\n\r\nok")
    token = token_for(raw_upstream.url)
    answer = call(proxy.url, "GET", "/v1/x", token.bearer)

    assert (answer.status, answer.body) == (999 if b"999" in head else 200, b"ok") or answer.status == 502
    (record,) = proxy.wait_for_records(1, token)
    assert record["status_code"] == answer.status
    assert record["outcome"] == ("upstream_failed" if answer.status == 502 else "complete")


# --- what goes up ---


def test_the_key_and_the_upstreams_host_replace_what_the_client_sent(proxy, upstream, token):
    call(proxy.url, "GET", "/v1/models", token.bearer)

    headers = went_up(upstream)
    assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert headers["host"] == upstream.url.removeprefix("http://")


def test_a_plain_request_gains_nothing_but_an_accept_encoding(proxy, upstream, token):
    call(proxy.url, "GET", "/v1/models", token.bearer)

    assert went_up(upstream).keys() == {"host", "authorization", "accept-encoding"}


def test_headers_for_this_proxy_alone_do_not_go_up(proxy, upstream, token):
    removed = [
        ("Connection", "keep-alive, X-Listed, x-other-listed"),
        ("X-Listed", "1"),
        ("X-Other-Listed", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Cookie", "session=1"),
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Anything", "1"),
        ("X-Real-IP", "192.0.2.1"),
        ("CF-Connecting-IP", "192.0.2.1"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Proxy-Connection", "keep-alive"),
        ("OpenAI-Organization", "org-somebody-else"),
        ("OpenAI-Project", "proj_somebody_else"),
        ("X-Proxy-Request-Id", "1"),
        ("X-Proxy-Anything", "1"),
    ]
    kept = [("X-Stainless-Lang", "python"), ("OpenAI-Beta", "assistants=v2"), ("User-Agent", "me"), ("Accept", "*/*")]
    call(proxy.url, "GET", "/v1/models", token.bearer, *removed, *kept)

    headers = went_up(upstream)
    assert not headers.keys() & {name.lower() for name, _ in removed}
    assert {name.lower(): value for name, value in kept}.items() <= headers.items()


@pytest.mark.parametrize("connection", ["close, Authorization, Host", "authorization", "Accept-Encoding"])
def test_connection_cannot_take_away_what_the_proxy_sets(proxy, upstream, token, connection):
    assert call(proxy.url, "GET", "/v1/models", token.bearer, ("Connection", connection)).status == 200

    headers = went_up(upstream)
    assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}" and headers["host"] in upstream.url
    assert headers["accept-encoding"] == "identity"


def test_a_repeated_header_goes_up_with_all_its_values_in_order(proxy, upstream, token):
    tags = [["X-Tag", "a"], ["X_Other", "-"], ["x-tag", "b"], ["X-Tag", "a"]]
    call(proxy.url, "GET", "/v1/models", token.bearer, *map(tuple, tags))

    assert [pair for pair in upstream.last_request()["headers"] if pair in tags] == tags


@pytest.mark.parametrize("sent", ["gzip, br;q=0.5, zstd", "identity", "*", ""])
def test_accept_encoding_goes_up_as_it_was_sent(proxy, upstream, token, sent):
    call(proxy.url, "GET", "/v1/models", token.bearer, ("Accept-Encoding", sent))

    assert went_up(upstream)["accept-encoding"] == sent


@pytest.mark.parametrize(("encoding", "decode"), [("gzip", gzip.decompress), ("br", brotli.decompress)])
def test_a_compressed_body_passes_as_it_is(twice, encoding, decode):
    ask = (("Accept-Encoding", encoding), ("x-mock-encoding", encoding))
    proxied, direct = twice("POST", "/v1/chat/completions", JSON, *ask, body=CHAT)

    assert_same(proxied, direct)
    assert proxied["content-encoding"] == encoding and json.loads(decode(proxied.body))["object"] == "chat.completion"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_a_body_of_known_length_goes_up_whole(proxy, upstream, token, size):
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, body=b"x" * size)

    assert answer.json["body_length"] == size
    assert went_up(upstream)["content-length"] == str(size)


def test_a_post_without_a_body_goes_up_with_length_zero(proxy, upstream, token):
    assert call(proxy.url, "POST", "/v1/echo", token.bearer).json["body_length"] == 0

    assert went_up(upstream)["content-length"] == "0"


@pytest.mark.parametrize("sizes", [[], [1], [5, 1, 70_000], [65536] * 4])
def test_a_chunked_body_goes_up_whole(proxy, upstream, token, sizes):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/echo", token.bearer, ("Transfer-Encoding", "chunked"))
        for size in sizes:
            client.send(b"%x;extension=1\r\n%b\r\n" % (size, b"x" * size))
        client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        answer = client.read_answer()

    assert answer.json["body_length"] == sum(sizes)
    assert went_up(upstream)["transfer-encoding"] == "chunked"


def test_a_client_that_expects_100_continue_gets_it_from_the_proxy(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/echo", token.bearer, ("Expect", "100-continue"), ("Content-Length", "4"))
        assert client.read_head().status == 100
        client.send(b"body")
        answer = client.read_answer()

    assert answer.json["body_length"] == 4
    assert "expect" not in went_up(upstream)


# --- where it goes ---


@pytest.mark.parametrize(
    ("suffix", "reached"),
    [("", "/v1/models"), ("/", "/v1/models"), ("/v1", "/v1/models"), ("/v1/", "/v1/models"),
     ("/openai", "/openai/v1/models"), ("/openai/v1/", "/openai/v1/models"), ("/a/b%20c", "/a/b%20c/v1/models")],
)  # fmt: skip
def test_a_base_url_may_hold_v1_and_a_prefix(proxy, upstream, token_for, suffix, reached):
    call(proxy.url, "GET", "/v1/models?a=b", token_for(upstream.url + suffix).bearer)

    assert upstream.last_request()["target"] == reached + "?a=b"


def test_upstream_url_may_end_in_v1(upstream, tmp_path):
    with Server("embedded", tmp_path / "data", UPSTREAM_URL=upstream.url + "/v1") as server:
        assert call(server.url, "GET", "/v1/models", server.issue_token().bearer).status == 200

    assert upstream.last_request()["target"] == "/v1/models"


def test_a_redirect_is_not_followed_and_nobody_else_gets_the_key(proxy, upstream, raw_upstream, token):
    answer = call(proxy.url, "GET", "/v1/models", token.bearer, ("x-mock-redirect", f"{raw_upstream.url}/v1/models"))

    assert (answer.status, answer["location"]) == (302, f"{raw_upstream.url}/v1/models")
    assert raw_upstream.requests == [] and len(upstream.requests()) == 1


# --- framing and connections ---


def test_the_answer_to_head_has_no_body_on_a_connection_that_goes_on(proxy, token):
    with HandClient(proxy.url) as client:
        for control in (("x-mock-framing", "chunked"), ("x-mock-framing", "close"), ("x-mock-status", "200")):
            assert client.call("HEAD", "/v1/models", token.bearer, control).status == 200

        assert client.call("GET", "/v1/models", token.bearer).json["object"] == "list"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_keeps_the_connection(proxy, token, status):
    with HandClient(proxy.url) as client:
        answer = client.call("GET", "/v1/models", token.bearer, ("x-mock-status", str(status)))

        assert (answer.status, answer.all("transfer-encoding")) == (status, [])
        assert client.call("GET", "/v1/models", token.bearer).status == 200


def test_a_304_may_tell_the_length_of_what_it_stands_for(proxy, raw_upstream, token_for):
    raw_upstream.answers(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 123\r\n\r\n')
    answer = call(proxy.url, "GET", "/v1/x", token_for(raw_upstream.url).bearer)

    assert (answer.status, answer["etag"]) == (304, '"a"')


def test_a_204_with_a_length_of_zero_passes(proxy, raw_upstream, token_for):
    raw_upstream.answers(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")

    assert call(proxy.url, "GET", "/v1/x", token_for(raw_upstream.url).bearer).status == 204


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["json", "stream"])
def test_every_framing_of_the_upstream_arrives_whole(twice, framing, body):
    proxied, direct = twice("POST", "/v1/chat/completions", JSON, ("x-mock-framing", framing), body=body)

    assert_same(proxied, direct)
    assert proxied.framing == ("length" if framing == "length" else "chunked")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("keep", [(), (("Connection", "keep-alive"),)], ids=["plain", "keep-alive"])
def test_a_client_of_http_1_0_gets_no_chunks(proxy, upstream, token, framing, keep):
    asked = (token.bearer, JSON, ("x-mock-framing", framing), *keep)
    answer = call(proxy.url, "POST", "/v1/chat/completions", *asked, body=STREAM, version="1.0")

    assert answer.all("transfer-encoding") == [] and answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.framing == ("length" if framing == "length" else "close")


def test_one_connection_carries_many_calls(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        for body in (CHAT, STREAM, CHAT):
            assert client.call("POST", "/v1/chat/completions", token.bearer, JSON, body=body).status == 200
        assert client.call("GET", "/v1/models", ("Authorization", "Bearer wrong")).status == 401
        assert client.call("GET", "/v1/models", token.bearer).status == 200

    assert upstream.connections()["accepted"] <= 1


def test_pipelined_calls_are_answered_in_order(proxy, token):
    with HandClient(proxy.url) as client:
        head = f"Host: x\r\nAuthorization: Bearer {token.secret}\r\n"
        calls = [f"POST /v1/echo/{n} HTTP/1.1\r\n{head}Content-Length: 3\r\n\r\nabc" for n in range(5)]
        client.send("".join(calls).encode())

        assert [client.read_answer().json["target"] for _ in calls] == [f"/v1/echo/{n}" for n in range(5)]


def test_a_client_that_asks_to_close_is_closed_on(proxy, token):
    with HandClient(proxy.url) as client:
        assert client.call("GET", "/v1/models", token.bearer, ("Connection", "close")).status == 200

        assert client.has_ended()
