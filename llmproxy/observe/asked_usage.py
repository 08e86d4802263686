"""
Usage of chat streams whose caller did not ask for it: asked for on the way up, taken out on the way down.

`ask_for_usage` splices `stream_options.include_usage` into a request's body; `UsageChunkFilter` takes the one chunk
that this adds out of the stream. Every other byte stays, in both directions. What does stay visible to the caller:
the other chunks carry `"usage": null` then.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from llmproxy.observe.json_scan import JsonScanner, members, parsed, whole_number
from llmproxy.observe.sse import Block, EventSplitter, parse_event
from llmproxy.turns import in_slices

# The chunk with the usage has under 1 KiB. What is larger is something else, and goes through as it comes.
MAX_EVENT_BYTES = 64 * 1024

# Up to this size a parser is done within a millisecond. A larger body is scanned, in slices: a parser would stop
# everybody for as long as that takes, and objects of little would take fifty times their size in memory.
PARSED_BYTES = 64 * 1024
# Of a larger body more brackets than any asks for are not looked at: each may cost some Python.
MAX_BRACKETS = 100_000

_STREAM, _OPTIONS = "stream", "stream_options"
_ASK = b'"include_usage":true'
_has_usage = re.compile(rb'"usage"(?!\s*+:\s*+null)').search

# What a chunk says besides its choices.
_ENVELOPE = frozenset(
    {"id", "object", "created", "model", "service_tier", "system_fingerprint", "choices", "usage", "error"}
)
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# The beginning of a chunk that has a choice, told before the chunk is complete: only plain members come before it.
_has_a_choice = re.compile(
    rb"[\r\n]*+data:\s*+\{(?:\s*+"
    + _STRING
    + rb"\s*+:\s*+(?:"
    + _STRING
    + rb"|[-+.\w]++)\s*+,)*+\s*+\"choices\"\s*+:\s*+\[\s*+[^\]\s]",
    re.DOTALL,
).match
# A line of data that is no object, such as [DONE].
_is_no_object = re.compile(rb"[\r\n]*+data: ?[^\s{]").match


def ask_for_usage(body: bytes) -> bytes | None:
    """
    The body of a chat request with `stream_options.include_usage` set to true; None when there is nothing to change.

    Nothing to change: the body is no plain JSON object, does not stream, asks already, holds options of another type
    than the API knows (the upstream shall say so itself), or consists of more pieces than anybody would ask. An
    explicit false is asked for all the same.
    """
    request = _parsed(body) if len(body) <= PARSED_BYTES else _scanned(body)
    if not isinstance(request, dict) or request.get(_STREAM) is not True:
        return None
    if _OPTIONS not in request:
        return _insert(body, body.index(b"{") + 1, b'"stream_options":{' + _ASK + b"},")
    place = _last(body, _OPTIONS) if len(body) <= PARSED_BYTES else _scan(body).place_of(_OPTIONS.encode())
    if place is None:  # of a large body, options of 16 KiB: nobody's
        return None
    begin, end = place
    options = request[_OPTIONS]
    if options is None:
        return body[:begin] + b"{" + _ASK + b"}" + body[end:]
    asked = _ask_in_options(options, body[begin:end])
    return None if asked is None else body[:begin] + asked + body[end:]


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # half an emoji, say, which others do take
    try:
        return json.loads(body.decode(), parse_int=whole_number)
    except (ValueError, RecursionError):
        return None


def _scanned(body: bytes) -> object:
    scanner = _scan(body)
    return scanner.document() if scanner.is_whole else None


def _scan(body: bytes) -> JsonScanner:
    scanner = JsonScanner(frozenset({_STREAM.encode(), _OPTIONS.encode()}))
    if body.count(b"[") + body.count(b"{") <= MAX_BRACKETS:
        scanner.feed(body)
    return scanner


def _ask_in_options(options: Any, raw: bytes) -> bytes | None:
    if not isinstance(options, dict):
        return None
    if "include_usage" not in options:
        return _insert(raw, 1, _ASK + b"," if options else _ASK)
    if options["include_usage"] is not None and options["include_usage"] is not False:
        return None
    begin, end = _last(raw, "include_usage")
    return raw[:begin] + b"true" + raw[end:]


def _insert(text: bytes, position: int, addition: bytes) -> bytes:
    return text[:position] + addition + text[position:]


def _last(document: bytes, name: str) -> tuple[int, int]:
    """Begin and end of a member's value; of doubles the last, which is the one that parsers take."""
    return [(begin, end) for found, begin, end in members(document) if found == name][-1]


class UsageChunkFilter:
    """
    Takes the one usage chunk (no choices, no error, usage not null) out of an uncompressed chat stream.

    The output is the input without that event's bytes, at any split. An event is held back only while it could
    still turn out to be that chunk, and never beyond 64 KiB.
    """

    def __init__(self) -> None:
        self._splitter = EventSplitter(max_event_bytes=MAX_EVENT_BYTES)
        self._is_done = False
        self._may_lack_lf = False  # the chunk ended with a CR: an LF that comes next is its last byte

    def feed(self, chunk: bytes) -> bytes:
        """What of the bytes so far may go down now."""
        if self._is_done:
            return self._after(chunk)
        if self._splitter.is_between_events and chunk.endswith(b"\n\n") and not _has_usage(chunk):
            return chunk
        return b"".join([self._part_of(part) for part in in_slices(chunk)])

    def _part_of(self, chunk: bytes) -> bytes:
        if self._is_done:
            return self._after(chunk)
        passed = b"".join([self._passed(block) for block in self._splitter.feed(chunk)])
        return passed + self._released()

    def finish(self) -> bytes:
        """What was held back of an event that the end of the stream cut off."""
        if self._is_done:
            return b""
        held = self._splitter.held
        return _blank_lines_before(held) if _is_usage_chunk(held) else held

    def _released(self) -> bytes:
        held = self._splitter.held
        if self._is_done:
            return held
        return self._splitter.release() if _has_a_choice(held) or _is_no_object(held) else b""

    def _after(self, chunk: bytes) -> bytes:
        if self._may_lack_lf and chunk:
            self._may_lack_lf = False
            return chunk.removeprefix(b"\n")
        return chunk

    def _passed(self, block: Block) -> bytes:
        if self._is_done or not (block.starts and block.ends and _is_usage_chunk(block.raw)):
            return block.raw
        self._is_done, self._may_lack_lf = True, block.raw.endswith(b"\r")
        return _blank_lines_before(block.raw)


def _blank_lines_before(raw: bytes) -> bytes:
    return raw[: len(raw) - len(raw.lstrip(b"\r\n"))]


def _is_usage_chunk(raw: bytes) -> bool:
    event = parse_event(raw) if len(raw) <= MAX_EVENT_BYTES and _has_usage(raw) else None
    if event is None:
        return False
    try:
        chunk = parsed(event.data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(chunk, dict) or not isinstance(chunk.get("usage"), dict):
        return False
    if chunk.get("error"):  # the caller's, whatever else the chunk tells
        return False
    # Some upstreams leave the empty list out: then it is a usage chunk if it has nothing that others have not.
    return chunk.get("choices") == [] or (chunk.get("choices") is None and chunk.keys() <= _ENVELOPE)
