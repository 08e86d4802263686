"""The server that is called, and with which tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmark.refused import Refused, read_file


@dataclass(frozen=True)
class Target:
    """A server, and the tokens it is called with, in turn; without any no Authorization is sent."""

    base_url: str
    bearers: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_base_url(self.base_url)
        if not all(bearer.isascii() and bearer.isprintable() and bearer for bearer in self.bearers):
            raise Refused("the token has characters that no header can carry, or is empty")

    def without_bearers(self, text: str) -> str:
        """`text`, which may be a server's, fit to be printed."""
        # The longest first: one may begin another.
        for bearer in sorted(self.bearers, key=len, reverse=True):
            text = text.replace(bearer, "[token]")
        return text


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


def read_tokens(tokens: tuple[str, ...], token_file: str | None) -> tuple[str, ...]:
    """The tokens that were given, by themselves or in a file, there one on each line."""
    if token_file is None:
        return tokens
    if tokens:
        raise Refused("--token and --token-file contradict each other: give one of them")
    text = read_file(token_file, "--token-file").decode("utf-8", "replace")
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise Refused(f"--token-file: {token_file} holds no token")
    return found
