"""
What a request asked for, as far as a price depends on it and a response may not tell it: the model, and how much of
what is not counted in tokens.

Read out of a body that is in memory anyway, at the call's end, and only where the response named no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from llmproxy.observe.facts import read_model
from llmproxy.observe.json_scan import parsed
from llmproxy.observe.units import container, whole, word

_MAX_VALUE_BYTES = 1024
_MAX_PARTS = 64
# RFC 2046 section 5.1.1. A regular expression is made of it, which for 60 KB takes 70 ms.
_MAX_BOUNDARY_BYTES = 70
_makes_images = re.compile(r"/v1/images/(?:generations|edits|variations)").fullmatch
_makes_videos = re.compile(r"/v1/videos(?:/.*)?").fullmatch


def read_asked(endpoint: str, body: bytes) -> tuple[str | None, dict[str, Any]]:
    """
    The model and the units that a request asked for, in the record's names: `images` with `size` and `quality`,
    `characters` to be spoken, `seconds` of video with its `size`, a container among `tool_calls`.

    Args:
        endpoint: The plain path that was asked.
        body: All of it: JSON, or a form of parts.
    """
    asked = _members(body)
    return read_model(asked.get("model")), {name: told for name, told in _units(endpoint, asked) if told is not None}


def read_asked_tier(body: bytes) -> str | None:
    """The `service_tier` that a request asked for, by its whole body."""
    return word(_members(body).get("service_tier"))


def _units(endpoint: str, asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is billed at this endpoint, and nothing else that a caller may write."""
    if _makes_images(endpoint):
        yield "images", 1 if (pieces := whole(asked.get("n"))) is None else pieces
        yield "size", word(asked.get("size"))
        yield "quality", word(asked.get("quality"))
    elif _makes_videos(endpoint):
        yield "seconds", whole(asked.get("seconds"))
        yield "size", word(asked.get("size"))
    elif endpoint == "/v1/audio/speech" and isinstance(text := asked.get("input"), str):
        yield "characters", len(text)
    elif endpoint == "/v1/containers":
        yield "tool_calls", {container(asked.get("memory_limit")): 1}


def _members(body: bytes) -> dict[str, Any]:
    if body.startswith(b"--"):
        return dict(_fields(body))
    try:
        document = parsed(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _fields(body: bytes) -> Iterator[tuple[str, str]]:
    """The short fields of a form of parts, whose boundary it begins with; those before a fault where it has one."""
    boundary = body.partition(b"\n")[0].strip()[2:]
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        return
    decoder = MultipartDecoder(boundary, max_parts=_MAX_PARTS)
    decoder.receive_data(body)
    decoder.receive_data(None)
    name, value = "", b""
    with suppress(ValueError, RequestEntityTooLarge):
        while not isinstance(event := decoder.next_event(), Epilogue):
            if isinstance(event, Field | File):
                name, value = event.name if isinstance(event, Field) else "", b""
            elif isinstance(event, Data) and name:
                value = (value + event.data)[: _MAX_VALUE_BYTES + 1]
                if not event.more_data and len(value) <= _MAX_VALUE_BYTES:
                    yield name, value.decode("utf-8", "replace")
