"""
What a parsed body or event says about a call: usage, model, time of creation, error. Takes nothing on trust.

A body may hold anything, prompts and keys included, so only what has the expected shape is taken: counts are whole
and not negative, names are short and printable, error codes consist of words. Nothing is guessed: a member that the
upstream left out stays out. Nothing is computed, but that tokens of a cache are part of the prompt's everywhere.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from llmproxy.observe import stored, units

UsageSource = Literal["reported", "partial", "stored", "absent"]

# JSON numbers beyond this are not exact in every reader of the log (RFC 8259 section 6).
_MAX_COUNT = 2**53
_MAX_MODEL_CHARS = 200
_MAX_DETAILS = 16
_MAX_MODELS = 16

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
# Of the prompt's tokens, told beside them: DeepSeek's and Moonshot's names.
_FLAT_CACHED = ("prompt_cache_hit_tokens", "cached_tokens")
# Anthropic's, whose `input_tokens` are without them.
_CACHE_BESIDE_INPUT = {
    "cached_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}
_USUAL_DETAILS = frozenset({
    "cached_tokens", "text_tokens", "audio_tokens", "image_tokens", "reasoning_tokens", "cache_write_tokens",
    "accepted_prediction_tokens", "rejected_prediction_tokens",
})  # fmt: skip
_detail_name = re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch

# An error code is made of words: snake_case, kebab-case, dotted, CamelCase, with a short number at a word's end.
# Keys, tokens and UUIDs mix letters and digits, have longer words, or begin with a prefix known for secrets.
_WORD = r"(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,20}|(?:[A-Z][a-z]{2,15})+)(?:[0-9]{1,4})?|[0-9]{1,4}"
_is_words = re.compile(rf"(?:{_WORD})(?:[_.-](?:{_WORD})){{0,9}}").fullmatch
_is_secret = re.compile(r"(?i)(?:sk|pk|rk|sess|ghp|xox[a-z]|ek|bearer|akia[0-9a-z]*)(?:[_.-]|$)").match
_MAX_CODE_CHARS = 64
_MAX_CODE_DIGITS = 4

# What each model used that a run of an eval called, in a list.
_PER_MODEL = "per_model_usage"

# Groq's place for a stream's usage, and for what went wrong in it.
_GROQ = "x_groq"

# Members of a document that are read.
NAMES = (
    "usage", "model", "created", "created_at", "error", "type", "code", "duration", "last_error", _GROQ, _PER_MODEL,
    *units.NAMES, *stored.NAMES,
)  # fmt: skip
# The member around the response object in the events of a Responses stream.
ENVELOPE = "response"
# Anthropic's events: the first has a message around the model and what was read, with a first token or so that was
# written; a later one has what was written in all, and maybe what was read once more.
_MESSAGE_START, _MESSAGE_DELTA = "message_start", "message_delta"

_bills_by_duration = re.compile(r"/v1/audio/(?:transcriptions|translations)").fullmatch


class Facts:
    """
    What one call's response has told so far. `take` each document of it in order: the last usage wins.

    Args:
        endpoint: The path, as requested.
        may_make: See `stored.Reader`.

    Attributes:
        is_partial: A count of the usage stands there, and cannot be read.
        owner: Whose the usage is.
        has_failed: An error was told.
        error: Its code and type, scrubbed; None where neither can be shown.
        service_tier: The tier that served the call, as the upstream calls it.
        units: What was told of a price besides; see `units.read_units`.
    """

    __slots__ = (
        "_reader", "created", "error", "has_failed", "is_partial", "model", "owner",
        "service_tier", "units", "usage",
    )  # fmt: skip

    def __init__(self, endpoint: str = "", *, may_make: bool = True) -> None:
        self.usage: dict[str, Any] | None = None
        self.is_partial = False
        self.owner = stored.THIS_CALL
        self.model: str | None = None
        self.created: int | None = None
        self.has_failed = False
        self.error: dict[str, str | None] | None = None
        self.service_tier: str | None = None
        self.units: dict[str, Any] = {}
        self._reader = stored.Reader(endpoint, may_make=may_make)

    def take(self, document: object) -> None:
        """Reads one body or event."""
        if not isinstance(document, dict):
            return
        kind, envelope = document.get("type"), document.get(ENVELOPE)
        if isinstance(envelope, dict) and isinstance(kind, str) and kind.startswith("response."):
            document = envelope
        elif kind == _MESSAGE_START:
            document = _member(document, "message")
        self._take_usage(document, kind)
        self.model = read_model(document.get("model")) or self.model
        if (tier := document.get("service_tier")) is not None:
            self.service_tier = units.word(tier) or self.service_tier
        if told := units.read_units(document):
            self.units |= told
        created = _created(document.get("created", document.get("created_at")))
        self.created = self.created if created is None else created
        if has_failed(document) and not ("object" in document and self._reader.is_stored(document)):
            self.has_failed, self.error = True, read_error(document) or self.error

    def _take_usage(self, document: dict[str, Any], kind: object) -> None:
        told = document.get("usage")
        if not isinstance(told, dict):
            told = self._usage_elsewhere(document)
        usage = read_usage(told) or read_usage_by_model(document.get(_PER_MODEL))
        if usage and (owner := self._reader.owner(document)):
            if kind == _MESSAGE_START:
                usage.pop("completion_tokens", None)
            elif kind == _MESSAGE_DELTA and self.usage is not None:
                usage = self.usage | usage
            self.usage, self.owner, self.is_partial = usage, owner, is_partial(told, usage)

    def _usage_elsewhere(self, document: dict[str, Any]) -> object:
        """A usage where other upstreams have it."""
        for place in (*_choices(document), _member(document, _GROQ)):  # a choice is Moonshot's place
            if isinstance(told := place.get("usage"), dict):
                return told
        return {"seconds": document.get("duration")} if _bills_by_duration(self.path) else None

    @property
    def path(self) -> str:
        """The endpoint's plain path."""
        return self._reader.path

    @property
    def usage_source(self) -> UsageSource:
        """What can be said of the usage; see `record.CallRecord`."""
        if self.usage is None:
            return "absent"
        if self.owner.is_stored:
            return "stored"
        return "partial" if self.is_partial else "reported"

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
        count = usage.get(name)
        if not (type(count) is int and 0 <= count <= _MAX_COUNT):  # seldom: chat's names are the design's
            count = _first_count(usage, spellings)
        if count is not None:
            told[name] = count
    if "seconds" in usage and _is_seconds(usage["seconds"]):
        told["seconds"] = usage["seconds"]
    if not told:
        return None
    for name, spellings in _DETAILS.items():
        for spelling in spellings:
            if details := _details(usage.get(spelling)):
                told[name] = details
                break
    if (cached := _first_count(usage, _FLAT_CACHED)) is not None:
        told["prompt_tokens_details"] = {"cached_tokens": cached} | told.get("prompt_tokens_details", {})
    if "input_tokens" in usage and "prompt_tokens" in told and "prompt_tokens" not in usage:
        _add_cache(told, usage)
    return told


def read_usage_by_model(usages: object) -> dict[str, Any] | None:
    """
    A list of usage objects that each name a model, or None when it holds none.

    Returns `by_model` with what `read_usage` makes of each, and the sums of its counts under their names.
    """
    if not isinstance(usages, list):
        return None
    by_model: dict[str, dict[str, Any]] = {}
    for usage in usages[:_MAX_MODELS]:
        if (told := read_usage(usage)) and (model := read_model(usage.get("model_name"))):
            by_model[model] = told
    if not by_model:
        return None
    sums = {name: sum(told.get(name, 0) for told in by_model.values()) for name in _COUNTS}
    return sums | {"by_model": by_model}


def _add_cache(told: dict[str, Any], usage: dict[str, Any]) -> None:
    """Make tokens that stand beside `input_tokens` a part of the prompt's."""
    beside = {
        name: _count(usage.get(spelling)) for name, spelling in _CACHE_BESIDE_INPUT.items() if spelling in usage
    }
    if counts := {name: count for name, count in beside.items() if count}:
        told["prompt_tokens"] += sum(counts.values())
        told["prompt_tokens_details"] = counts | told.get("prompt_tokens_details", {})


def is_partial(usage: Any, told: dict[str, Any]) -> bool:
    """
    Whether a usage object has a count of prompt or completion that is none of those that were read, or leaves out
    what was read by who has written: nobody writes of nothing.
    """
    if "prompt_tokens" in told and "completion_tokens" in told:  # nearly always
        return False
    if told.keys() & {"prompt_tokens", "completion_tokens", "total_tokens"} == {"completion_tokens"}:
        return bool(told["completion_tokens"] > 0)
    return any(
        name not in told and any(usage.get(spelling) is not None for spelling in _COUNTS[name])
        for name in ("prompt_tokens", "completion_tokens")
    )


def has_failed(document: dict[str, Any]) -> bool:
    """Whether a document says that the call failed: by an `error`, as such an event, by its status or its end."""
    error = document.get("error")
    if (error and _is_error(error)) or document.get("type") == "error" or document.get("status") == "failed":
        return True
    if _GROQ in document and _is_error(_member(document, _GROQ).get("error")):
        return True
    return any(choice.get("finish_reason") == "error" for choice in _choices(document))


def _is_error(value: object) -> bool:
    """Whether a member `error` tells of one. Where there is none, some objects have all its members, each null."""
    return any(told is not None for told in value.values()) if isinstance(value, dict) else bool(value)


def read_error(document: dict[str, Any]) -> dict[str, str | None] | None:
    """
    Code and type of the error a document reports, scrubbed; None when it reports none or nothing presentable.

    All shapes of the API: a member `error`, a run's `last_error`, what a Realtime response has in `status_details`,
    and the flat event of a Responses stream with "type": "error".
    """
    if document.get("type") == "error" and "error" not in document:
        error: Any = document
    else:
        details = document.get("status_details")
        error = document.get("error") or document.get("last_error")
        error = error or (details.get("error") if isinstance(details, dict) else None)
    if not isinstance(error, dict):
        return None
    code, kind = _code(error.get("code")), _code(error.get("type"))
    return {"code": code, "type": kind} if code or kind else None


def _choices(document: dict[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _member(document: dict[str, Any], name: str) -> dict[str, Any]:
    member = document.get(name)
    return member if isinstance(member, dict) else {}


def _first_count(usage: dict[str, Any], spellings: tuple[str, ...]) -> int | None:
    for spelling in spellings:
        count = usage.get(spelling)
        if type(count) is int and 0 <= count <= _MAX_COUNT:  # nearly always
            return count
        if count is not None and (count := _count(count)) is not None:
            return count
    return None


def _count(value: object) -> int | None:
    """A number of JSON's as a count: the same whole number, however it is written; a fraction rounded up."""
    if type(value) is float and math.isfinite(value) and value >= 0:
        value = math.ceil(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= _MAX_COUNT


def _details(value: object, *, depth: int = 2) -> dict[str, Any] | None:
    """The counts in a breakdown, and in those within it, to this depth."""
    if not isinstance(value, dict):
        return None
    counts: dict[str, Any] = {}
    for name, told in value.items():
        if type(told) is int and 0 <= told <= _MAX_COUNT and name in _USUAL_DETAILS:  # nearly always
            counts[name] = told
            continue
        if not _detail_name(name):
            continue
        if isinstance(told, dict):
            count: Any = (_details(told, depth=depth - 1) or None) if depth > 1 else None
        else:
            # Fractions of anything but tokens, such as a price, are no counts.
            count = _count(told) if type(told) is int or name.endswith("_tokens") else None
        if count is not None:
            counts[name] = count
    return counts if len(counts) <= _MAX_DETAILS else dict(list(counts.items())[:_MAX_DETAILS])


def read_model(value: object) -> str | None:
    """A model's name; None for what is none."""
    if isinstance(value, str) and 0 < len(value) <= _MAX_MODEL_CHARS and value.isprintable():
        return value
    return None


def _created(value: object) -> int | None:
    # Documented as a number: some surfaces send 1741476542.0.
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _code(value: object) -> str | None:
    if type(value) is int and 0 <= value <= 9999:
        return str(value)
    if not isinstance(value, str) or len(value) > _MAX_CODE_CHARS:
        return None
    if _is_secret(value) or not _is_words(value) or sum(map(str.isdigit, value)) > _MAX_CODE_DIGITS:
        return None
    return value
