"""
What LOGGING_URL says.

    https://receiver.example/path?key=…            JSON arrays by POST; `user:password@` becomes Basic authentication
    cloudwatch://<group>/<stream>?region=eu-west-1  CloudWatch log events; slashes in a group's name are written %2F

A CloudWatch address may name another `endpoint`, for a VPC endpoint or a test server.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

_GROUP = re.compile(r"[A-Za-z0-9_./#-]{1,512}")
_STREAM = re.compile(r"[^:*]{1,512}")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d{1,2}")


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """A receiver of JSON arrays. Only `origin` may be shown: path, query and credentials can hold secrets."""

    url: str = field(repr=False)
    origin: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class CloudWatchTarget:
    group: str
    stream: str
    region: str
    endpoint: str | None = None


def parse_logging_url(url: str) -> HttpTarget | CloudWatchTarget:
    """The target that a LOGGING_URL names. ValueError tells what is wrong without repeating the URL."""
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("holds a blank or a control character")
    try:
        parts = urlsplit(url)
        has_bad_port = parts.port == 0
    except ValueError as exc:
        raise ValueError("is no URL: check its host and port") from exc
    if has_bad_port:
        raise ValueError("has port 0")
    if parts.fragment:
        raise ValueError("has a fragment (#…), which would never be sent; write # as %23")
    if parts.scheme in ("http", "https"):
        return _http_target(parts)
    if parts.scheme == "cloudwatch":
        return _cloudwatch_target(parts)
    raise ValueError("must begin with https://, http:// or cloudwatch://")


def _http_target(parts: SplitResult) -> HttpTarget:
    if not parts.hostname:
        raise ValueError("names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = f"{host}:{parts.port}" if parts.port else host
    credentials = None
    if parts.username is not None:
        credentials = (unquote(parts.username), unquote(parts.password or ""))
    url = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
    return HttpTarget(url, f"{parts.scheme}://{netloc}", credentials)


def _cloudwatch_target(parts: SplitResult) -> CloudWatchTarget:
    group, stream = unquote(parts.netloc), unquote(parts.path.removeprefix("/"))
    if not _GROUP.fullmatch(group):
        raise ValueError("must name a log group of 1 to 512 of A-Z a-z 0-9 _ - . and %2F, %23")
    if not _STREAM.fullmatch(stream):
        raise ValueError("must name a log stream of 1 to 512 characters without : and *")
    query = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(set(query) - {"region", "endpoint"}):
        raise ValueError(f"knows region and endpoint, not {', '.join(unknown)}")
    region = query.get("region", [""])[-1]
    if not _REGION.fullmatch(region):
        raise ValueError("needs a region, like ?region=eu-west-1")
    endpoint = query.get("endpoint", [None])[-1]
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise ValueError("must have an endpoint that begins with https:// or http://")
    return CloudWatchTarget(group, stream, region, endpoint)
