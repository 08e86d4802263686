"""Which headers pass, and which targets: tables, and properties over what a hostile client can send."""

import contextlib
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.errors import BadRequest
from llmproxy.headers import checked_target, origin_of, request_headers, response_headers

KEY = "sk-upstream"
LATIN = st.text(st.characters(max_codepoint=255))
FIELD_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))


def sent_up(**environ: str) -> dict[str, str]:
    """What goes up for these environ keys, with what always goes left out."""
    headers = request_headers({"REQUEST_METHOD": "POST", "wsgi.version": (1, 0), **environ}, host="up", api_key=KEY)
    assert headers.pop("Host") == "up"
    assert headers.pop("Authorization") == f"Bearer {KEY}"
    return headers


# Requests


@pytest.mark.parametrize(
    "key",
    [
        "AUTHORIZATION", "HOST", "COOKIE", "CONNECTION", "KEEP_ALIVE", "TE", "TRAILER", "TRANSFER_ENCODING",
        "UPGRADE", "PROXY_CONNECTION", "PROXY_AUTHORIZATION", "PROXY_AUTHENTICATE", "EXPECT", "FORWARDED",
        "X_FORWARDED_FOR",
        "X_FORWARDED_HOST", "X_REAL_IP", "CF_CONNECTING_IP", "CF_RAY", "OPENAI_ORGANIZATION", "OPENAI_PROJECT",
        "X_PROXY_REQUEST_ID", "X_PROXY_ANYTHING", "CONTENT_LENGTH",
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_upstreams_business_stays_here(key: str) -> None:
    assert sent_up(**{f"HTTP_{key}": "value"}) == {"Accept-Encoding": "identity"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("HTTP_OPENAI_BETA", "Openai-Beta"), ("HTTP_IDEMPOTENCY_KEY", "Idempotency-Key"),
        ("HTTP_USER_AGENT", "User-Agent"), ("HTTP_ACCEPT", "Accept"), ("HTTP_X_STAINLESS_LANG", "X-Stainless-Lang"),
        ("HTTP_X_REQUEST_ID", "X-Request-Id"), ("HTTP_TRACEPARENT", "Traceparent"), ("CONTENT_TYPE", "Content-Type"),
        ("HTTP_CONTENT_ENCODING", "Content-Encoding"), ("HTTP_ACCEPT_ENCODING", "Accept-Encoding"),
    ],
)  # fmt: skip
def test_any_other_header_goes_up_with_its_value_unchanged(key: str, name: str) -> None:
    assert sent_up(**{key: 'a, "b";  c\xe9\t'})[name] == 'a, "b";  c\xe9\t'


def test_an_accept_encoding_that_the_client_left_out_is_identity() -> None:
    assert sent_up()["Accept-Encoding"] == "identity"
    assert sent_up(HTTP_ACCEPT_ENCODING="")["Accept-Encoding"] == ""


def test_an_empty_content_type_is_none_at_all() -> None:
    assert "Content-Type" not in sent_up(CONTENT_TYPE="")


@pytest.mark.parametrize("listed", ["X-Secret", "x-secret", "close, X-SECRET", " x-secret ,te", "a,,x-secret"])
def test_a_header_that_connection_lists_is_hop_by_hop(listed: str) -> None:
    assert "X-Secret" not in sent_up(HTTP_CONNECTION=listed, HTTP_X_SECRET="1")


@pytest.mark.parametrize("listed", ["authorization", "Authorization, Host", "HOST", "accept-encoding"])
def test_connection_cannot_take_away_what_the_proxy_sets(listed: str) -> None:
    assert sent_up(HTTP_CONNECTION=listed, HTTP_ACCEPT_ENCODING="br")["Accept-Encoding"] in ("br", "identity")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "\n", "a\x00b"])
@pytest.mark.parametrize("key", ["HTTP_X_A", "HTTP_USER_AGENT", "CONTENT_TYPE"])
def test_a_value_that_could_begin_another_header_is_refused(key: str, value: str) -> None:
    with pytest.raises(BadRequest):
        sent_up(**{key: value})


@given(
    st.dictionaries(st.from_regex(r"HTTP_[A-Z0-9_!'*+.|~]{1,20}", fullmatch=True), FIELD_VALUE, max_size=8),
    FIELD_VALUE,
)
def test_whatever_is_sent_the_key_and_the_host_are_ours(environ: dict[str, str], connection: str) -> None:
    headers = request_headers(environ | {"HTTP_CONNECTION": connection}, host="up", api_key=KEY)

    lower = [name.lower() for name in headers]
    assert (headers["Host"], headers["Authorization"]) == ("up", f"Bearer {KEY}")
    assert len(lower) == len(set(lower))
    assert not {"connection", "cookie", "content-length", "transfer-encoding", "expect"} & set(lower)


# Responses


def sent_down(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    headers = response_headers(pairs, request_id="id-1")
    assert headers[-1] == ("x-proxy-request-id", "id-1")
    return headers[:-1]


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade",
        "Transfer-Encoding", "Proxy-Connection", "Proxy-Authenticate", "X-Proxy-Request-Id",
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_clients_business_does_not_come_down(name: str) -> None:
    assert sent_down((name, "x"), (name.lower(), "y"), (name.upper(), "z")) == []


def test_every_other_header_comes_down_in_order_with_its_repetitions_and_case() -> None:
    pairs = [
        ("x-request-id", "req_1"), ("OpenAI-Version", "1"), ("X-RateLimit-Limit-Requests", "5"), ("Retry-After", "1"),
        ("retry-after-ms", "900"), ("Vary", "a"), ("vary", "b"), ("Content-Length", "5"), ("Location", "https://o/"),
        ("CF-Ray", "1"), ("Server", "x"), ("Empty", ""), ("X-Latin", "\xe9"),
    ]  # fmt: skip

    assert sent_down(*pairs) == pairs


@pytest.mark.parametrize("listed", ["X-Hop", "close, x-hop", "keep-alive,X-HOP ", "Keep-Alive, x-hop"])
def test_a_response_header_that_connection_lists_does_not_come_down(listed: str) -> None:
    assert sent_down(("X-Hop", "1"), ("Connection", listed), ("x-hop", "2"), ("X-B", "3")) == [("X-B", "3")]


def test_each_of_several_connection_headers_counts() -> None:
    pairs = [("Connection", "close"), ("Connection", "x-a"), ("Connection", "x-b"), ("X-A", "1"), ("X-B", "2")]

    assert sent_down(*pairs) == []


def test_connection_cannot_take_away_our_request_id() -> None:
    assert sent_down(("Connection", "x-proxy-request-id")) == []


# Targets


@pytest.mark.parametrize(
    "target",
    [
        "/v1/", "/v1/models", "/v1//models", "/v1/models/", "/v1/a%2Fb", "/v1/%7Ea", "/v1/a?x=..&y=/../",
        "/v1/models/gpt-4.1", "/v1/.hidden", "/v1/...", "/v1/a..b/c", "/v1/%252e%252e/x", "/v1/a?", "/v1/?%zz",
        "/v1/%",
        "/v1/\xe9", "/v1/a?b?c", "/v1/a;b=c", "/v1/a:b@c",
    ],
)  # fmt: skip
def test_a_target_below_v1_passes_byte_for_byte(target: str) -> None:
    assert checked_target(target, "proxy") == target


@pytest.mark.parametrize(
    "target",
    [
        "", "/", "*", "/v1", "/v2/models", "/V1/models", "v1/models", "//v1/models", "/manage/tokens", "/v1?x",
        "/v1/../manage",
        "/v1/..", "/v1/.", "/v1/./models", "/v1/a/../../b", "/v1/%2e%2e/manage", "/v1/%2E./x", "/v1/.%2e", "/v1/%2e",
        "/v1/..%2fmanage", "/v1/a%2f..%2f..", "/v1/..%5cmanage", "/v1/..\\manage", "/v1/a\\..\\..\\b", "/v1/%5c..%5c",
        "/v1%2fmodels", "/%76%31/models", "/v1/models#x", "/v1/a#/../b", "/v1/a b", "/v1/a\r\nX: y", "/v1/a\n",
        "/v1/\x00", "/v1/a\tb", "/v1/?a b", "/v1/\x7f",
    ],
)  # fmt: skip
def test_any_other_target_is_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        checked_target(target, "proxy")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://proxy:80/v1/a?b", "proxy:80"),
        ("HTTPS://Proxy/v1/a?b", "proxy"),
        ("http://[::1]:8080/v1/a?b", "[::1]:8080"),
    ],
)
def test_an_absolute_target_for_this_host_means_its_path(target: str, host: str) -> None:
    assert checked_target(target, host) == "/v1/a?b"


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://other/v1/a", "proxy"), ("http://proxy@other/v1/a", "proxy"), ("http://proxy/v1/a", None),
        ("http:///v1/a", ""), ("http:///v1/a", None), ("ftp://proxy/v1/a", "proxy"), ("//proxy/v1/a", "proxy"),
        ("http://proxy", "proxy"), ("http://proxy?/v1/", "proxy"), ("http://proxy/manage", "proxy"),
        ("http://user:secret@proxy/v1/a", "user:secret@proxy"), ("proxy:443", "proxy"), ("http:/v1/a", ""),
    ],
)  # fmt: skip
def test_an_absolute_target_for_elsewhere_is_refused(target: str, host: str | None) -> None:
    with pytest.raises(BadRequest):
        checked_target(target, host)


segments = st.sampled_from(
    [
        "",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        ".%2e",
        "%2f",
        "%2F",
        "%5c",
        "\\",
        "/",
        "a",
        "v1",
        "%25",
        "%",
        "?",
        "#",
        ";",
        "\xe9",
        " ",
    ]
)


@given(st.one_of(LATIN, st.lists(segments).map("".join), st.lists(segments).map("/".join)))
def test_no_target_that_passes_leads_out_of_v1(rest: str) -> None:
    try:
        target = checked_target("/v1/" + rest, "proxy")
    except BadRequest:
        return

    assert target == "/v1/" + rest
    depth = 0
    path = unquote(target.partition("?")[0], "latin-1").replace("\\", "/")
    assert path.startswith("/v1/")
    for segment in path.removeprefix("/v1/").split("/"):
        depth += {"..": -1, ".": 0}.get(segment, 1)
        assert depth > 0
    assert not any(ord(char) <= 0x20 or ord(char) == 0x7F for char in target)


@given(LATIN, st.none() | LATIN)
def test_what_is_refused_is_refused_with_a_bad_request_and_nothing_else(target: str, host: str | None) -> None:
    with contextlib.suppress(BadRequest):
        assert checked_target(target, host).startswith("/v1/")


# Origins


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        ("https://api.openai.com", ("https", "api.openai.com", 443, "api.openai.com", "")),
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "api.openai.com", "")),
        ("https://api.openai.com/v1/", ("https", "api.openai.com", 443, "api.openai.com", "")),
        ("http://models:8000/", ("http", "models", 8000, "models:8000", "")),
        ("http://models", ("http", "models", 80, "models", "")),
        ("https://h/openai/v1", ("https", "h", 443, "h", "/openai")),
        ("https://h/openai/", ("https", "h", 443, "h", "/openai")),
        ("http://[::1]:9000/v1", ("http", "::1", 9000, "[::1]:9000", "")),
        ("https://H.example:443", ("https", "h.example", 443, "H.example:443", "")),
    ],
)
def test_a_base_url_is_taken_apart(base_url: str, origin: tuple[Any, ...]) -> None:
    found = origin_of(base_url)

    assert (found.scheme, found.host, found.port, found.host_header, found.prefix) == origin
