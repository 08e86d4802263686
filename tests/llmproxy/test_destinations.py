"""Which upstreams a project may name."""

import pytest

from llmproxy import destinations
from llmproxy.destinations import NotAllowed, hosts_of, require_allowed, require_private_if_plain
from llmproxy.transport.names import Address
from llmproxy.urls import checked_upstream_url, is_off_limits

METADATA = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe", "::ffff:0:a9fe:a9fe", "::a9fe:a9fe", "2002:a9fe:a9fe::1", "fd00:ec2::254", "fd00:ec2::23",
    "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:42::42", "fd20:ce::254",
    "168.63.129.16", "100.100.100.200", "192.0.0.192",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
def test_addresses_of_metadata_are_off_limits(address: str):
    assert is_off_limits(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "8.8.8.8", "::1", "fd00::1", "api.openai.com", "", "2002:808:808::1"]
)
def test_others_are_not(address: str):
    assert not is_off_limits(address)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"])
def test_no_upstream_is_named_by_such_an_address(host: str):
    for scheme in ("http", "https"):
        with pytest.raises(ValueError, match="metadata"):
            checked_upstream_url(f"{scheme}://{host}/v1")


ALLOWED = hosts_of("api.openai.com, *.example.com,10.0.0.1,[2001:db8::1]")


@pytest.mark.parametrize(
    "url",
    [
        None, "https://api.openai.com", "https://API.openai.com.:8443/v1", "https://eu.example.com", "https://a.b.example.com",
        "http://10.0.0.1:8000/v1", "https://[2001:db8::1]/v1",
    ],
)  # fmt: skip
def test_a_listed_host_is_allowed(url: str | None):
    require_allowed(url, ALLOWED)
    require_allowed(url, ())


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test", "https://api.openai.com.evil.test", "https://example.com", "https://badexample.com",
        "https://10.0.0.11", "http://0x0a000001/", "https://evil.test/api.openai.com", "https://openai.com",
    ],
)  # fmt: skip
def test_another_is_not(url: str):
    require_allowed(url, ())
    with pytest.raises(NotAllowed, match="UPSTREAM_ALLOWED_HOSTS"):
        require_allowed(url, ALLOWED)


@pytest.mark.parametrize("raw", ["https://api.openai.com", "a,,b", "*", "a/b", "user@host", "*.*.com", "a b"])
def test_a_list_of_hosts_with_a_slip_in_it_is_refused(raw: str):
    with pytest.raises(ValueError, match="must be hosts"):
        hosts_of(raw)


FOUND = {
    "inside.example.com": ["10.1.2.3", "fd00::7"], "outside.example.com": ["8.8.4.4"],
    "cgnat.example.com": ["100.64.1.1"], "both.example.com": ["10.1.2.3", "8.8.8.8"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def name_server(monkeypatch: pytest.MonkeyPatch):
    def addresses(host: str) -> list[Address]:
        if host not in FOUND:
            raise OSError("no such name")
        return [Address(2, each) for each in FOUND[host]]

    monkeypatch.setattr(destinations.NAMES, "addresses", addresses)


@pytest.mark.parametrize(
    "url",
    [
        "https://8.8.8.8", "https://outside.example.com", "http://127.0.0.1:1", "http://localhost", "http://[::1]:8000",
        "http://10.0.0.1", "http://192.168.1.1:8000/v1", "http://[fd00::7]", "http://100.64.0.1", "http://models:8000",
        "http://vllm.models.svc.cluster.local:8000/v1", "http://box.internal", "http://nas.home.arpa.",
        "http://inside.example.com", "http://cgnat.example.com", "http://vllm.models.svc",
    ],
)  # fmt: skip
def test_plain_http_is_for_ones_own_network(url: str):
    require_private_if_plain(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8", "http://134744072", "http://0x08080808/v1", "http://[2001:4860::8888]", "http://[::ffff:8.8.8.8]",
        "http://outside.example.com", "http://both.example.com", "http://nowhere.example.com", "http://evil.local.example.com",
    ],
)  # fmt: skip
def test_it_is_for_nothing_beyond(url: str):
    with pytest.raises(ValueError, match="must start with https://"):
        require_private_if_plain(url)
