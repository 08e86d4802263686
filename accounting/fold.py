"""
Folds records into sums. Pure: no database here.

Texts that are too long for their column are cut, and a record without a readable time is left out.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

from accounting.views import CALLS, VIEWS, View
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
_OWN = ("reported", "partial")
S_PER_HOUR = 3600
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
    """A record that was counted: under what, when it arrived (seconds since 1970 UTC), and the how manieth it was."""

    row: Row
    record: ReadRecord
    arrived_s: float
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
    known: dict[tuple[object, ...], Row] = {}
    for number, record in enumerate(records):
        arrived_at = record.arrived_at
        if arrived_at is None:
            continue
        arrived_s = arrived_at.timestamp()
        # Records of a batch are much alike: what they are counted under need not be made anew for each.
        seen = _seen(record, int(arrived_s // S_PER_HOUR))
        row = known.get(seen)
        if row is None:
            row = known[seen] = _row(*seen, model_name)
        calls.append(Call(row, record, arrived_s, number))
        sums = rows.get(row)
        if sums is None:
            sums = rows[row] = defaultdict(int)
        _count(record, row.endpoint, sums)
        fields = record.fields
        usage_of, source = fields.get("usage_of"), fields.get("usage_source")
        if usage_of and type(usage_of) is str:
            object_id, is_stored = _text(usage_of, OBJECT_ID_LENGTH), source == "stored"
            for under, used in _used(record, row, model_name):
                sight = Sight(row.project_id, object_id, record.request_id, is_stored, int(arrived_s), under, used)
                sights.append(sight)
        elif source in _OWN and not is_reading(record):
            _use(record, sums)
            _price(record, sums)
        elif not record.is_before_prices:
            _price(record, sums)
    return found


# Thousands of records are folded in a second, so what each has is taken from its fields as they are, of the right
# type: to ask the record for it takes three times as long.


def _seen(record: ReadRecord, hour: int) -> tuple[int, str | None, str | None, str | None, str | None, str | None]:
    """What a record is counted under, as it has it: hour, project, token, model, endpoint, and what refused it."""
    fields = record.fields
    project, token, endpoint = fields.get("project_id"), fields.get("token"), fields.get("endpoint")
    metadata = fields.get("metadata")
    model = metadata.get("model") if type(metadata) is dict else None
    return (
        hour,
        project if type(project) is str else None,
        token if type(token) is str else None,
        model if model and type(model) is str else record.billed_model,
        endpoint if type(endpoint) is str else None,
        _refusal(record),
    )


def _refusal(record: ReadRecord) -> str | None:
    """Why a call was refused, or else would have been by rules that only report."""
    fields = record.fields
    if fields.get("outcome") == "refused":
        return record.error_code or NO_CODE
    return record.would_refuse or None if "would_refuse" in fields else None


def _row(
    hour: int,
    project: str | None,
    token: str | None,
    model: str | None,
    endpoint: str | None,
    code: str | None,
    model_name: Callable[[str, str], str],
) -> Row:
    project_id = _text(project, ID_LENGTH)
    return Row(
        CALLS.id,
        hour,
        project_id,
        _text(token, ID_LENGTH),
        model_name(project_id, _text(model, MODEL_LENGTH)),
        endpoint_class(endpoint),
        "" if code is None else _text(code, REFUSAL_LENGTH) or NO_CODE,
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
    fields = record.fields
    outcome, calls = fields.get("outcome"), record.count if "count" in fields else 1
    sums["requests"] += calls
    if "would_refuse" in fields and record.would_refuse:
        sums["would_refuse"] += calls
    if outcome == "refused":
        sums["refusals"] += calls
        # How quickly the proxy says no is not how quickly it forwards. A call that it cut later was forwarded.
        if record.upstream_status is None:
            return
    elif has_failed_inside(record):  # whose client may well have hung up on it
        sums["errors"] += 1
    elif outcome == "client_closed":
        sums["client_closed"] += calls
    elif outcome != "complete" or (record.status_code or 0) >= BAD_REQUEST:
        sums["errors"] += calls
    elif fields.get("stream") is True and endpoint in _ASKED_FOR_USAGE and record.method == "POST":
        sums["streams"] += 1
        if record.usage_source == "absent":
            sums["silent_streams"] += 1
    took_ms = fields.get("duration_ms")
    if (type(took_ms) is float or type(took_ms) is int) and took_ms >= 0:
        sums[DURATION[bisect_left(BUCKETS_MS, took_ms)]] += calls
    took_ms = fields.get("ttft_ms")
    if (type(took_ms) is float or type(took_ms) is int) and took_ms >= 0:
        sums[TTFT[bisect_left(BUCKETS_MS, took_ms)]] += calls


def has_failed_inside(record: ReadRecord) -> bool:
    """As the record says it; without asking it where it has no error, as nearly all."""
    fields = record.fields
    return (fields.get("error") is not None or "failed_inside" in fields) and record.failed_inside


def _used(record: ReadRecord, row: Row, model_name: Callable[[str, str], str]) -> Iterator[tuple[Row, Sums]]:
    """What an object's usage is counted under, and what it is: that of each model where it tells of several."""
    told = record.fields.get("metadata")
    by_model = told.get("by_model") if type(told) is dict else None
    if type(by_model) is not dict:
        yield row, _all_used(record)
        return
    is_first = True
    for model, used in by_model.items():
        if type(used) is not dict:
            continue
        cost, source = used.get("cost_usd"), record.cost_source
        if source == "unpriced":  # what the others cost is not what it has cost
            cost, source = None, source if cost is None else None
        of_model = record.fields | {"metadata": used, "cost_usd": cost, "cost_source": source}
        sums = _all_used(ReadRecord(record.line, of_model))
        if not is_first:
            del sums["usage_reported"]  # it is one record
        is_first = False
        yield row._replace(model=model_name(row.project_id, _text(model, MODEL_LENGTH))), sums


def _all_used(record: ReadRecord) -> Sums:
    sums = defaultdict[str, int](int)
    _use(record, sums)
    _price(record, sums)
    return sums


def _use(record: ReadRecord, sums: Sums) -> None:
    """Add the usage that a record tells."""
    sums["usage_reported"] += 1
    told = record.fields.get("metadata")
    if type(told) is not dict:
        return
    read = _tokens(sums, "prompt_tokens", told)
    written = _tokens(sums, "completion_tokens", told)
    if type(details := told.get("prompt_tokens_details")) is dict:
        _tokens(sums, "cached_tokens", details)
    if type(details := told.get("completion_tokens_details")) is dict:
        _tokens(sums, "reasoning_tokens", details)
    if type(told.get("total_tokens")) is int:
        _tokens(sums, "total_tokens", told)
    elif total := read + written:  # some upstreams leave it to the reader
        sums["total_tokens"] += min(total, MAX_TOKENS)
    if "seconds" in told and (seconds := record.seconds) is not None and seconds > 0:
        sums["audio_seconds"] += min(math.ceil(seconds), MAX_TOKENS)


def _tokens(sums: Sums, name: str, told: dict[str, Any]) -> int:
    """Add the count of this name, if it is one; what was added."""
    tokens = told.get(name)
    if type(tokens) is not int or tokens <= 0:
        return 0
    if tokens > MAX_TOKENS:
        tokens = MAX_TOKENS
    sums[name] += tokens
    return tokens


def _price(record: ReadRecord, sums: Sums) -> None:
    """Add what a record says of its price."""
    fields = record.fields
    source = fields.get("cost_source")
    if fields.get("cost_usd") and (cost := record.cost):
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
    fields = record.fields
    if fields.get("method") == "POST":
        endpoint = fields.get("endpoint")
        # What new calls are made to is known at sight.
        if type(endpoint) is not str:
            return False
        return endpoint not in _MAKING and _changes_metadata(plain_path(endpoint)) is not None
    return record.status_code != SWITCHING_PROTOCOLS


def _text(value: str | None, length: int) -> str:
    if not value:
        return ""
    # A NUL is the one character that PostgreSQL does not store.
    return value if len(value) <= length and "\0" not in value else value[:length].replace("\0", "")
