"""Whose address a request comes from: the peer's, or what the operator's own proxies say of whom they serve."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Longer than any address with a zone and a port: what is longer is none, and not kept.
MAX_ADDRESS_CHARS = 80


def networks_of(raw: str) -> tuple[Network, ...]:
    """Networks and addresses out of a list with commas. Raises ValueError."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in raw.split(","))
    except ValueError as exc:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, with commas between them") from exc


class ClientAddress:
    """
    Tells a request's address.

    Args:
        trusted: The operator's own proxies. Anybody else could write what they like into X-Forwarded-For.
    """

    def __init__(self, trusted: tuple[Network, ...] = ()) -> None:
        self._trusted = trusted

    def __call__(self, environ: Mapping[str, Any]) -> str | None:
        """
        The address that a WSGI request comes from; None where the server knows none.

        Each proxy appends whom it serves to X-Forwarded-For, so that is read from its end, for as long as the one who
        appended is trusted. An entry that is no address ends it: the proxy that handed it on is the nearest known.
        """
        peer = environ.get("REMOTE_ADDR", "")
        if not self._trusted:
            return _shown(peer)
        address = _parsed(peer)
        if self._is_trusted(address):
            address = self._behind(address, environ.get("HTTP_X_FORWARDED_FOR", ""))
        return None if address is None else str(address)

    def _behind(self, proxy: Address | None, forwarded: str) -> Address | None:
        while forwarded and self._is_trusted(proxy):
            forwarded, _, last = forwarded.rpartition(",")
            if (client := _parsed(last)) is None:
                break
            proxy = client
        return proxy

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


@lru_cache(maxsize=4096)
def _shown(peer: str) -> str | None:
    """What a socket tells of its peer, as it is shown."""
    address = _parsed(peer)
    return None if address is None else str(address)


def _parsed(text: str) -> Address | None:
    return _parsed_anew(text) if len(text) <= MAX_ADDRESS_CHARS else None


@lru_cache(maxsize=4096)
def _parsed_anew(text: str) -> Address | None:
    """An address, which some proxies write with a port. One of IPv4 looks like one of IPv6 to a socket for both."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
