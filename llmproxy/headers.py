"""
Which headers go up, which come down, and where a request goes: pure functions over what WSGI gives.

Names and values are `str` holding latin-1, as PEP 3333 says. WSGI has joined repeated request fields with
commas (RFC 9110 section 5.3 allows it); repeated response fields stay as they came.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from llmproxy.errors import BadRequest

Headers = list[tuple[str, str]]

# Neither spaces nor controls, which could end the request line, nor a fragment, which has no place in one.
_is_api_target = re.compile(r"/v1/[!\"$-~\x80-\xff]*").fullmatch
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
)
# `openai-organization` and `-project` would bill somebody else's account; `expect` was answered here.
_REMOVED_FROM_REQUEST = HOP_BY_HOP | {
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "openai-organization",
    "openai-project",
    "x-real-ip",
}
_REMOVED_PREFIXES = ("x-forwarded-", "cf-", "proxy-", "x-proxy-")
_REMOVED_FROM_RESPONSE = HOP_BY_HOP | {
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "x-proxy-request-id",
}
_RESPONSE_PREFIX = "proxy-"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream is: scheme, host and port to connect to, the Host header, a path before ``/v1``."""

    scheme: str
    host: str
    port: int
    host_header: str
    prefix: str


@lru_cache(maxsize=1024)
def origin_of(base_url: str) -> Origin:
    """The origin of a checked base URL, given with or without a trailing ``/v1``."""
    url = urlsplit(base_url)
    prefix = url.path.rstrip("/").removesuffix("/v1")
    port = url.port or (443 if url.scheme == "https" else 80)
    return Origin(url.scheme, url.hostname or "", port, url.netloc, prefix)


def checked_target(raw_target: str, host: str | None) -> str:
    """
    The path and query to forward, byte for byte as sent.

    Args:
        raw_target: The request target from the request line.
        host: The Host header.

    Raises:
        BadRequest: the target is for another host, or a dot segment could lead out of ``/v1/``.
    """
    target = raw_target if raw_target.startswith("/") else _from_absolute_form(raw_target, host)
    if not _is_api_target(target):
        raise BadRequest
    path = target.partition("?")[0]
    # Few paths hold a dot or an escape at all; only those are looked at closely.
    if ("." in path or "%" in path) and _has_dot_segment(path):
        raise BadRequest("The path must not hold dot segments.")
    return target


def endpoint_of(raw_target: str) -> str:
    """The path of a request target, for the record: no query, and no authority, which may hold credentials."""
    path = raw_target.partition("?")[0]
    return path if path.startswith("/") else "/" + path.partition("://")[2].partition("/")[2]


def _from_absolute_form(raw_target: str, host: str | None) -> str:
    scheme, _, rest = raw_target.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not host or "@" in host or authority.lower() != host.lower():
        raise BadRequest("The request target names another host.")
    return slash + path


def _has_dot_segment(path: str) -> bool:
    decoded = unquote_to_bytes(path.encode("latin-1")).replace(b"\\", b"/")
    return any(segment in (b".", b"..") for segment in decoded.split(b"/"))


def request_headers(environ: Mapping[str, Any], *, host: str, api_key: str) -> dict[str, str]:
    """
    The client's headers as they go up, with the upstream's Host and the project's key.

    Framing headers are left out: they belong to whoever sends the body.
    """
    headers = {"Host": host}
    for key, value in environ.items():
        name = _forwarded_name(key)
        if name is None:
            continue
        # RFC 9110 section 5.5: dangerous, whatever the server made of them; one may be left of a folded line.
        if "\n" in value or "\r" in value or "\0" in value:
            raise BadRequest("A header must stand on one line, and hold no NUL.")
        headers[name] = value
    if not headers.get("Content-Type", "x"):
        del headers["Content-Type"]
    if connection := environ.get("HTTP_CONNECTION"):
        for listed in connection.split(","):
            headers.pop(listed.strip().title(), None)
        headers["Host"] = host
    # What the client did not ask for it may not be able to read.
    headers.setdefault("Accept-Encoding", "identity")
    headers["Authorization"] = f"Bearer {api_key}"
    return headers


@lru_cache(maxsize=2048)
def _forwarded_name(key: str) -> str | None:
    """The header that a WSGI environ key stands for; None when it is not one, or does not go up."""
    if key == "CONTENT_TYPE":
        return "Content-Type"
    if not key.startswith("HTTP_"):
        return None
    name = key[5:].replace("_", "-").lower()
    if name in _REMOVED_FROM_REQUEST or name.startswith(_REMOVED_PREFIXES):
        return None
    return name.title()


def response_headers(upstream: Iterable[tuple[str, str]], *, request_id: str) -> Headers:
    """
    The upstream's headers as they come down, in order and with repetitions, and our request id.

    Args:
        upstream: Iterated over twice.
    """
    kept = [pair for pair in upstream if _comes_down(pair[0])]
    for name, value in upstream:
        if name.lower() == "connection" and value.lower() not in ("keep-alive", "close"):
            listed = {part.strip().lower() for part in value.split(",")}
            kept = [pair for pair in kept if pair[0].lower() not in listed]
    kept.append(("x-proxy-request-id", request_id))
    return kept


@lru_cache(maxsize=2048)
def _comes_down(name: str) -> bool:
    name = name.lower()
    return name not in _REMOVED_FROM_RESPONSE and not name.startswith(_RESPONSE_PREFIX)
