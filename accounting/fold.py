"""
Folds records into sums. Pure: no database here.

A record may be of an older version or written by somebody else, so nothing in it is trusted: what has not the
expected type counts as absent, what is too long is cut, and a record without a readable time is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from accounting.views import VIEWS
from llmproxy.endpoints import endpoint_class
from models import BUCKETS_MS, DIMENSIONS, DURATION, MODEL_LENGTH, REFUSAL_LENGTH, SUMS, TTFT

ID_LENGTH = 36
# Far above any real call; sums of ten thousand million of them still fit into 64 bits.
MAX_TOKENS = 10**9
NO_CODE = "none"

_INDEX = {name: index for index, name in enumerate(SUMS)}
_REQUESTS, _REFUSALS, _ERRORS, _CLIENT_CLOSED, _REPORTED, _PROMPT, _CACHED, _COMPLETION, _REASONING = range(9)
_DURATION, _TTFT = _INDEX[DURATION[0]], _INDEX[TTFT[0]]


class Cell(NamedTuple):
    """What a record is counted under in the view of all dimensions; `hour` is since 1970-01-01 UTC."""

    hour: int
    project_id: str
    token_id: str
    model: str
    endpoint: str
    refusal: str


class Row(NamedTuple):
    """A cell of any view; dimensions that the view has not are ''."""

    view: int
    hour: int
    project_id: str
    token_id: str
    model: str
    endpoint: str
    refusal: str


Cells = dict[Cell, list[int]]


def fold(records: Iterable[dict[str, Any]], *, model_name: Callable[[str], str] = str) -> Cells:
    """
    Sums by cell, in the order of SUMS.

    Args:
        model_name: The name to count a model under.
    """
    cells: Cells = {}
    for record in records:
        hour = _hour(record.get("timestamp"))
        if hour is None:
            continue
        metadata = record.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        cell = Cell(
            hour,
            _text(record.get("project_id"), ID_LENGTH),
            _text(record.get("token"), ID_LENGTH),
            model_name(_text(metadata.get("model"), MODEL_LENGTH)),
            endpoint_class(record.get("endpoint")),
            _refusal(record),
        )
        sums = cells.get(cell)
        if sums is None:
            sums = cells[cell] = [0] * len(SUMS)
        _add(sums, record, metadata)
    return cells


def rows(cells: Cells) -> dict[Row, list[int]]:
    """The same sums for every view."""
    found: dict[Row, list[int]] = {}
    for view in VIEWS:
        keeps = [name in view.dimensions for name in DIMENSIONS]
        for (hour, *values), sums in cells.items():
            kept = (value if keep else "" for value, keep in zip(values, keeps, strict=True))
            row = Row(view.id, hour // view.hours * view.hours, *kept)
            so_far = found.get(row)
            found[row] = sums if so_far is None else added(so_far, sums)
    return found


def added(some: list[int], more: list[int]) -> list[int]:
    """Two lists of sums, added up."""
    return [a + b for a, b in zip(some, more, strict=True)]


def _add(sums: list[int], record: dict[str, Any], metadata: dict[str, Any]) -> None:
    outcome = record.get("outcome")
    sums[_REQUESTS] += 1
    if outcome == "refused":
        sums[_REFUSALS] += 1
        # How quickly the proxy says no is not how quickly it forwards. A call that it cut later was forwarded.
        if record.get("upstream_status") is None:
            return
    elif outcome == "client_closed":
        sums[_CLIENT_CLOSED] += 1
    elif outcome != "complete" or _count(record.get("status_code")) >= 400:
        sums[_ERRORS] += 1
    if record.get("usage_source") == "reported":
        sums[_REPORTED] += 1
    _add_tokens(sums, metadata)
    _add_time(sums, _DURATION, record.get("duration_ms"))
    _add_time(sums, _TTFT, record.get("ttft_ms"))


def _add_tokens(sums: list[int], metadata: dict[str, Any]) -> None:
    sums[_PROMPT] += _count(metadata.get("prompt_tokens"))
    sums[_COMPLETION] += _count(metadata.get("completion_tokens"))
    if isinstance(details := metadata.get("prompt_tokens_details"), dict):
        sums[_CACHED] += _count(details.get("cached_tokens"))
    if isinstance(details := metadata.get("completion_tokens_details"), dict):
        sums[_REASONING] += _count(details.get("reasoning_tokens"))


def _add_time(sums: list[int], first_bucket: int, milliseconds: object) -> None:
    if isinstance(milliseconds, int | float) and milliseconds >= 0:
        sums[first_bucket + bisect_left(BUCKETS_MS, milliseconds)] += 1


def _refusal(record: dict[str, Any]) -> str:
    if record.get("outcome") != "refused":
        return ""
    error = record.get("error")
    return _text(error.get("code") if isinstance(error, dict) else None, REFUSAL_LENGTH) or NO_CODE


def _count(value: object) -> int:
    return min(value, MAX_TOKENS) if type(value) is int and value > 0 else 0


def _text(value: object, length: int) -> str:
    # A NUL is the one character that PostgreSQL does not store.
    return value[:length].replace("\0", "") if isinstance(value, str) else ""


def _hour(timestamp: object) -> int | None:
    if not isinstance(timestamp, str) or not timestamp.endswith("Z"):
        return None
    return _hour_of_prefix(timestamp[:13])


@lru_cache(maxsize=1024)
def _hour_of_prefix(prefix: str) -> int | None:
    try:
        return int(datetime.fromisoformat(f"{prefix}:00+00:00").timestamp()) // 3600
    except ValueError:
        return None
