"""The parts of the API that calls are counted by, and the one way to read a path. Pure."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote

ENDPOINTS = {
    "chat", "completions", "responses", "realtime", "embeddings", "images", "audio", "moderations", "files",
    "batches", "models",
}  # fmt: skip
OTHER = "other"
_MAX_REMEMBERED_CHARS = 128
CHAT, COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
RESPONSES = "/v1/responses"
# WebSockets whose responses tell what they cost, one by one. A translation has none.
TELLING_SESSIONS = frozenset({"/v1/realtime", RESPONSES})


def plain_path(endpoint: str) -> str:
    """A path as servers read it: escapes undone, one slash for several, none at the end. For classifying alone."""
    if "%" in endpoint:
        endpoint = unquote(endpoint)
    if endpoint.endswith("/") or "//" in endpoint:
        return "/" + "/".join(filter(None, endpoint.split("/")))
    return endpoint


def endpoint_class(endpoint: object) -> str:
    """The part of the API that a path belongs to, such as 'chat' or 'embeddings'; 'other' when it is none we know."""
    if not isinstance(endpoint, str):
        return OTHER
    # Nearly all calls are of a few endpoints; long paths of strangers are not remembered.
    return _class_of(endpoint) if len(endpoint) <= _MAX_REMEMBERED_CHARS else _class_of.__wrapped__(endpoint)


@lru_cache(maxsize=1024)
def _class_of(endpoint: str) -> str:
    parts = plain_path(endpoint).split("/", 3)
    return parts[2] if len(parts) > 2 and parts[2] in ENDPOINTS else OTHER
