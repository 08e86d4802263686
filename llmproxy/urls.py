"""Which URLs may be called: checks of what operators enter, done before anything is sent there."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

# What the URL of a whole call ends in, as documentation shows it.
_endpoint_in = re.compile(
    r"/(?:(?:chat/)?completions|responses|embeddings|moderations|realtime"
    r"|images/(?:generations|edits|variations)|audio/(?:speech|transcriptions|translations))/*$",
    re.IGNORECASE,
).search

_is_serialized_origin = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?").fullmatch

_is_plain_path = re.compile(r"(?:/[A-Za-z0-9._~-]+)*").fullmatch
_OWN_SEGMENTS = frozenset({"v1", "manage", "admin", "healthz", "readyz", "metrics"})


def is_loopback(host: str) -> bool:
    """True for localhost and the loopback addresses."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.lower().removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


# Where a cloud tells its machines their own credentials, apart from the link-local addresses: AWS (all that it has
# there, such as a pod's identity), Google, Oracle, Linode and Scaleway over IPv6, Azure, Alibaba, Oracle.
# deploy/kubernetes/network-policy.yaml has them, too.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("fd00:ec2::/32", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:42::42"),
        *("168.63.129.16", "100.100.100.200", "192.0.0.192"),
    )
)
# What leads to the address of IPv4 in its last 32 bits: NAT64, a network's own one, RFC 2765, RFC 4291's old form.
_WITH_IPV4 = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))


def is_off_limits(text: str) -> bool:
    """Whether no upstream may have this address: link-local ones, and those of a cloud's metadata."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        within = address.ipv4_mapped or address.sixtofour
        if any(address in network for network in _WITH_IPV4):
            within = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if within is not None:
            return is_off_limits(str(within))
    return address.is_link_local or any(address in network for network in METADATA)


def web_url(raw: str) -> SplitResult:
    """The parts of a URL of HTTP. ValueError says what is wrong, without repeating the URL."""
    try:
        url = urlsplit(raw)
        has_port = url.port != 0  # reading it checks it
    except ValueError as exc:
        raise ValueError("is not a URL") from exc
    if not has_port:
        raise ValueError("must not name port 0")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    return url


def checked_origins(raw: str) -> tuple[str, ...]:
    """Origins of pages, listed with commas as browsers write them, or `*` for all. ValueError says what is wrong."""
    origins = tuple(part for part in map(str.strip, raw.split(",")) if part)
    if not origins or not all(origin == "*" or _is_origin(origin) for origin in origins):
        raise ValueError("must be `*`, or origins as browsers send them, such as https://app.example, with commas")
    return origins


def checked_root_path(raw: str) -> str:
    """A path such as `/llm`, without a slash at its end; "" for `/`. ValueError says what is wrong."""
    path = raw.rstrip("/")
    segments = path.split("/")[1:]
    if not _is_plain_path(path) or "." in segments or ".." in segments:
        raise ValueError("must be a path such as /llm, of letters, digits and -._~ alone")
    if segments and segments[0] in _OWN_SEGMENTS:
        raise ValueError(f"must not begin with /{segments[0]}, as the proxy's own paths do")
    return path


def _is_origin(text: str) -> bool:
    # An extension or an app has a scheme of its own. Of HTTP's ports browsers leave out the usual one.
    usual = {"http": ":80", "https": ":443"}.get(text.partition(":")[0], "\0")
    return _is_serialized_origin(text) is not None and not text.endswith(usual)


def seal_origin(base_url: str | None) -> str:
    """What an upstream's key is sealed for: scheme, host and port, or "" for wherever UPSTREAM_URL leads."""
    if base_url is None:
        return ""
    url = urlsplit(base_url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return f"{url.scheme}://{url.hostname}:{port}"


def checked_upstream_url(raw: str) -> str:
    """`raw`, if it can be an upstream's base URL: scheme, host, port, path before an endpoint. Or ValueError."""
    url = web_url(raw)
    if "@" in url.netloc or url.query or url.fragment:
        raise ValueError("must be scheme, host, port and path alone")
    if not raw.isascii() or any(ord(char) <= 0x20 or char in '"<>\\^`{|}\x7f' for char in raw):
        raise ValueError("must not hold spaces, control or non-ASCII characters")
    if is_off_limits(url.hostname or ""):
        raise ValueError("must not name a link-local address or a cloud's metadata")
    segments = url.path.lower().replace("%2e", ".").split("/")
    if "." in segments or ".." in segments:
        raise ValueError("must not hold dot segments")
    if endpoint := _endpoint_in(url.path):
        raise ValueError(f"must end before {endpoint[0]}, as an SDK's base URL does: calls bring that themselves")
    return raw
