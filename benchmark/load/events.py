"""What a single server-sent event says. None of it is asked of every event: see `event_stream`."""

from __future__ import annotations

from typing import Any

import orjson


def data_of(event: bytes) -> dict[str, Any]:
    """Its JSON object; empty where it holds none."""
    text = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
    try:
        data = orjson.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def name_of(event: bytes) -> str:
    """What its `event:` line calls it; empty where it has none."""
    names = [line[6:].strip() for line in event.split(b"\n") if line.startswith(b"event:")]
    return names[-1].decode("utf-8", "replace") if names else ""
