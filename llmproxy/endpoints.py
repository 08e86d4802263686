"""The parts of the API that calls are counted by. Pure."""

from __future__ import annotations

ENDPOINTS = {
    "chat", "completions", "responses", "realtime", "embeddings", "images", "audio", "moderations", "files",
    "batches", "models",
}  # fmt: skip
OTHER = "other"


def endpoint_class(endpoint: object) -> str:
    """The part of the API that a path belongs to, such as 'chat' or 'embeddings'; 'other' when it is none we know."""
    parts = endpoint.split("/", 3) if isinstance(endpoint, str) else []
    return parts[2] if len(parts) > 2 and parts[2] in ENDPOINTS else OTHER
