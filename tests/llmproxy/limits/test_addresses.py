"""Networks of callers."""

import pytest

from llmproxy.limits.addresses import Networks, checked_network


@pytest.mark.parametrize(
    ("rule", "address", "allowed"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:a00:1", True),
        ("10.0.0.0/8", "::10.0.0.1", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::/32", "2001:db8:1::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("::/0", "10.0.0.1", False),
        ("::ffff:10.0.0.0/104", "10.1.1.1", True),
        ("::ffff:10.0.0.0/104", "11.1.1.1", False),
        ("0.0.0.0/0", "::1", False),
        ("10.0.0.0/8", "10.0.0.01", False),
        ("10.0.0.0/8", "", False),
        ("10.0.0.0/8", "unix:", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_an_address_is_allowed_by_the_network_it_is_in(rule, address, allowed):
    assert Networks([rule]).allow(address) is allowed


def test_any_network_of_a_list_allows():
    networks = Networks(["10.0.0.0/8", "2001:db8::/32"])

    assert networks.allow("10.0.0.1")
    assert networks.allow("2001:db8::1")
    assert not networks.allow("192.0.2.1")


def test_a_network_with_bits_beyond_its_prefix_is_refused_with_what_was_meant():
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8\?"):
        checked_network("10.1.0.0/8")


@pytest.mark.parametrize(
    "value", ["", "10.0.0.0/33", "10.0.0", "example.com", 5, None, "10.0.0.0/8 ", "fe80::1%eth0"]
)
def test_what_is_no_network_is_refused(value):
    with pytest.raises(ValueError, match="must be a network"):
        checked_network(value)


@pytest.mark.parametrize("value", ["10.0.0.0/8", "10.0.0.1", "2001:db8::/32", "::1", "::ffff:10.0.0.0/104"])
def test_a_network_is_taken(value):
    assert checked_network(value) == value
    Networks([value])
