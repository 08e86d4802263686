"""
Which headers go up, which come down, and where a request goes: pure functions over what WSGI gives.

Names and values are `str` holding latin-1, as PEP 3333 says, in order and with repetitions both ways: WSGI's own
form of request headers, upper-cased and joined by commas, is not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from llmproxy.errors import BadRequest, OrganizationRefused

Headers = list[tuple[str, str]]

# Callers and upstreams choose the names of headers: what is remembered of one is remembered of short ones alone.
MAX_REMEMBERED_CHARS = 64

# Neither spaces nor controls, which could end the request line, nor a fragment, which has no place in one.
is_token = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+").fullmatch
_is_value = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_is_api_target = re.compile(r"/v1/[!\"$-~\x80-\xff]*").fullmatch
_is_unusual = re.compile(r"[%;\\]|//").search
# Below /v1/: who belongs to the organization, and who may do what in its projects.
_ADMINISTRATION = frozenset({"organization", "projects"})
# What stands before an upstream may decode, too.
_MOST_DECODINGS = 3
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
)
# `openai-organization` and `-project` would bill somebody else's account; `expect` was answered here.
REMOVED_FROM_REQUEST = HOP_BY_HOP | {
    "api-key",  # and x-api-key: where the token may stand
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "openai-organization",
    "openai-project",
    "path-info",  # with underscores: where gunicorn and others would look for the path
    "script-name",
    "x-api-key",
    # By which gateways and frameworks take a request for another one than its first line says.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
}
# How a body is read; what is called so but for an underscore, not every server would read it by.
_OF_THE_BODY = frozenset({"content-encoding", "content-type"})
_SET_HERE = frozenset({"authorization", "host"})
_LOOKED_AT = _SET_HERE | {"accept-encoding", "connection"}
_AS_SENT = ""
REMOVED_REQUEST_PREFIXES = ("x-forwarded-", "cf-", "proxy-", "x-proxy-")
# `trailer` announces what is passed on.
REMOVED_FROM_RESPONSE = (HOP_BY_HOP - {"trailer"}) | {
    "set-cookie",
    "alt-svc",
    "strict-transport-security",
    "x-proxy-request-id",
}
REMOVED_RESPONSE_PREFIX = "proxy-"
_NEVER_BARE = frozenset(
    {"authorization", "content-length", "content-encoding", "content-range", "content-type", "host"}
)


class Origin(NamedTuple):
    """Where an upstream is: scheme, host and port to connect to, the Host header, the path in place of ``/v1``."""

    scheme: str
    host: str
    port: int
    host_header: str
    base_path: str

    @property
    def place(self) -> str:
        """Scheme, host and port, the latter where it is not the scheme's own."""
        return f"{self.scheme}://{self.host_header}"


@lru_cache(maxsize=1024)
def origin_of(base_url: str) -> Origin:
    """The origin of a checked base URL, which means ``/v1`` where it names no path."""
    url = urlsplit(base_url)
    base_path = url.path.rstrip("/") or "/v1"
    port = url.port or (443 if url.scheme == "https" else 80)
    return Origin(url.scheme, url.hostname or "", port, url.netloc, base_path)


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
    if target.startswith("//"):
        raise BadRequest("The path begins with two slashes: send /v1/… with one.")
    if not _is_api_target(target):
        raise BadRequest
    path = target.partition("?")[0]
    # Few paths hold a dot or an escape at all; only those are looked at closely.
    if ("." in path or "%" in path) and _has_dot_segment(path):
        raise BadRequest("The path must not hold dot segments.")
    return target


def permitted_target(raw_target: str, host: str | None, *, allows_organization: bool) -> str:
    """As `checked_target` has it. Raises OrganizationRefused, too, where the administration of one is not allowed."""
    target = checked_target(raw_target, host)
    if is_organization(target) and not allows_organization:
        raise OrganizationRefused
    return target


def is_organization(target: str) -> bool:
    """Whether a checked target is of the organization's administration, in whatever an upstream might take for it."""
    path = target.partition("?")[0]
    if not _is_unusual(path):
        return path[4:].partition("/")[0].lower() in _ADMINISTRATION
    decoded = path
    for _ in range(_MOST_DECODINGS):
        decoded = unquote(decoded)
    segments: list[str] = []
    for segment in decoded.lower().replace("\\", "/").split("/"):
        name = segment.partition(";")[0].strip()
        if name == "..":
            del segments[-1:]
        elif name not in ("", "."):
            segments.append(name)
    # What leads out of /v1/ and back is taken for what it names, wherever that stands.
    return not _ADMINISTRATION.isdisjoint(segments[:2])


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


def bearer_in_key_header(environ: Mapping[str, Any]) -> str | None:
    """The Authorization that `api-key` or `x-api-key` stands for, of callers that can send no other; None without."""
    secret = environ.get("HTTP_API_KEY") or environ.get("HTTP_X_API_KEY")
    return f"Bearer {secret}" if secret else None


def request_headers(received: Headers, *, host: str, api_key: str) -> Headers:
    """
    The client's headers as they go up, in order and with repetitions, with the upstream's Host and the project's key.

    Framing headers are left out: they belong to whoever sends the body.

    Args:
        received: As sent, names in any case.

    Raises:
        BadRequest: a header that could be read as two, or as something else.
    """
    ours = {"host": host, "authorization": f"Bearer {api_key}"}
    up: Headers = []
    names_encodings = False
    listed: set[str] = set()
    for pair in received:
        name = pair[0]
        known_as = _goes_up(name) if len(name) <= MAX_REMEMBERED_CHARS else _goes_up.__wrapped__(name)
        if known_as is _AS_SENT:
            up.append(pair)
        elif known_as in ours:
            up.append((name, ours.pop(known_as)))
        elif known_as == "accept-encoding":
            up.append(pair)
            names_encodings = True
        elif known_as == "connection":
            listed.update(_listed(pair[1]))
    # RFC 9110 section 5.5: dangerous, whatever the server made of them; one may be left of a folded line.
    values = "".join([value for _, value in up])
    if "\n" in values or "\r" in values or "\0" in values:
        raise BadRequest("A header must stand on one line, and hold no NUL.")
    if listed:
        up = [pair for pair in up if (name := _plain(pair[0])) in _SET_HERE or name not in listed]
        names_encodings &= "accept-encoding" not in listed
    # What the client did not ask for it may not be able to read.
    if not names_encodings:
        up.append(("Accept-Encoding", "identity"))
    up.extend([(name.title(), value) for name, value in ours.items()])
    return up


def with_header(headers: Headers, name: str, value: str) -> Headers:
    """These headers with exactly one of this name."""
    return [pair for pair in headers if pair[0].lower() != name.lower()] + [(name, value)]


def _plain(name: str) -> str:
    # Servers behind may read an underscore as a dash, as CGI and WSGI do: such a name must not be another's disguise.
    return name.lower().replace("_", "-")


def lists_close(connection: str) -> bool:
    """Whether a Connection header, alone or among others, asks for the connection's end (RFC 9112 section 9.6)."""
    return "close" in [part.strip(" \t") for part in connection.lower().split(",")]


def _listed(connection: str) -> frozenset[str]:
    """The headers that a Connection header names, as hop-by-hop as itself."""
    if connection.lower() in ("keep-alive", "close"):
        return frozenset()
    return frozenset(_plain(part.strip()) for part in connection.split(","))


@lru_cache(maxsize=1024)
def _goes_up(name: str) -> str | None:
    """_AS_SENT for a header that goes up as it is, None for one that does not, the name of one that is looked at."""
    if not is_token(name):
        raise BadRequest("A header's name must be a token.")
    plain = _plain(name)
    if plain in _LOOKED_AT and "_" not in name:
        return plain
    if plain in REMOVED_FROM_REQUEST or plain in _SET_HERE or plain.startswith(REMOVED_REQUEST_PREFIXES):
        return None
    if plain in _OF_THE_BODY and "_" in name:
        return None
    return _AS_SENT


def response_headers(upstream: Iterable[tuple[str, str]], *, request_id: str) -> Headers:
    """The upstream's headers as they come down, in order and with repetitions, and our request id."""
    kept: Headers = []
    listed: frozenset[str] = frozenset()
    for pair in upstream:
        if _comes_down(pair[0]):
            kept.append(pair)
        elif pair[0].lower() == "connection":  # which never comes down itself
            listed |= _listed(pair[1])
    if listed:
        kept = [pair for pair in kept if _plain(pair[0]) not in listed]
    kept.append(("x-proxy-request-id", request_id))
    return kept


def bare_fields(upstream: Headers) -> Headers:
    """
    The fields of an interim response or a trailer section as they come down. No server checks these after us.

    What frames a message, routes it or says who may read it has no place there (RFC 9110 section 6.5.1).
    """
    return [
        (name, value)
        for name, value in upstream
        if _comes_down(name) and name.lower() not in _NEVER_BARE and is_token(name) and _is_value(value)
    ]


def field_lines(headers: Headers) -> bytes:
    """Headers as they stand on the wire, one line each."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


# A name of an upstream's has 1 KB at most: the transport takes no longer one.
@lru_cache(maxsize=512)
def _comes_down(name: str) -> bool:
    name = name.lower()
    return name not in REMOVED_FROM_RESPONSE and not name.startswith(REMOVED_RESPONSE_PREFIX)
