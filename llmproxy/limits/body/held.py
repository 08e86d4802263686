"""
Reads a JSON body that is held in memory: parsed at once, in C.

A parser hides a name that is there twice. But a document with one has more quotation marks than what was made of it,
so both are counted. That is exact, for a mark inside a text is written with a backslash in either, and the other
escape for it is looked for. Only where the numbers differ, or where the parser refuses what is merely odd, the
scanner reads the body anew, which takes a few times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body.reading import (
    BROUGHT,
    COUNTED,
    FREE,
    ITEMS,
    TELLING,
    Parts,
    Reading,
    brought,
    is_like_brought,
    listed,
    models_in,
)
from llmproxy.limits.body.scanner import scan

# What is longer, or has more brackets and commas, would keep everybody else waiting for its parsing.
MOST_HELD_BYTES = 256 * 1024
MOST_HELD_VALUES = 20_000

# What most items have and nothing else: those are looked at no closer.
_NAMES_IN_ITEMS = frozenset({"arguments", "call_id", "content", "id", "name", "output", "role", "status", "type"})

_ESCAPED_QUOTE = b"\\u0022"


def can_be_held(body: bytes) -> bool:
    """Whether parsing the body takes no longer than anybody may be kept waiting."""
    size = len(body)
    if size <= MOST_HELD_VALUES:  # has no more of anything
        return True
    return size <= MOST_HELD_BYTES and sum(map(body.count, (b"{", b"[", b","))) <= MOST_HELD_VALUES


def read_held(body: bytes, *, counts_parts: bool = True, pause: Callable[[], object] | None = None) -> Reading:
    """
    The reading of a body for which `can_be_held` is true. Raises AmbiguousBody.

    Args:
        counts_parts: False leaves out what is counted in free places, where no budget asks.
        pause: Called now and then where reading takes longer than others may be kept waiting.
    """
    document = _plain(body)
    if document is None:
        return scan((body,), pause)
    members = {name: value for name, value in document.items() if name not in FREE}
    # Prompts and embeddings may be thousands of numbers, none of which need be looked at.
    has_objects = body.count(b"{") > 1
    if has_objects and (values := _taken(document)):
        members["input"] = brought(values)
    parts = _parts(document, has_objects=has_objects) if counts_parts else None
    return Reading(members, models_in(members), len(body), parts, isinstance(document.get("prompt"), dict))


def _plain(body: bytes) -> dict[str, Any] | None:
    """The body's object, if parsing is all it takes to read it."""
    try:
        document = orjson.loads(body)
        quotes = orjson.dumps(document).count(b'"')
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if not isinstance(document, dict) or quotes != body.count(b'"') or _ESCAPED_QUOTE in body:
        return None
    return document


def _taken(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Takes out of items what they bring: it is no part of what is said."""
    values = []
    for name, place in document.items():
        if name not in ITEMS:
            continue
        for item in place if place.__class__ is list else (place,):
            if item.__class__ is not dict:
                continue
            if item.keys() <= _NAMES_IN_ITEMS:
                continue
            if any(map(is_like_brought, item)):
                raise AmbiguousBody("An item of the request has a name that may be read as another.", param=name)
            keys = [key for key, value in item.items() if key in BROUGHT and value.__class__ in (dict, list)]
            values += [(key, item.pop(key)) for key in keys]
    return values


def _parts(document: dict[str, Any], *, has_objects: bool) -> Parts:
    parts = Parts()
    prompt, text = document.get("prompt"), document.get("input")
    if isinstance(prompt, list):
        parts.prompts = max(sum(isinstance(entry, str | list) for entry in prompt), 1)
    if isinstance(text, str):
        parts.characters = len(text)
    if not has_objects:
        return parts
    for name in ITEMS & document.keys():
        for item in listed(document[name]):
            if item.__class__ is dict and "id" in item:
                parts.add_item(has_id=item["id"].__class__ is str, has_type=item.get("type").__class__ is str)
    places: list[tuple[str, Any]] = [(name, document[name]) for name in COUNTED & document.keys()]
    while places:
        parent, place = places.pop()
        if place.__class__ is dict:
            for name, value in place.items():
                if value.__class__ is str:
                    if name in TELLING:
                        parts.add_text(parent, name, value, len(value))
                elif value.__class__ is dict or value.__class__ is list:
                    places.append((name, value))
        elif place.__class__ is list:
            places += [(parent, entry) for entry in place if entry.__class__ is dict or entry.__class__ is list]
    return parts
