"""The request that is sent again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from benchmark.refused import Refused, read_file
from benchmark.target import Target

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
PAYLOADS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 16},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 16},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "Hello"},
    "/v1/moderations": {"input": "Hello"},
}


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


def check_endpoint(endpoint: str, base_url: str) -> None:
    """Raises Refused for what is no path, or would come out as `/v1/v1/…`."""
    if not endpoint.startswith("/") or endpoint.startswith("//") or any(c <= " " for c in endpoint):
        raise Refused(f"--endpoint is a path, such as /v1/chat/completions, not {endpoint!r}")
    if base_url.rstrip("/").endswith("/v1") and endpoint.startswith("/v1/"):
        raise Refused(f"{base_url} ends in /v1 and {endpoint} begins with it: leave it out of the URL")


def body_of(payload: bytes | None, endpoint: str, *, stream: bool) -> bytes:
    """
    The body to send: `payload` as it stands, or made a stream that tells its usage.

    Raises Refused for what is no JSON object.
    """
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
    wanted = fields | (_streaming(fields, endpoint) if stream else {})
    return payload if wanted == fields else orjson.dumps(wanted)


def _streaming(fields: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """The fields that make it a stream, and one that tells its usage, where a payload does not say otherwise."""
    if fields.get("stream", True) is not True:
        raise Refused('--stream, but the payload says otherwise in its "stream"')
    options = fields.get("stream_options") or {}
    # Chats and completions tell it on demand; the others always do.
    on_demand = endpoint.partition("?")[0].rstrip("/").endswith("/completions") and isinstance(options, dict)
    return {"stream": True} | ({"stream_options": {"include_usage": True} | options} if on_demand else {})


def read_payload(payload: str | None) -> bytes | None:
    """What was given as --payload: its text, or the contents of the file behind an @."""
    if payload is None or not payload.startswith("@"):
        return payload.encode("utf-8", "surrogateescape") if payload is not None else None
    return read_file(payload[1:], "--payload")


def read_header(text: str) -> tuple[str, str]:
    """Name and value of a --header. Raises Refused for what no header can be."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name or not name.isascii() or not (value.isascii() and value.isprintable()):
        raise Refused("--header is of the form 'name: value'")
    return name, value
