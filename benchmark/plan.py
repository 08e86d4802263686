"""
What a run is going to do: against which server, with which request, how much of it. Whatever cannot be done is
refused here, in one line, before anything is sent.
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
PAYLOADS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 16},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 16},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "Hello"},
    "/v1/moderations": {"input": "Hello"},
}
REQUESTS = 100
CONCURRENCY = 10
# With a rate, users wait for their turns; there must be enough of them to keep it while answers are slow.
CONCURRENCY_AT_A_RATE = 256
SPARE_FILES = 64


class Refused(Exception):
    """The run does not begin. The message says why, in one line."""


@dataclass(frozen=True)
class Target:
    """A server, and the token it is called with; None sends no Authorization."""

    base_url: str
    token: str | None = field(repr=False)

    def __post_init__(self) -> None:
        check_base_url(self.base_url)
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token):
            raise Refused("the token has characters that no header can carry, or is empty")

    def without_token(self, text: str) -> str:
        """`text`, which may be a server's, fit to be printed."""
        return text.replace(self.token, "[token]") if self.token else text


@dataclass(frozen=True)
class Call:
    """The request that is sent again and again."""

    endpoint: str
    body: bytes
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 60.0

    def headers_for(self, target: Target) -> dict[str, str]:
        """Every header that is sent; those of the user win."""
        own = {
            "User-Agent": "llm-benchmark",
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if self.stream else "application/json",
            "Accept-Encoding": "identity",
        }
        if target.token is not None:
            own["Authorization"] = f"Bearer {target.token}"
        given = {name.lower() for name, _ in self.headers}
        return {name: value for name, value in own.items() if name.lower() not in given} | dict(self.headers)


@dataclass(frozen=True)
class Plan:
    """How much load: so many requests or so many seconds, by so many users, at their pace or at a rate."""

    requests: int | None
    duration_s: float | None
    concurrency: int
    rate: float | None = None
    warmup: int = 0


def make_plan(
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    warmup: int = 0,
) -> Plan:
    """Fills in the defaults. Raises Refused for what contradicts itself."""
    if requests is not None and duration_s is not None:
        raise Refused("--requests and --duration contradict each other: give one of them")
    if requests is None and duration_s is None:
        requests = REQUESTS
    for name, value in (
        ("requests", requests),
        ("duration", duration_s),
        ("concurrency", concurrency),
        ("rate", rate),
    ):
        if value is not None:
            check_positive(name, value)
    if warmup < 0:
        raise Refused("--warmup must not be negative")
    if concurrency is not None and requests is not None and concurrency > requests:
        raise Refused(f"--concurrency {concurrency} is above --requests {requests}")
    users = concurrency or (CONCURRENCY if rate is None else CONCURRENCY_AT_A_RATE)
    users = users if requests is None else min(users, requests)
    return Plan(requests, duration_s, users, rate, warmup)


def check_positive(name: str, value: float) -> None:
    """Raises Refused for zero, what is below, and what is no number to count with (nan, inf)."""
    if not (value > 0 and math.isfinite(value)):
        raise Refused(f"--{name} must be greater than 0" if value <= 0 else f"--{name} must be a number, not {value}")


def allow_connections(count: int) -> None:
    """Lets this process have as many, or raises Refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count + SPARE_FILES > hard:
        raise Refused(f"--concurrency {count} is more than this process may have connections (ulimit -Hn: {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_base_url(url: str) -> None:
    """Raises Refused for what is no http or https URL of a server."""
    try:
        place = urlsplit(url)
        has_host = bool(place.hostname) and (place.port is None or place.port > 0)
    except ValueError:
        has_host = False
    if not has_host or place.scheme not in ("http", "https") or not url.isascii() or any(c <= " " for c in url):
        raise Refused(f"not the URL of a server: {url!r} (such as http://localhost:8080)")
    if place.username is not None:
        raise Refused("the URL holds a user or password: use --token")
    if place.query or place.fragment:
        raise Refused(f"the URL of a server has no query and no fragment: {url!r}")


def check_endpoint(endpoint: str, base_url: str) -> None:
    """Raises Refused for what is no path, or would come out as `/v1/v1/…`."""
    if not endpoint.startswith("/") or endpoint.startswith("//") or any(c <= " " for c in endpoint):
        raise Refused(f"--endpoint is a path, such as /v1/chat/completions, not {endpoint!r}")
    if base_url.rstrip("/").endswith("/v1") and endpoint.startswith("/v1/"):
        raise Refused(f"{base_url} ends in /v1 and {endpoint} begins with it: leave it out of the URL")


def body_of(payload: bytes | None, endpoint: str, *, stream: bool) -> bytes:
    """The body to send: `payload` as it stands, or with "stream": true. Raises Refused for what is no JSON object."""
    if payload is None:
        known = PAYLOADS.get(endpoint.partition("?")[0])
        if known is None:
            raise Refused(f"no default payload for {endpoint}: give one with --payload")
        payload = orjson.dumps(known)
    try:
        fields = orjson.loads(payload)
    except ValueError as error:
        raise Refused(f"--payload is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Refused("--payload is JSON, but not an object")
    if not stream or fields.get("stream") is True:
        return payload
    if "stream" in fields:
        raise Refused('--stream, but the payload says otherwise in its "stream"')
    return orjson.dumps(fields | {"stream": True})


def read_token(token: str | None, token_file: str | None) -> str | None:
    """The token that was given, by itself or in a file."""
    if token_file is None:
        return token
    if token is not None:
        raise Refused("--token and --token-file contradict each other: give one of them")
    return _read(token_file, "--token-file").decode("utf-8", "replace").strip()


def read_payload(payload: str | None) -> bytes | None:
    """What was given as --payload: its text, or the contents of the file behind an @."""
    if payload is None or not payload.startswith("@"):
        return payload.encode("utf-8", "surrogateescape") if payload is not None else None
    return _read(payload[1:], "--payload")


def _read(path: str, option_name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{option_name}: cannot read {path}: {error.strerror}") from None
