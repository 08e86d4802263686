import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.urls import checked_origins, checked_root_path, checked_upstream_url


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com", "https://api.openai.com/v1", "https://api.openai.com/v1/", "http://h:8000",
        "http://[::1]:8000", "https://h/a/b/v1", "HTTPS://H", "http://127.0.0.1:1", "https://h_x.internal",
        "https://h/a%20b", "https://h/..a/b..", "https://h/v1beta/openai/", "https://h/api/paas/v4", "https://h/models",
        "https://completions/v1", "https://h/chat", "https://h/chat/completions/v1", "https://h/responses-eu",
    ],
)  # fmt: skip
def test_a_base_url_may_be(url: str) -> None:
    checked_upstream_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "h", "api.openai.com", "ftp://h", "https://", "https:///v1", "https://u@h", "https://u:p@h", "https://:p@h",
        "https://@h", "https://:@h", "https://h?x", "https://h/?x=y", "https://h#x", "https://h:x", "https://h:65536",
        "https://h:-1", "https://h:0", "https://h /", "https://h\n", "\nhttps://h", "https://h\t", "https://h\x00", "https://h\x7f",
        "https://h/\u00e9", "https://h\u00e9", "https://h/a b", 'https://h/"', "https://h/<x>", "https://h\\@evil", "https://[::1",
        "https://h/../x", "https://h/.", "https://h/%2e%2e/x", "https://h/%2E/x", "javascript:alert(1)", "//h", "https://?",
    ],
)  # fmt: skip
def test_a_base_url_may_not_be(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(is not|must) "):
        checked_upstream_url(url)


@pytest.mark.parametrize(
    "endpoint",
    ["/chat/completions", "/completions", "/responses", "/embeddings/", "/Chat/Completions", "/images/generations"],
)
def test_a_whole_endpoint_is_refused_with_the_part_to_leave_out(endpoint: str) -> None:
    with pytest.raises(ValueError, match=f"^must end before {endpoint}, "):
        checked_upstream_url(f"https://h/v1{endpoint}")


@given(st.text() | st.text().map("https://".__add__))
def test_any_text_is_a_base_url_or_is_refused(text: str) -> None:
    try:
        checked_upstream_url(text)
    except ValueError:
        return

    assert text.isascii()
    assert text.isprintable()
    assert "@" not in text.split("/")[2]


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)), ("https://a.example", ("https://a.example",)), ("http://localhost:3000,", ("http://localhost:3000",)),
        (" https://a , http://[::1]:8080", ("https://a", "http://[::1]:8080")), ("http://127.0.0.1:443", ("http://127.0.0.1:443",)),
        ("chrome-extension://abcdef,tauri://localhost", ("chrome-extension://abcdef", "tauri://localhost")),
        ("https://a:80,http://a:443", ("https://a:80", "http://a:443")),
    ],
)  # fmt: skip
def test_origins_are_listed_with_commas(text: str, origins: tuple[str, ...]) -> None:
    assert checked_origins(text) == origins


@pytest.mark.parametrize(
    "text",
    [
        ",", " ", "a.example", "https://a/", "https://a.example/app", "https://A.example", "HTTPS://a", "https://*.a.example",
        "https://a:443", "http://a:80", "null", "https://u@a", "https://a?x", "https://a b", "https://\u00e9", "https://a\nb",
        "https://a https://b", "https://a,b", "//a", "https://", "*.example", "https://a:",
    ],
)  # fmt: skip
def test_what_no_browser_sends_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be `\*`, or origins"):
        checked_origins(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/llm", "/llm"),
        ("/llm/", "/llm"),
        ("/tools/llm-proxy_1.0~", "/tools/llm-proxy_1.0~"),
        ("/", ""),
        ("/v1beta", "/v1beta"),
    ],
)
def test_a_root_path_ends_without_a_slash(text: str, path: str) -> None:
    assert checked_root_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "llm", "//llm", "/a//b", "/a/../b", "/./a", "/a%2Fb", "/a b", "/a?b", "/a#b", "https://h/llm", "/\u00fc",
        "/a\n", "/v1",
        "/admin/llm", "/manage", "/a;b",
    ],
)  # fmt: skip
def test_a_root_path_is_plain_and_none_of_the_proxys_own(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        checked_root_path(text)
