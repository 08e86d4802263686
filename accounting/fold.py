"""
Folds records into sums. Pure: no database here.

Texts that are too long for their column are cut, and a record without a readable time is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NamedTuple

from accounting.views import CALLS, VIEWS, hour_of
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.endpoints import endpoint_class
from models import BUCKETS_MS, DIMENSIONS, DURATION, MODEL_LENGTH, REFUSAL_LENGTH, TTFT

ID_LENGTH = 36
# Far above any real call; sums of ten thousand million of them still fit into 64 bits.
MAX_TOKENS = 10**9
# A million dollars in micro-dollars: no call costs more.
MAX_COST = 10**12
NO_CODE = "none"
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")

# By the names of `models.SUMS`. What is not there is 0: of its forty names, a record adds to ten.
Sums = dict[str, int]


class Row(NamedTuple):
    """
    What calls are counted under.

    Attributes:
        view: The id of a view. What is not one of its dimensions is '', like what a record does not tell.
        hour: Since 1970-01-01 UTC; the first one of a day in views by day.
    """

    view: int
    hour: int
    project_id: str
    token_id: str
    model: str
    endpoint: str
    refusal: str


Rows = dict[Row, Sums]


def fold(records: Iterable[ReadRecord], *, model_name: Callable[[str], str] = str) -> Rows:
    """
    Sums in CALLS, the view that has all dimensions.

    Args:
        model_name: The name to count a model under.
    """
    found: Rows = {}
    for record in records:
        arrived_at = record.arrived_at
        if arrived_at is None:
            continue
        row = Row(
            CALLS.id,
            hour_of(arrived_at),
            _text(record.project_id, ID_LENGTH),
            _text(record.token_id, ID_LENGTH),
            model_name(_text(record.billed_model, MODEL_LENGTH)),
            endpoint_class(record.endpoint),
            (_text(record.error_code, REFUSAL_LENGTH) or NO_CODE) if record.outcome == "refused" else "",
        )
        add(found, row, _counted(record))
    return found


def in_every_view(calls: Rows) -> Rows:
    """Sums in CALLS, and the same in every other view."""
    found: Rows = {}
    for view in VIEWS:
        keeps = [name in view.dimensions for name in DIMENSIONS]
        for (_, hour, *values), sums in calls.items():
            kept = (value if keep else "" for value, keep in zip(values, keeps, strict=True))
            add(found, Row(view.id, hour // view.hours * view.hours, *kept), sums)
    return found


def add(to: Rows, row: Row, more: Sums) -> None:
    """Add sums to those of a row."""
    sums = to.get(row)
    if sums is None:
        to[row] = more.copy()
        return
    for name, number in more.items():
        sums[name] = sums.get(name, 0) + number


def _counted(record: ReadRecord) -> Sums:
    """What a record adds."""
    outcome = record.outcome
    counted = {"requests": 1}
    if outcome == "refused":
        counted["refusals"] = 1
        # How quickly the proxy says no is not how quickly it forwards. A call that it cut later was forwarded.
        if record.upstream_status is None:
            return counted
    elif outcome == "client_closed":
        counted["client_closed"] = 1
    elif outcome != "complete" or (record.status_code or 0) >= HTTPStatus.BAD_REQUEST:
        counted["errors"] = 1
    if record.usage_source == "reported":
        counted["usage_reported"] = 1
    for name in _TOKENS:
        tokens = getattr(record, name)
        if tokens is not None and tokens > 0:
            counted[name] = min(tokens, MAX_TOKENS)
    if cost := record.cost:
        counted["cost"] = min(max(cost, 0), MAX_COST)
    if record.is_unpriced:
        counted["unpriced"] = 1
    for buckets, took_ms in ((DURATION, record.duration_ms), (TTFT, record.ttft_ms)):
        if took_ms is not None and took_ms >= 0:
            counted[buckets[bisect_left(BUCKETS_MS, took_ms)]] = 1
    return counted


def _text(value: str | None, length: int) -> str:
    # A NUL is the one character that PostgreSQL does not store.
    return value[:length].replace("\0", "") if value else ""
