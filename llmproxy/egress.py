"""
The way out of this network: directly, or through an egress proxy, as HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.

Whoever opens a connection asks here. No name is looked up for it: behind a proxy that is the proxy's business, and it
may be the only one that can.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from llmproxy.urls import is_loopback, web_url

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_host_and_port = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})").fullmatch
# Letters of any alphabet pass: what names no host is no host's.
_is_name = re.compile(r"[^\s/\[\]:@?#]+").fullmatch
DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """
    A proxy of HTTP. Only `place` may be shown.

    Attributes:
        url: With its credentials.
        authorization: Its Proxy-Authorization, "" where it wants none.
    """

    host: str
    port: int
    url: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Host and port."""
        return authority(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Bypass:
    """Hosts that are reached directly: a name with all below it, at one port or any, or a network of addresses."""

    name: str = ""
    port: int | None = None
    network: Network | None = None

    def __str__(self) -> str:
        place = self.name if self.network is None else str(self.network)
        return place if self.port is None else f"{place}:{self.port}"

    def covers(self, host: str, port: int) -> bool:
        """Whether this is one of them."""
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        is_at_port = self.port in (None, port)
        return is_at_port and (self.name == "*" or host == self.name or host.endswith(f".{self.name}"))


@dataclass(frozen=True, slots=True)
class Egress:
    """The proxies for `https://` and `http://`, and what goes past them. Loopback always does."""

    https: EgressProxy | None = None
    http: EgressProxy | None = None
    bypass: tuple[Bypass, ...] = ()

    @property
    def has_proxies(self) -> bool:
        """False where everything is reached directly."""
        return self.https is not None or self.http is not None

    def proxy_for(self, scheme: str, host: str, port: int) -> EgressProxy | None:
        """The proxy on the way to a host; None when it is reached directly."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None:
            return None
        host = host.lower().rstrip(".")
        is_near = is_loopback(host) or any(each.covers(host, port) for each in self.bypass)
        return None if is_near else proxy

    def for_requests(self, url: str) -> dict[str, str]:
        """The proxies of a requests Session that calls this URL alone."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        proxy = self.proxy_for(parts.scheme, parts.hostname or "", port)
        return {} if proxy is None else {parts.scheme: proxy.url}


def proxy_of(raw: str) -> EgressProxy:
    """The proxy that a variable names, as a URL or as host and port. ValueError says what is wrong with it."""
    url = web_url(raw if "://" in raw else f"http://{raw}")
    if url.scheme != "http":
        raise ValueError("must start with http://, whatever is reached through it")
    if url.path.strip("/") or url.query or url.fragment:
        raise ValueError("must be user, password, host and port alone, with %40 and the like in a password")
    if not raw.isascii() or not raw.isprintable() or " " in raw:
        raise ValueError("must not hold spaces, control or non-ASCII characters")
    host, port = url.hostname or "", url.port or DEFAULT_PORT
    if url.username is None:
        return EgressProxy(host, port, f"http://{authority(host, port)}")
    credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
    encoded = base64.b64encode(credentials.encode()).decode()
    userinfo = url.netloc.rpartition("@")[0]
    return EgressProxy(host, port, f"http://{userinfo}@{authority(host, port)}", f"Basic {encoded}")


def bypass_of(raw: str) -> tuple[Bypass, ...]:
    """What NO_PROXY lists, with commas or blanks. ValueError says what is wrong with it."""
    return tuple(_bypass(entry) for entry in re.split(r"[\s,]+", raw.lower()) if entry)


def _bypass(entry: str) -> Bypass:
    if "/" in entry or _address(entry) is not None:
        try:
            return Bypass(network=ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError as exc:
            raise ValueError("must list hosts, domains, addresses and networks such as 10.0.0.0/8") from exc
    parts = _host_and_port(entry)
    host, port = (parts[1] or parts[2], int(parts[3])) if parts else (entry, None)
    if not parts and not _is_name(entry):
        raise ValueError("must list hosts, domains, addresses and networks such as 10.0.0.0/8")
    return Bypass(name=host if host == "*" else host.removeprefix("*").strip("."), port=port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def authority(host: str, port: int) -> str:
    """Host and port as they stand in a URL and in a CONNECT."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
