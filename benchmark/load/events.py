"""What a single server-sent event says. None of it is asked of every event: see `event_stream`."""

from __future__ import annotations

import json
from typing import Any, Literal

import orjson

Output = Literal["reasoning", "answer"]
# How the types of events end that carry a piece of what the model makes.
_GROWING = ("delta", "partial_image")


def data_of(event: bytes) -> dict[str, Any]:
    """Its JSON object; empty where it holds none."""
    return object_in(b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")))


def object_in(text: bytes) -> dict[str, Any]:
    """The JSON object that a text is, also one with half an emoji in it; empty for any other text."""
    try:
        data = orjson.loads(text)
    except ValueError:
        data = _forgiven(text)
    return data if isinstance(data, dict) else {}


def _forgiven(text: bytes) -> object:
    """As Python's own reader takes it; None for what is no JSON to it either."""
    try:
        return json.loads(text.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return None


def name_of(event: bytes) -> str:
    """What its `event:` line calls it; empty where it has none."""
    names = [line[6:].strip() for line in event.split(b"\n") if line.startswith(b"event:")]
    return names[-1].decode("utf-8", "replace") if names else ""


def output_of(event: bytes) -> Output | None:
    """
    What of the model's output it carries, None where that is nothing yet.

    A chat begins with a chunk that has a role alone, the Responses API with its own state, both long before the first
    token. Of an unknown surface every event counts, but for `[DONE]`.
    """
    data = data_of(event)
    choices, kind = data.get("choices"), data.get("type")
    if isinstance(choices, list):
        grown = {name for choice in choices if isinstance(choice, dict) for name in _grown(choice)}
        return None if not grown else "reasoning" if all(name.startswith("reasoning") for name in grown) else "answer"
    if isinstance(kind, str):
        return None if not kind.endswith(_GROWING) else "reasoning" if "reasoning" in kind else "answer"
    return None if b"[DONE]" in event else "answer"


def _grown(choice: dict[str, Any]) -> list[str]:
    """The fields of a choice to which something was added."""
    delta = choice.get("delta")
    fields = delta if isinstance(delta, dict) else {"text": choice.get("text")}
    return [name for name, value in fields.items() if value and name != "role"]
