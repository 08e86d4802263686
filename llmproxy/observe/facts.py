"""
What a parsed body or event says about a call: usage, model, time of creation, error. Takes nothing on trust.

A body may hold anything, prompts and keys included, so only what has the expected shape is taken: counts are whole
and not negative, names are short and printable, error codes consist of words. Nothing is computed and nothing is
guessed: a member that the upstream left out stays out.
"""

from __future__ import annotations

import math
import re
from typing import Any

from llmproxy.observe import units

# JSON numbers beyond this are not exact in every reader of the log (RFC 8259 section 6).
_MAX_COUNT = 2**53
_MAX_MODEL_CHARS = 200
_MAX_DETAILS = 16

# The design's name first, then what the surfaces call it: chat and embeddings; responses, images, batches;
# transcriptions and realtime with their singular.
_COUNTS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
    "total_tokens": ("total_tokens",),
}
_DETAILS = {
    "prompt_tokens_details": ("prompt_tokens_details", "input_tokens_details", "input_token_details"),
    "completion_tokens_details": ("completion_tokens_details", "output_tokens_details", "output_token_details"),
}
_detail_name = re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch

# An error code is made of words: snake_case, kebab-case, dotted, CamelCase, with a short number at a word's end.
# Keys, tokens and UUIDs mix letters and digits, have longer words, or begin with a prefix known for secrets.
_WORD = r"(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,20}|(?:[A-Z][a-z]{2,15})+)(?:[0-9]{1,4})?|[0-9]{1,4}"
_is_words = re.compile(rf"(?:{_WORD})(?:[_.-](?:{_WORD})){{0,9}}").fullmatch
_is_secret = re.compile(r"(?i)(?:sk|pk|rk|sess|ghp|xox[a-z]|ek|bearer|akia[0-9a-z]*)(?:[_.-]|$)").match
_MAX_CODE_CHARS = 64
_MAX_CODE_DIGITS = 4

# Members of a document that are read.
NAMES = ("usage", "model", "created", "created_at", "error", "type", "code", *units.NAMES)
# The member around the response object in the events of a Responses stream.
ENVELOPE = "response"


class Facts:
    """
    What one call's response has told so far. `take` each document of it in order: the last usage wins.

    Attributes:
        service_tier: The tier that served the call, as the upstream calls it.
        units: What was told of a price besides; see `units.read_units`.
    """

    __slots__ = ("created", "error", "model", "service_tier", "units", "usage")

    def __init__(self) -> None:
        self.usage: dict[str, Any] | None = None
        self.model: str | None = None
        self.created: int | None = None
        self.error: dict[str, str | None] | None = None
        self.service_tier: str | None = None
        self.units: dict[str, Any] = {}

    def take(self, document: object) -> None:
        """Reads one body or event."""
        if not isinstance(document, dict):
            return
        kind, envelope = document.get("type"), document.get(ENVELOPE)
        if isinstance(envelope, dict) and isinstance(kind, str) and kind.startswith("response."):
            document = envelope
        self.usage = read_usage(document.get("usage")) or self.usage
        self.model = read_model(document.get("model")) or self.model
        self.service_tier = units.word(document.get("service_tier")) or self.service_tier
        if told := units.read_units(document):
            self.units |= told
        created = _created(document.get("created", document.get("created_at")))
        self.created = self.created if created is None else created
        self.error = read_error(document) or self.error

    def metadata(self) -> dict[str, Any] | None:
        """The record's metadata in the design's names; None when nothing was told."""
        metadata = (self.usage or {}) | self.units
        if self.model is not None:
            metadata["model"] = self.model
        if self.created is not None:
            metadata["created"] = self.created
        return metadata or None


def read_usage(usage: object) -> dict[str, Any] | None:
    """
    A usage object in the design's names, or None when it holds no count.

    Returns prompt_tokens, completion_tokens, total_tokens, `seconds` where the upstream bills by duration, and the
    two breakdowns as dicts of counts, of which some are broken down once more; each only if it was told.
    """
    if not isinstance(usage, dict):
        return None
    told: dict[str, Any] = {}
    for name, spellings in _COUNTS.items():
        for spelling in spellings:
            if _is_count(count := usage.get(spelling)):
                told[name] = count
                break
    if _is_seconds(seconds := usage.get("seconds")):
        told["seconds"] = seconds
    if not told:
        return None
    for name, spellings in _DETAILS.items():
        for spelling in spellings:
            if details := _details(usage.get(spelling)):
                told[name] = details
                break
    return told


def read_error(document: dict[str, Any]) -> dict[str, str | None] | None:
    """
    Code and type of the error a document reports, scrubbed; None when it reports none or nothing presentable.

    Both shapes of the API: a member `error`, and the flat event of a Responses stream with "type": "error".
    """
    error = document if document.get("type") == "error" and "error" not in document else document.get("error")
    if not isinstance(error, dict):
        return None
    code, kind = _code(error.get("code")), _code(error.get("type"))
    return {"code": code, "type": kind} if code or kind else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_seconds(value: object) -> bool:
    return _is_count(value) or (type(value) is float and math.isfinite(value) and 0 <= value <= _MAX_COUNT)


def _details(value: object, *, depth: int = 2) -> dict[str, Any] | None:
    """The counts in a breakdown, and in those within it, to this depth."""
    if not isinstance(value, dict):
        return None
    counts: dict[str, Any] = {}
    for name, told in value.items():
        count = told if _is_count(told) else _details(told, depth=depth - 1) if depth > 1 else None
        if count is not None and count != {} and _detail_name(name):
            counts[name] = count
    return dict(list(counts.items())[:_MAX_DETAILS])


def read_model(value: object) -> str | None:
    """A model's name; None for what is none."""
    if isinstance(value, str) and 0 < len(value) <= _MAX_MODEL_CHARS and value.isprintable():
        return value
    return None


def _created(value: object) -> int | None:
    # Documented as a number: some surfaces send 1741476542.0.
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and _is_count(value) else None


def _code(value: object) -> str | None:
    if type(value) is int and 0 <= value <= 9999:
        return str(value)
    if not isinstance(value, str) or len(value) > _MAX_CODE_CHARS:
        return None
    if _is_secret(value) or not _is_words(value) or sum(map(str.isdigit, value)) > _MAX_CODE_DIGITS:
        return None
    return value
