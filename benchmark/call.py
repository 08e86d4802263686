"""The request that is sent again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from benchmark.refused import Refused
from benchmark.target import Target

Headers = dict[str, str]

METHODS = ("POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True)
class Call:
    """
    The request that is sent again and again.

    Attributes:
        bodies: Sent in turn; an empty one is none.
    """

    endpoint: str
    bodies: tuple[bytes, ...]
    method: str = "POST"
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 60.0

    def outgoing(self, target: Target) -> Iterator[tuple[bytes, Headers]]:
        """Body and headers of one request after another, without end: bodies and bearers each in turn."""
        heads = [self.headers_with(bearer) for bearer in target.bearers or (None,)]
        return zip(cycle(self.bodies), cycle(heads), strict=False)

    def headers_with(self, bearer: str | None) -> Headers:
        """Every header that is sent; those of the user win."""
        own = {
            "User-Agent": "llm-benchmark",
            "Accept": "text/event-stream" if self.stream else "application/json",
            "Accept-Encoding": "identity",
        }
        if any(self.bodies):
            own["Content-Type"] = "application/json"
        if bearer is not None:
            own["Authorization"] = f"Bearer {bearer}"
        given = {name.lower() for name, _ in self.headers}
        return {name: value for name, value in own.items() if name.lower() not in given} | dict(self.headers)


def check_endpoint(endpoint: str, base_url: str) -> None:
    """Raises Refused for what is no path, or would come out as `/v1/v1/…`."""
    if not endpoint.startswith("/") or endpoint.startswith("//") or any(c <= " " for c in endpoint):
        raise Refused(f"--endpoint is a path, such as /v1/chat/completions, not {endpoint!r}")
    if base_url.rstrip("/").endswith("/v1") and endpoint.startswith("/v1/"):
        raise Refused(f"{base_url} ends in /v1 and {endpoint} begins with it: leave it out of the URL")


def read_header(text: str) -> tuple[str, str]:
    """Name and value of a --header. Raises Refused for what no header can be."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or not name.isascii() or not (value.isascii() and value.isprintable()):
        raise Refused("--header is of the form 'name: value'")
    return name, value
