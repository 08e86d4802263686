"""
Folds records into sums. Pure: no database here.

Texts that are too long for their column are cut, and a record without a readable time is left out.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, NamedTuple

from accounting.views import CALLS, VIEWS, View, hour_of
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.endpoints import CHAT, COMPLETIONS, endpoint_class, plain_path
from llmproxy.statuses import BAD_REQUEST, SWITCHING_PROTOCOLS
from models import BUCKETS_MS, DIMENSIONS, DURATION, MODEL_LENGTH, OBJECT_ID_LENGTH, REFUSAL_LENGTH, TTFT

ID_LENGTH = 36
# Far above any real call; sums of ten thousand million of them still fit into 64 bits.
MAX_TOKENS = 10**9
# A million dollars in micro-dollars: no call costs more.
MAX_COST = 10**12
NO_CODE = "none"
_MAKING = frozenset({CHAT, COMPLETIONS, "/v1/responses", "/v1/embeddings"})
_OWN = frozenset({"reported", "partial"})
# Where a caller's `stream_options` decide whether a stream tells its usage.
_ASKED_FOR_USAGE = frozenset({"chat", "completions"})
_changes_metadata = re.compile(
    r"/v1/(?:chat/completions/[^/]+|(?:responses|batches)/[^/]+/cancel|threads/[^/]+/runs/[^/]+(?:/cancel)?)"
).fullmatch
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")

# By the names of `models.SUMS`. What is not there is 0: of its forty-odd names, a record adds to ten.
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


class Sight(NamedTuple):
    """
    A record that tells the usage of an object whose usage others may tell too. It counts for one of them.

    Attributes:
        is_stored: The call found the object, and did not make it.
        at: When it arrived, in seconds since 1970 UTC.
        row, used: What the usage is, and what it is counted under.
    """

    project_id: str
    object_id: str
    request_id: str
    is_stored: bool
    at: int
    row: Row
    used: Sums


class Folded(NamedTuple):
    """Sums in CALLS, the view that has all dimensions, and the usage that may not be in them, in the log's order."""

    rows: Rows
    sights: list[Sight]


def _kept(view: View) -> Callable[[tuple[object, ...]], tuple[Any, ...]]:
    """Takes a view's dimensions out of a row that has one more value, '' for the others."""
    return itemgetter(*(Row._fields.index(name) if name in view.dimensions else -1 for name in DIMENSIONS))


_KEPT = [(view, _kept(view)) for view in VIEWS if view is not CALLS]


def fold(records: Iterable[ReadRecord], *, model_name: Callable[[str, str], str] = lambda _, model: model) -> Folded:
    """
    Sum up.

    Args:
        model_name: The name to count a project's model under.
    """
    found = Folded({}, [])
    for record in records:
        arrived_at = record.arrived_at
        if arrived_at is None:
            continue
        project_id, endpoint = _text(record.project_id, ID_LENGTH), endpoint_class(record.endpoint)
        row = Row(
            CALLS.id,
            hour_of(arrived_at),
            project_id,
            _text(record.token_id, ID_LENGTH),
            model_name(project_id, _text(record.billed_model, MODEL_LENGTH)),
            endpoint,
            (_text(record.error_code, REFUSAL_LENGTH) or NO_CODE) if record.outcome == "refused" else "",
        )
        counted = _counted(record, endpoint)
        if record.usage_of:
            object_id, is_stored = _text(record.usage_of, OBJECT_ID_LENGTH), record.usage_source == "stored"
            at = int(arrived_at.timestamp())
            used = _used(record) | _priced(record)
            found.sights.append(Sight(project_id, object_id, record.request_id, is_stored, at, row, used))
        elif tells_own_usage(record) and not is_reading(record):
            counted |= _used(record) | _priced(record)
        elif not record.is_before_prices:
            counted |= _priced(record)
        add(found.rows, row, counted)
    return found


def with_used(rows: Rows, sights: list[Sight]) -> Rows:
    """The sums, and the usage of these."""
    total = {row: sums.copy() for row, sums in rows.items()} if sights else rows
    for sight in sights:
        add(total, sight.row, sight.used)
    return total


def in_every_view(calls: Rows) -> Rows:
    """Sums in CALLS, and the same in every other view."""
    found = calls.copy()  # whose sums nothing is added to: no other view has a row of theirs
    for view, kept in _KEPT:
        for row, sums in calls.items():
            add(found, Row(view.id, row.hour // view.hours * view.hours, *kept((*row, ""))), sums)
    return found


def add(to: Rows, row: Row, more: Sums) -> None:
    """Add sums to those of a row."""
    sums = to.get(row)
    if sums is None:
        to[row] = more.copy()
        return
    for name, number in more.items():
        sums[name] = sums.get(name, 0) + number


def _counted(record: ReadRecord, endpoint: str) -> Sums:
    """What a record adds besides usage."""
    outcome, calls = record.outcome, record.count
    is_good = False
    counted = {"requests": calls}
    if outcome == "refused":
        counted["refusals"] = calls
        # How quickly the proxy says no is not how quickly it forwards. A call that it cut later was forwarded.
        if record.upstream_status is None:
            return counted
    elif record.failed_inside:  # whose client may well have hung up on it
        counted["errors"] = 1
    elif outcome == "client_closed":
        counted["client_closed"] = calls
    elif outcome != "complete" or (record.status_code or 0) >= BAD_REQUEST:
        counted["errors"] = calls
    else:
        is_good = True
    if is_good and record.is_stream and endpoint in _ASKED_FOR_USAGE and record.method == "POST":
        counted["streams"] = 1
        if record.usage_source == "absent":
            counted["silent_streams"] = 1
    for buckets, took_ms in ((DURATION, record.duration_ms), (TTFT, record.ttft_ms)):
        if took_ms is not None and took_ms >= 0:
            counted[buckets[bisect_left(BUCKETS_MS, took_ms)]] = calls
    return counted


def _used(record: ReadRecord) -> Sums:
    """The usage that a record tells."""
    used = {"usage_reported": 1}
    for name in _TOKENS:
        tokens = getattr(record, name)
        if tokens is not None and tokens > 0:
            used[name] = min(tokens, MAX_TOKENS)
    total = record.total_tokens
    if total is None:  # some upstreams leave it to the reader
        total = used.get("prompt_tokens", 0) + used.get("completion_tokens", 0)
    if total > 0:
        used["total_tokens"] = min(total, MAX_TOKENS)
    if (seconds := record.seconds) is not None and seconds > 0:
        used["audio_seconds"] = min(math.ceil(seconds), MAX_TOKENS)
    return used


def _priced(record: ReadRecord) -> Sums:
    """What a record says of its price."""
    priced: Sums = {}
    if cost := record.cost:
        priced["cost"] = min(max(cost, 0), MAX_COST)
        if record.cost_source == "assumed":
            priced["cost_assumed"] = priced["cost"]
    if record.is_unpriced:
        priced["unpriced"] = 1
    return priced


def tells_own_usage(record: ReadRecord) -> bool:
    """Whether a record says that its usage is that of its call, and of nothing else."""
    return record.usage_source in _OWN and not record.usage_of


def is_reading(record: ReadRecord) -> bool:
    """Whether a call only read something, or changed its metadata: older records call such usage the call's own."""
    if record.method == "POST":
        endpoint = record.endpoint or ""
        # What new calls are made to is known at sight.
        return endpoint not in _MAKING and _changes_metadata(plain_path(endpoint)) is not None
    return record.status_code != SWITCHING_PROTOCOLS


def _text(value: str | None, length: int) -> str:
    # A NUL is the one character that PostgreSQL does not store.
    return value[:length].replace("\0", "") if value else ""
