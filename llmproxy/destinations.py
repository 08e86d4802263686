"""Which upstreams a project may name: what the operator allows, and what no key may be sent to in the clear."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from gevent import Timeout

from llmproxy.transport.names import NAMES, numeric_addresses
from llmproxy.urls import is_loopback

# How long an operator waits for a name server that does not answer.
LOOK_UP_S = 5.0

_is_host = re.compile(r"(?:\*\.)?[a-z0-9_.:-]+").fullmatch
# Names that lead nowhere outside of somebody's own network (RFC 6762, 8375, 6761; ICANN's .internal).
_PRIVATE_ENDINGS = (".internal", ".local", ".localhost", ".home.arpa", ".svc")
# Of providers (RFC 6598): a cluster's or a VPN's, and nobody's outside.
_SHARED = ipaddress.ip_network("100.64.0.0/10")


class NotAllowed(ValueError):
    """UPSTREAM_ALLOWED_HOSTS does not name the host."""


def hosts_of(raw: str) -> tuple[str, ...]:
    """Hosts out of a list with commas; `*.example.com` stands for all below. Raises ValueError."""
    hosts = tuple(part.strip().strip("[]").lower().rstrip(".") for part in raw.split(","))
    if not all(map(_is_host, hosts)):
        raise ValueError("must be hosts such as api.openai.com or *.example.com, with commas, without scheme or port")
    return hosts


def require_allowed(base_url: str | None, allowed: tuple[str, ...]) -> None:
    """
    Raise NotAllowed where a project's upstream is none of those that the operator lists.

    Args:
        base_url: None is UPSTREAM_URL, which the operator has named already.
        allowed: As `hosts_of` reads them; empty allows all.
    """
    if not allowed or base_url is None:
        return
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if not any(host.endswith(each[1:]) if each.startswith("*.") else host == each for each in allowed):
        raise NotAllowed("names a host that UPSTREAM_ALLOWED_HOSTS does not list")


def require_private_if_plain(base_url: str) -> None:
    """Raise ValueError where keys and prompts would travel outside in the clear. May look a name up."""
    url = urlsplit(base_url)
    host = (url.hostname or "").rstrip(".")
    if url.scheme != "http" or is_loopback(host):
        return
    found = numeric_addresses(host)
    if not found and ("." not in host or host.endswith(_PRIVATE_ENDINGS)):
        return
    try:
        with Timeout(LOOK_UP_S, TimeoutError):
            found = found or NAMES.addresses(host)
    except (OSError, UnicodeError) as exc:
        raise ValueError("must start with https://: nobody can tell whether that host is in your network") from exc
    if not all(_is_private(address.host) for address in found):
        raise ValueError("must start with https://: the host is outside of your network")


def _is_private(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_private or address in _SHARED
