"""The server that is called, and with which token."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmark.refused import Refused, read_file


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


def read_token(token: str | None, token_file: str | None) -> str | None:
    """The token that was given, by itself or in a file."""
    if token_file is None:
        return token
    if token is not None:
        raise Refused("--token and --token-file contradict each other: give one of them")
    return read_file(token_file, "--token-file").decode("utf-8", "replace").strip()
