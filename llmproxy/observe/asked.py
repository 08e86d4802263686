"""
What a request asked for, as far as a price depends on it and a response may not tell it: the model, and how much of
what is not counted in tokens.

Read out of a body that is in memory anyway, at the call's end, and only where the response named no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from llmproxy.observe.facts import read_model
from llmproxy.observe.units import container, whole, word

_MAX_VALUE_BYTES = 1024
_MAX_PARTS = 64
# RFC 2046 section 5.1.1. A regular expression is made of it, which for 60 KB takes 70 ms.
_MAX_BOUNDARY_BYTES = 70
# What a request may say of pieces, sizes and lengths, and how it is read.
_UNITS: dict[str, Callable[[object], Any]] = {"size": word, "quality": word, "seconds": whole}
_MAKES_IMAGES = re.compile(r"/v1/images/(?:generations|edits|variations)/?").fullmatch


def read_asked(endpoint: str, body: bytes) -> tuple[str | None, dict[str, Any]]:
    """
    The model and the units that a request asked for, in the record's names: `images` with `size` and `quality`,
    `characters` to be spoken, `seconds` of video, a container among `tool_calls`.

    Args:
        endpoint: The path that was asked.
        body: All of it: JSON, or a form of parts.
    """
    asked = _members(body)
    units: dict[str, Any] = {
        name: told for name, read in _UNITS.items() if (told := read(asked.get(name))) is not None
    }
    if _MAKES_IMAGES(endpoint):
        units["images"] = 1 if (pieces := whole(asked.get("n"))) is None else pieces
    elif endpoint == "/v1/audio/speech" and isinstance(text := asked.get("input"), str):
        units["characters"] = len(text)
    elif endpoint == "/v1/containers":
        units["tool_calls"] = {container(asked.get("memory_limit")): 1}
    return read_model(asked.get("model")), units


def _members(body: bytes) -> dict[str, Any]:
    if body.startswith(b"--"):
        return dict(_fields(body))
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


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
