"""Which headers pass, and which targets: tables, and properties over what a hostile client can send."""

import contextlib
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.errors import BadRequest
from llmproxy.headers import (
    bare_fields,
    checked_target,
    field_lines,
    origin_of,
    request_headers,
    response_headers,
    with_header,
)

KEY = "sk-upstream"
LATIN = st.text(st.characters(max_codepoint=255))
FIELD_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))


def sent_up(*received: tuple[str, str]) -> list[tuple[str, str]]:
    """What goes up for these headers, with what always goes left out."""
    headers = request_headers(list(received), host="up", api_key=KEY)
    assert headers.count(("Host", "up")) == headers.count(("Authorization", f"Bearer {KEY}")) == 1
    always = {"Host", "Authorization"} | (
        {"Accept-Encoding"} if ("Accept-Encoding", "identity") in headers else set()
    )
    return [pair for pair in headers if pair[0] not in always]


# Requests


@pytest.mark.parametrize(
    "name",
    [
        "Cookie", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection",
        "Proxy-Authorization", "Proxy-Authenticate", "Expect", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host",
        "X-Real-IP", "CF-Connecting-IP", "CF-Ray", "OpenAI-Organization", "OpenAI-Project", "X-Proxy-Request-Id",
        "X-Proxy-Anything", "Content-Length", "X-HTTP-Method-Override", "X-Original-URL",
    ],
)  # fmt: skip
def test_a_header_that_is_not_the_upstreams_business_stays_here_in_any_spelling(name: str) -> None:
    spellings = [name, name.lower(), name.upper(), name.replace("-", "_")]

    assert sent_up(*[(spelling, "value") for spelling in spellings if spelling != "Te"]) == []


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Path-Info", "Content_Type", "CONTENT_ENCODING"])
def test_a_header_that_servers_behind_take_for_another_stays_here(name: str) -> None:
    assert sent_up((name, "/v1/other")) == []


@pytest.mark.parametrize(
    "name",
    [
        "OpenAI-Beta", "idempotency-key", "User-Agent", "accept", "X-STAINLESS-LANG", "x-request-id", "traceparent",
        "Content-Type", "Content-Encoding", "session_id", "Range", "If-None-Match", "Via",
    ],
)  # fmt: skip
def test_any_other_header_goes_up_as_it_is(name: str) -> None:
    assert sent_up((name, 'a, "b";  c\xe9')) == [(name, 'a, "b";  c\xe9')]
    assert sent_up((name, "")) == [(name, "")]


def test_order_case_and_repetition_stay_and_ours_stand_where_the_clients_stood() -> None:
    received = [
        ("x-b", "1"), ("AUTHORIZATION", "Bearer token"), ("X-A", "2"), ("host", "proxy"), ("X-B", "3"),
        ("Accept-Encoding", "br"), ("x-b", "1"),
    ]  # fmt: skip

    assert request_headers(received, host="up", api_key=KEY) == [
        ("x-b", "1"), ("AUTHORIZATION", f"Bearer {KEY}"), ("X-A", "2"), ("host", "up"), ("X-B", "3"),
        ("Accept-Encoding", "br"), ("x-b", "1"),
    ]  # fmt: skip


def test_what_the_client_left_out_is_added_at_the_end() -> None:
    assert request_headers([("X-A", "1")], host="up", api_key=KEY) == [
        ("X-A", "1"), ("Accept-Encoding", "identity"), ("Host", "up"), ("Authorization", f"Bearer {KEY}"),
    ]  # fmt: skip


def test_an_empty_accept_encoding_goes_up_empty() -> None:
    assert ("accept-encoding", "") in sent_up(("accept-encoding", ""))


@pytest.mark.parametrize("name", ["Authorization", "Host", "authorization", "HOST"])
def test_a_repeated_header_of_ours_goes_up_once(name: str) -> None:
    headers = request_headers([(name, "a"), (name, "b")], host="up", api_key=KEY)

    assert [pair[0].lower() for pair in headers].count(name.lower()) == 1
    assert not {"a", "b"} & {value for _, value in headers}


@pytest.mark.parametrize("listed", ["X-Secret", "x-secret", "close, X-SECRET", " x-secret ,te", "a,,x-secret"])
@pytest.mark.parametrize("name", ["X-Secret", "x-secret", "X_Secret"])
def test_a_header_that_connection_lists_is_hop_by_hop(listed: str, name: str) -> None:
    assert sent_up(("Connection", "close"), (name, "1"), ("Connection", listed)) == []


@pytest.mark.parametrize("listed", ["authorization", "Authorization, Host", "HOST", "accept-encoding"])
def test_connection_cannot_take_away_what_the_proxy_sets(listed: str) -> None:
    headers = dict(request_headers([("Connection", listed), ("Accept-Encoding", "br")], host="up", api_key=KEY))

    assert headers.keys() == {"Host", "Authorization", "Accept-Encoding"}
    assert headers["Accept-Encoding"] == ("identity" if listed == "accept-encoding" else "br")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "\n", "a\x00b"])
@pytest.mark.parametrize("name", ["X-A", "User-Agent", "Content-Type"])
def test_a_value_that_could_begin_another_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequest):
        sent_up((name, value))


@pytest.mark.parametrize("name", ["", "X A", "X-A\r\nX-Evil", "X-A:", "X\xe9", "X\tA", "X\x00"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(BadRequest):
        sent_up((name, "1"))


def test_a_header_set_anew_is_there_once() -> None:
    assert with_header([("A", "1"), ("x-a", "1"), ("X-A", "2")], "X-A", "3") == [("A", "1"), ("X-A", "3")]


NAMES = st.from_regex(r"[A-Za-z0-9_!'*+.|~-]{1,20}", fullmatch=True) | st.sampled_from(
    ["Host", "HOST_", "Authorization", "authorization", "Content-Length", "Content_Length", "Connection", "Cookie"]
)


@given(st.lists(st.tuples(NAMES, FIELD_VALUE), max_size=8), FIELD_VALUE)
def test_whatever_is_sent_the_key_and_the_host_are_ours(received: list[tuple[str, str]], connection: str) -> None:
    headers = request_headers([*received, ("Connection", connection)], host="up", api_key=KEY)

    lower = [name.lower() for name, _ in headers]
    assert [value for name, value in headers if name.lower() == "host"] == ["up"]
    assert [value for name, value in headers if name.lower() == "authorization"] == [f"Bearer {KEY}"]
    assert not {"connection", "cookie", "content-length", "content_length", "transfer-encoding", "expect"} & set(
        lower
    )


# Responses


def sent_down(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    headers = response_headers(pairs, request_id="id-1")
    assert headers[-1] == ("x-proxy-request-id", "id-1")
    return headers[:-1]


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Connection", "Keep-Alive", "TE", "Upgrade",
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


def test_fields_outside_the_head_come_down_without_what_frames_routes_or_breaks_a_message() -> None:
    kept = [("Link", "</a>"), ("link", "</b>"), ("X-Sum", "")]
    dropped = [
        ("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Set-Cookie", "a=b"), ("Host", "x"),
        ("Connection", "close"), ("X-Bad", "a\x01b"), ("X-Bad", "a\r\nX-Evil: 1"), ("X Bad", "1"), ("", "1"),
        ("Content-Encoding", "gzip"), ("X-Proxy-Request-Id", "forged"),
    ]  # fmt: skip

    assert bare_fields([*dropped, *kept, *dropped]) == kept
    assert field_lines(kept) == b"Link: </a>\r\nlink: </b>\r\nX-Sum: \r\n"


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
        ("https://api.openai.com", ("https", "api.openai.com", 443, "api.openai.com", "/v1")),
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "api.openai.com", "/v1")),
        ("https://api.openai.com/v1/", ("https", "api.openai.com", 443, "api.openai.com", "/v1")),
        ("http://models:8000/", ("http", "models", 8000, "models:8000", "/v1")),
        ("http://models", ("http", "models", 80, "models", "/v1")),
        ("https://h/openai/v1", ("https", "h", 443, "h", "/openai/v1")),
        ("https://h/v1beta/openai/", ("https", "h", 443, "h", "/v1beta/openai")),
        ("http://[::1]:9000/v1", ("http", "::1", 9000, "[::1]:9000", "/v1")),
        ("https://H.example:443", ("https", "h.example", 443, "H.example:443", "/v1")),
    ],
)
def test_a_base_url_is_taken_apart(base_url: str, origin: tuple[Any, ...]) -> None:
    found = origin_of(base_url)

    assert (found.scheme, found.host, found.port, found.host_header, found.base_path) == origin
