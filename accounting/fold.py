"""
Folds records into sums. Pure: no database here.

Texts that are too long for their column are cut, and a record without a readable time is left out.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
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

# By the names of `models.SUMS`. What is not there is 0: of its forty-odd names, a record adds to ten.
Sums = defaultdict[str, int]


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


class Call(NamedTuple):
    """A record that was counted: under what, when it arrived, and the how manieth it was."""

    row: Row
    record: ReadRecord
    arrived_at: datetime
    number: int


class Folded(NamedTuple):
    """
    Attributes:
        rows: Sums in CALLS, the view that has all dimensions.
        sights: The usage that may not be in them, in the log's order.
        calls: The records themselves, in the log's order.
    """

    rows: Rows
    sights: list[Sight]
    calls: list[Call]


def _kept(view: View) -> Callable[[tuple[object, ...]], tuple[Any, ...]]:
    """Takes a view's dimensions out of a row that has one more value, '' for the others."""
    return itemgetter(*(Row._fields.index(name) if name in view.dimensions else -1 for name in DIMENSIONS))


_KEPT = [(view.id, view.hours, _kept(view)) for view in VIEWS if view is not CALLS]


def fold(records: Iterable[ReadRecord], *, model_name: Callable[[str, str], str] = lambda _, model: model) -> Folded:
    """
    Sum up.

    Args:
        model_name: The name to count a project's model under.
    """
    found = Folded({}, [], [])
    rows, sights, calls = found
    for number, record in enumerate(records):
        arrived_at = record.arrived_at
        if arrived_at is None:
            continue
        row = _row(record, hour_of(arrived_at), model_name)
        calls.append(Call(row, record, arrived_at, number))
        sums = rows.get(row)
        if sums is None:
            sums = rows[row] = defaultdict(int)
        _count(record, row.endpoint, sums)
        usage_of, source = record.usage_of, record.usage_source
        if usage_of:
            object_id, is_stored = _text(usage_of, OBJECT_ID_LENGTH), source == "stored"
            at, used = int(arrived_at.timestamp()), defaultdict[str, int](int)
            _use(record, used)
            _price(record, used)
            sights.append(Sight(row.project_id, object_id, record.request_id, is_stored, at, row, used))
        elif source in _OWN and not is_reading(record):
            _use(record, sums)
            _price(record, sums)
        elif not record.is_before_prices:
            _price(record, sums)
    return found


def _row(record: ReadRecord, hour: int, model_name: Callable[[str, str], str]) -> Row:
    project_id = _text(record.project_id, ID_LENGTH)
    return Row(
        CALLS.id,
        hour,
        project_id,
        _text(record.token_id, ID_LENGTH),
        model_name(project_id, _text(record.billed_model, MODEL_LENGTH)),
        endpoint_class(record.endpoint),
        (_text(record.error_code, REFUSAL_LENGTH) or NO_CODE) if record.outcome == "refused" else "",
    )


def with_used(rows: Rows, sights: list[Sight]) -> Rows:
    """The sums, and the usage of these."""
    total = {row: sums.copy() for row, sums in rows.items()} if sights else rows
    for sight in sights:
        add(total, sight.row, sight.used)
    return total


def in_every_view(calls: Rows) -> Rows:
    """Sums in CALLS, and the same in every other view."""
    found = calls.copy()  # whose sums nothing is added to: no other view has a row of theirs
    for row, sums in calls.items():
        with_nothing = (*row, "")
        for view_id, hours, kept in _KEPT:
            add(found, Row(view_id, row.hour // hours * hours, *kept(with_nothing)), sums)
    return found


def add(to: Rows, row: Row, more: Sums) -> None:
    """Add sums to those of a row."""
    sums = to.get(row)
    if sums is None:
        to[row] = more.copy()
        return
    for name, number in more.items():
        sums[name] += number


def _count(record: ReadRecord, endpoint: str, sums: Sums) -> None:
    """Add what a record adds besides usage."""
    outcome, calls = record.outcome, record.count
    sums["requests"] += calls
    if record.would_refuse:
        sums["would_refuse"] += calls
    if outcome == "refused":
        sums["refusals"] += calls
        # How quickly the proxy says no is not how quickly it forwards. A call that it cut later was forwarded.
        if record.upstream_status is None:
            return
    elif record.failed_inside:  # whose client may well have hung up on it
        sums["errors"] += 1
    elif outcome == "client_closed":
        sums["client_closed"] += calls
    elif outcome != "complete" or (record.status_code or 0) >= BAD_REQUEST:
        sums["errors"] += calls
    elif record.is_stream and endpoint in _ASKED_FOR_USAGE and record.method == "POST":
        sums["streams"] += 1
        if record.usage_source == "absent":
            sums["silent_streams"] += 1
    if (took_ms := record.duration_ms) is not None and took_ms >= 0:
        sums[DURATION[bisect_left(BUCKETS_MS, took_ms)]] += calls
    if (took_ms := record.ttft_ms) is not None and took_ms >= 0:
        sums[TTFT[bisect_left(BUCKETS_MS, took_ms)]] += calls


def _use(record: ReadRecord, sums: Sums) -> None:
    """Add the usage that a record tells."""
    sums["usage_reported"] += 1
    read = _tokens(sums, "prompt_tokens", record.prompt_tokens)
    _tokens(sums, "cached_tokens", record.cached_tokens)
    written = _tokens(sums, "completion_tokens", record.completion_tokens)
    _tokens(sums, "reasoning_tokens", record.reasoning_tokens)
    total = record.total_tokens
    # Some upstreams leave it to the reader.
    _tokens(sums, "total_tokens", read + written if total is None else total)
    if (seconds := record.seconds) is not None and seconds > 0:
        sums["audio_seconds"] += min(math.ceil(seconds), MAX_TOKENS)


def _tokens(sums: Sums, name: str, tokens: int | None) -> int:
    """Add a count, if it is one; what was added."""
    if tokens is None or tokens <= 0:
        return 0
    if tokens > MAX_TOKENS:
        tokens = MAX_TOKENS
    sums[name] += tokens
    return tokens


def _price(record: ReadRecord, sums: Sums) -> None:
    """Add what a record says of its price."""
    source = record.cost_source
    if cost := record.cost:
        microdollars = min(max(cost, 0), MAX_COST)
        sums["cost"] += microdollars
        if source == "assumed":
            sums["cost_assumed"] += microdollars
    if source == "unpriced" or (source is None and record.is_before_prices):
        sums["unpriced"] += 1


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
    if not value:
        return ""
    # A NUL is the one character that PostgreSQL does not store.
    return value if len(value) <= length and "\0" not in value else value[:length].replace("\0", "")
