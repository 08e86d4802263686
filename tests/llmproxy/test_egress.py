"""Which way leads out: what the three variables mean, and that nothing of a proxy's credentials shows."""

import pytest

from llmproxy.egress import Egress, bypass_of, proxy_of

PROXIES = {"https": proxy_of("http://one:1"), "http": proxy_of("http://two:2")}


@pytest.mark.parametrize(
    ("text", "host", "port", "authorization"),
    [
        ("http://proxy.corp:3128", "proxy.corp", 3128, ""),
        ("proxy.corp:3128", "proxy.corp", 3128, ""),
        ("HTTP://Proxy.corp/", "proxy.corp", 80, ""),
        ("10.0.0.1", "10.0.0.1", 80, ""),
        ("http://[fd00::1]:8080", "fd00::1", 8080, ""),
        ("http://user:pass@proxy:3128", "proxy", 3128, "Basic dXNlcjpwYXNz"),
        ("user:p%40ss%3a@proxy:3128", "proxy", 3128, "Basic dXNlcjpwQHNzOg=="),
        ("http://user@proxy", "proxy", 80, "Basic dXNlcjo="),
        ("http://u:%C3%BC@proxy", "proxy", 80, "Basic dTrDvA=="),
    ],
)
def test_a_variable_names_a_proxy(text: str, host: str, port: int, authorization: str) -> None:
    proxy = proxy_of(text)

    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, authorization)


@pytest.mark.parametrize(
    "text",
    [
        "https://proxy:3128", "socks5://planted@h", "socks5h://h", "http://", "http://planted:p#s@proxy", "http://h:0",
        "http://h:99999", "http://h/pac", "http://h?planted", "http://h#planted", "http://plan ted@h", "http://h\u00e9",
        "http://pl\nanted@h", "http://u:planted/x@h", ":3128", "http://[::1", "://", "@",
    ],
)  # fmt: skip
def test_what_is_no_proxy_of_http_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|must)") as refusal:
        proxy_of(text)

    assert "plan" not in str(refusal.value)


def test_a_proxy_shows_no_credentials() -> None:
    proxy = proxy_of("http://planted-user:planted-password@proxy:3128")

    assert proxy.place == "proxy:3128"
    assert "planted" not in f"{proxy} {proxy!r} {Egress(https=proxy)!r}"
    assert "cGxhbnRlZC" not in repr(proxy)


def test_each_scheme_has_a_proxy_of_its_own() -> None:
    both, one, none = Egress(**PROXIES), Egress(https=PROXIES["https"]), Egress()

    assert both.proxy_for("https", "h", 443) == PROXIES["https"]
    assert both.proxy_for("http", "h", 80) == PROXIES["http"]
    assert one.proxy_for("http", "h", 80) is None
    assert none.proxy_for("https", "h", 443) is None
    assert (both.has_proxies, one.has_proxies, none.has_proxies) == (True, True, False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "LOCALHOST", "localhost."])
def test_loopback_is_always_reached_directly(host: str) -> None:
    assert Egress(**PROXIES).proxy_for("https", host, 443) is None


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("*", "api.openai.com"),
        ("api.openai.com", "api.openai.com"), ("api.openai.com", "API.OpenAI.com."),
        ("API.openai.com", "api.openai.com"),
        ("openai.com", "api.openai.com"), (".openai.com", "api.openai.com"), ("*.openai.com", "api.openai.com"),
        (".openai.com", "openai.com"), ("a, b ,openai.com", "api.openai.com"), ("a b\topenai.com", "openai.com"),
        ("openai.com:443", "api.openai.com"), ("*:443", "h"), ("vllm", "vllm"),
        ("10.0.0.0/8", "10.1.2.3"), ("10.9.9.9/8", "10.1.2.3"), ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:443", "10.1.2.3"),
        ("fd00::/8", "fd12::1"), ("fd12::1", "fd12:0::1"), ("[fd12::1]", "fd12::1"), ("[fd12::1]:443", "fd12::1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"), ("0.0.0.0/0", "8.8.8.8"),
    ],
)  # fmt: skip
def test_no_proxy_names_what_is_reached_directly(no_proxy: str, host: str) -> None:
    assert Egress(**PROXIES, bypass=bypass_of(no_proxy)).proxy_for("https", host, 443) is None


@pytest.mark.parametrize(
    ("no_proxy", "host"),
    [
        ("", "h"), (",", "h"), ("openai.com", "notopenai.com"), ("api.openai.com", "openai.com"),
        ("openai.com:80", "openai.com"),
        ("openai.com", "openai.com.evil"), ("10.0.0.0/8", "11.0.0.1"), ("10.0.0.0/8", "fd00::1"),
        ("10.0.0.0/8", "ten.example"),
        ("10", "10.0.0.1"), ("1.2.3", "1.2.3.4"), ("10.1.2.3:80", "10.1.2.3"), ("*.", "h"), (".", "h"),
        ("fd00::/8", "10.0.0.1"),
        ("0.0.0.1", "10.0.0.1"), ("localhost", "h"), ("http", "h"),
    ],
)  # fmt: skip
def test_everything_else_takes_the_proxy(no_proxy: str, host: str) -> None:
    assert Egress(**PROXIES, bypass=bypass_of(no_proxy)).proxy_for("https", host, 443) == PROXIES["https"]


@pytest.mark.parametrize("text", ["10.0.0.0/33", "a/b", "http://h", "[x", "u@h", "a,10.0.0.0/x", "fd00::/129"])
def test_what_no_proxy_cannot_mean_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must list hosts, domains, addresses and networks"):
        bypass_of(text)


def test_requests_is_told_of_the_one_way_to_a_url() -> None:
    egress = Egress(
        https=proxy_of("http://u:p%40@one:1"), http=PROXIES["http"], bypass=bypass_of("near.example:8443")
    )

    assert egress.for_requests("https://far.example/x?y") == {"https": "http://u:p%40@one:1"}
    assert egress.for_requests("http://far.example:8080/") == {"http": "http://two:2"}
    assert egress.for_requests("https://near.example:8443/") == {}
    assert egress.for_requests("http://127.0.0.1:4318") == {}
