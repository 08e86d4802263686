"""Which addresses a list of networks allows. An IPv4 address that is written within IPv6 is the IPv4 address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def checked_network(value: object) -> str:
    """A network or address as a rule may have it. ValueError says what it must be."""
    # A zone is a link of one machine, and no address of a caller has one that means anything here.
    if not isinstance(value, str) or "%" in value:
        raise ValueError("must be a network such as 10.0.0.0/8, or an address")
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8, or an address") from None
    if "/" in value and network.network_address != ipaddress.ip_interface(value).ip:
        raise ValueError(f"has bits beyond its prefix; did you mean {network}?")
    return value


class Networks:
    """A list of networks. Equal to another of the same networks."""

    __slots__ = ("_allow", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        networks = [_unmapped(ipaddress.ip_network(name)) for name in self.names]
        self._allow = lru_cache(maxsize=1024)(lambda address: _is_in(address, networks))

    def allow(self, address: str) -> bool:
        """Whether the list allows a caller from this address; what is no address is not allowed."""
        return self._allow(address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Networks) and other.names == self.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Networks({list(self.names)})"


def _is_in(text: str, networks: list[Network]) -> bool:
    try:
        address: Address = ipaddress.ip_address(text)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


def _unmapped(network: Network) -> Network:
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((first or 0, network.prefixlen - _MAPPED.prefixlen))
    return network
