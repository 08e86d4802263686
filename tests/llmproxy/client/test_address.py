"""Whose address a request comes from, past the proxies that the operator trusts, and no others."""

import pytest

from llmproxy.client.address import ClientAddress, networks_of

TRUSTED = networks_of("10.0.0.0/8, 2001:db8:ffff::/48,127.0.0.1")


def told(peer: str, forwarded: str | None = None, trusted=TRUSTED) -> str | None:
    environ = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    return ClientAddress(trusted)(environ)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first is what the client wrote itself
        ("10.0.0.1", "203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("10.0.0.1", "203.0.113.7,10.1.2.3 , 127.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "10.5.5.5, 10.1.2.3", "10.5.5.5"),  # all of them: whoever is farthest
        ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:DB8::0001", "2001:db8::1"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:ffff::9", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_tells_whom_it_serves(peer: str, forwarded: str | None, client: str):
    assert told(peer, forwarded) == client


@pytest.mark.parametrize("forwarded", ["10.0.0.9", "198.51.100.1", "198.51.100.1, 10.0.0.1"])
def test_nobody_else_is_believed(forwarded: str):
    assert told("203.0.113.7", forwarded) == "203.0.113.7"
    assert told("10.0.0.1", forwarded, trusted=()) == "10.0.0.1"
    assert told("10.0.0.1", f"{forwarded}, 203.0.113.7") == "203.0.113.7"


@pytest.mark.parametrize(
    "entry", ["unknown", "_hidden", "203.0.113.7 x", "1.2.3", ",", " ", "9" * 8000, "\xe9", "a:b:c"]
)
def test_what_is_no_address_ends_at_the_proxy_that_handed_it_on(entry: str):
    assert told("10.0.0.1", f"198.51.100.1, {entry}") == "10.0.0.1"
    assert told("10.0.0.1", f"198.51.100.1, {entry}, 10.0.0.7") == "10.0.0.7"


@pytest.mark.parametrize("peer", ["", "unix:", "@"])
def test_a_peer_without_an_address_has_none(peer: str):
    assert told(peer, "203.0.113.7") is None


@pytest.mark.parametrize("raw", ["10.0.0.0/33", "proxy.internal", "10.0.0.1,", "*", "10.0.0.1/8"])
def test_a_list_of_networks_with_a_slip_in_it_is_refused(raw: str):
    with pytest.raises(ValueError, match="with commas between them"):
        networks_of(raw)
