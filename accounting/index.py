"""
Where the records of calls stand in the call log, by time: what the rollup adds, and what lists ask.

A row is seven numbers: of the record itself it has what lists are ordered and narrowed by. Whose call it was is told
by the key of usage that it was counted under.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, Subquery, and_, cast, func, or_, select, tuple_

from accounting.fold import NO_CODE, Call, Row, has_failed_inside
from accounting.names import OTHER_MODELS
from accounting.views import CALLS
from database.engine import Session
from llmproxy.api_log.latest import Filter, Place, read_all
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import MAX_LINE_BYTES
from models import call_index, log_segments, usage_keys, usage_sums

# How a call ended: its outcome, or that it failed within a good response. New ones are added at the end.
ENDINGS = (
    "unknown",
    "complete",
    "failed_inside",
    "refused",
    "client_closed",
    "upstream_failed",
    "upstream_timeout",
)
_NUMBERS = {name: number for number, name in enumerate(ENDINGS)}
_COMPLETE, _INSIDE, _CLOSED = _NUMBERS["complete"], _NUMBERS["failed_inside"], _NUMBERS["client_closed"]
_REFUSED = _NUMBERS["refused"]
_BAD = 400
MOST_READ = 5000
MOST_SLOWEST = 300
# Of how many of the newest rows the slowest are looked for before those of all.
PART = 20_000
# Calls of so few keys, in so few hours, are looked for in those hours alone. Others are met soon, on the way back.
MOST_KEYS = 200
MOST_HOURS = 100
_MS_PER_HOUR = 3_600_000
_MOST_MS = 2**31 - 1
_MOST_STATUS = 999
_COLUMNS = tuple(column.name for column in call_index.columns)
_ADD = (
    f"INSERT INTO call_index ({', '.join(_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
)
_ADD_ALL = (
    f"INSERT INTO call_index ({', '.join(_COLUMNS)}) "  # noqa: S608
    f"SELECT * FROM unnest({', '.join(['%s::bigint[]'] * len(_COLUMNS))}) ON CONFLICT DO NOTHING"
)


class Indexed(NamedTuple):
    """A row of the index, and the place in the log that it stands for."""

    at: int
    segment: int
    offset: int
    duration_ms: int
    place: Place

    @property
    def mark(self) -> str:
        """It, for an address."""
        return ".".join(map(str, self[:4]))


def number_of(connection: Connection, node: str, segment: str) -> int:
    """The number of a file of the log, which is given to it where it has none."""
    wanted = {"node_id": node, "segment": segment}
    statement = select(log_segments.c.id).filter_by(**wanted)
    found = connection.scalar(statement)
    if found is None:
        connection.execute(log_segments.insert(), wanted)
        found = connection.scalar(statement)
    return int(found or 0)


def add(
    connection: Connection, segment: int, calls: Iterable[Call], offsets: Sequence[int], ids: Mapping[Row, int]
) -> None:
    """
    Add calls of one file; those that are there already stay as they are.

    Args:
        offsets: Where the lines of the records begin, by their numbers in the batch.
        ids: Of the keys that they were counted under.
    """
    rows = [
        (int(arrived_s * 1000), segment, offsets[number], ids[row], *_ended(record))
        for row, record, arrived_s, number in calls
    ]
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_ADD, rows)
    else:
        columns = tuple(f"{{{','.join(map(str, column))}}}" for column in zip(*rows, strict=True))
        connection.exec_driver_sql(_ADD_ALL, columns)


def _ended(record: ReadRecord) -> tuple[int, int, int]:
    """Status, ending and duration. From its fields, as in `fold`, where they are what they nearly always are."""
    fields = record.fields
    status, outcome, duration_ms = fields.get("status_code"), fields.get("outcome"), fields.get("duration_ms")
    if type(status) is not int or type(outcome) is not str or type(duration_ms) is not float:
        status, outcome, duration_ms = record.status_code or 0, record.outcome or "", record.duration_ms or 0
    ending = _INSIDE if has_failed_inside(record) else _NUMBERS.get(outcome, 0)
    return min(status, _MOST_STATUS), ending, min(int(duration_ms), _MOST_MS)


def find(
    session: Session, node: str, wanted: Filter, *, slowest: bool, limit: int, after: str | None
) -> list[Indexed]:
    """
    Rows of this node that may pass: what the index does not tell is left to whoever reads their records.

    Args:
        slowest: Those that took longest first; the latest first otherwise.
        after: The `mark` of the last row that was seen.
    """
    table = call_index.c
    order = [*([table.duration_ms] if slowest else []), table.at, table.segment, table.place]
    conditions = [*_in_time(wanted), *_conditions(wanted)]
    keys = _few_keys(session, wanted)
    if keys == []:
        return []
    hours = _few_hours(session, wanted, keys) if keys else None
    if seen := read_mark(after):
        conditions.append(tuple_(*order) < tuple_(*(seen[column.name] for column in order)))

    def rows(*bounds: ColumnElement[bool]) -> list[Indexed]:
        statement = (
            select(table.at, table.segment, table.place, table.duration_ms, log_segments.c.segment)
            .join(log_segments, and_(log_segments.c.id == table.segment, log_segments.c.node_id == node))
            .where(*bounds, *conditions)
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if hours is not None:
            statement = statement.join(hours, table.at.between(hours.c.begin, hours.c.begin + (_MS_PER_HOUR - 1)))
        return [Indexed(*row[:4], Place(row[4], row[2])) for row in session.execute(statement)]

    if slowest and hours is None and (since := _newest_part(session, wanted)):
        # The slowest of all are no faster than those of a part: what is left to look up and to sort is little.
        part = rows(table.at >= since)
        if len(part) == limit:
            return rows(table.duration_ms >= part[-1].duration_ms)
    return rows()


def _few_keys(session: Session, wanted: Filter) -> list[int] | None:
    """The keys that calls of a filter are counted under; None where they are many, or there is no such filter."""
    if not (whose := list(_keys(wanted))):
        return None
    statement = select(usage_keys.c.id).where(usage_keys.c.view == CALLS.id, *whose).limit(MOST_KEYS + 1)
    found = list(session.scalars(statement))
    return found if len(found) <= MOST_KEYS else None


def _few_hours(session: Session, wanted: Filter, keys: list[int]) -> Subquery | None:
    """
    The hours in which calls were counted under keys, where they are few: `begin`, in milliseconds.

    The way back through all rows would be a long one to the third call of a model. None where there are more hours,
    and for times whose sums are gone before the index.
    """
    begin = max(begins_at(session) or 0, int(wanted.begin.timestamp() * 1000) if wanted.begin else 0)
    first = session.scalar(select(func.min(usage_sums.c.hour)).where(usage_sums.c.view == CALLS.id))
    if first is None or begin < first * _MS_PER_HOUR:
        return None
    of_them = [usage_sums.c.view == CALLS.id, usage_sums.c.key_id.in_(keys)]
    of_them.append(usage_sums.c.hour >= begin // _MS_PER_HOUR)
    if wanted.end:
        of_them.append(usage_sums.c.hour <= int(wanted.end.timestamp() * 1000) // _MS_PER_HOUR)
    hours = select(usage_sums.c.hour).where(*of_them).distinct()
    if len(list(session.scalars(hours.limit(MOST_HOURS + 1)))) > MOST_HOURS:
        return None
    in_ms = cast(usage_sums.c.hour, BigInteger) * _MS_PER_HOUR
    return select(in_ms.label("begin")).where(*of_them).distinct().subquery()


def tells(wanted: Filter) -> bool:
    """Whether rows alone tell nearly which records pass, so that not every record of a time has to be read."""
    has_foreign_code = wanted.code is not None and wanted.outcome != "refused"
    return not (wanted.client_address or wanted.secret or wanted.lacks or wanted.websocket or has_foreign_code)


def end_of(session: Session, node: str, wanted: Filter) -> Place | None:
    """Before which the log holds all that is wanted of a time; None where its time has no end, or nothing in it."""
    if wanted.end is None:
        return None
    table = call_index.c
    row = session.execute(
        select(log_segments.c.segment, table.place)
        .join(log_segments, and_(log_segments.c.id == table.segment, log_segments.c.node_id == node))
        .where(*_in_time(wanted))
        .order_by(table.segment.desc(), table.place.desc())
        .limit(1)
    ).first()
    # How long that line is does not matter: the rest of the log's next ones is no line.
    return Place(row[0], row[1] + MAX_LINE_BYTES + 1) if row else None


class Browsed(NamedTuple):
    """
    Attributes:
        records: With their places.
        next: The mark to go on after; None at the end.
        gone: How many rows led to a line that is not there any more.
    """

    records: list[tuple[Place, ReadRecord]]
    next: str | None
    gone: int


def browse(
    session: Session, path: Path, node: str, wanted: Filter, *, slowest: bool, limit: int, after: str | None
) -> Browsed:
    """
    The records of the log at `path` that pass the filter, by the index; see `find`.

    About MOST_READ of them are read at most, or MOST_SLOWEST: a filter that the index cannot tell may take several
    calls.
    """
    found: list[tuple[Place, ReadRecord]] = []
    gone = 0
    # Which model a call was counted under is told by its key alone: its record does not know of OTHER_MODELS.
    of_record = replace(wanted, billed_model=None)
    for step in _steps(wanted, slowest=slowest, limit=limit):
        rows = find(session, node, wanted, slowest=slowest, limit=step, after=after)
        for row, record in zip(rows, read_all(path, (row.place for row in rows)), strict=True):
            after = row.mark
            if record is None:
                gone += 1
            elif of_record.takes(record):
                found.append((row.place, record))
                if len(found) == limit:
                    return Browsed(found, after, gone)
        if len(rows) < step:
            return Browsed(found, None, gone)
    return Browsed(found, after, gone)


def _steps(wanted: Filter, *, slowest: bool, limit: int) -> list[int]:
    """How many rows to look up at a time. Where the index tells all, the first step is the last one."""
    # The slowest are looked up among all: the fewer are asked for, the more of them the newest part rules out, and
    # a second look would take as long again. So a model, which calls that failed do not tell, has one.
    most = max(limit, MOST_SLOWEST if slowest else MOST_READ)
    first = most if slowest and wanted.model else limit
    return [step for step in (first, most - first) if step]


def _newest_part(session: Session, wanted: Filter) -> int | None:
    """The millisecond since when PART rows of the time that is wanted arrived; None where there are not so many."""
    at = call_index.c.at
    return session.scalar(select(at).where(*_in_time(wanted)).order_by(at.desc()).offset(PART - 1).limit(1))


def begins_at(session: Session) -> int | None:
    """The millisecond of the oldest row; None where there is none."""
    return session.scalar(select(call_index.c.at).order_by(call_index.c.at).limit(1))


def read_mark(mark: str | None) -> dict[str, int] | None:
    """What a row's `mark` says of its place in an order; None for any other text."""
    parts = (mark or "").split(".")
    if len(parts) != 4 or not all(part.isdecimal() and part.isascii() and len(part) <= 18 for part in parts):
        return None
    return dict(zip(("at", "segment", "place", "duration_ms"), map(int, parts), strict=True))


def _in_time(wanted: Filter) -> Iterable[ColumnElement[bool]]:
    if wanted.begin:
        yield call_index.c.at >= int(wanted.begin.timestamp() * 1000)
    if wanted.end:
        yield call_index.c.at < int(wanted.end.timestamp() * 1000)


def _conditions(wanted: Filter) -> Iterable[ColumnElement[bool]]:
    table = call_index.c
    if wanted.status:
        low = int(wanted.status.ljust(3, "0"))
        yield table.status.between(low, low + 10 ** (3 - len(wanted.status)) - 1)
    if wanted.failed or wanted.errors:
        yield or_(and_(table.ending == _COMPLETE, table.status >= _BAD), table.ending.not_in((_COMPLETE, _CLOSED)))
    if wanted.errors:
        yield table.ending != _REFUSED
    if wanted.outcome:
        # Its record may have failed within, and still have this outcome.
        yield table.ending.in_((_NUMBERS.get(wanted.outcome, 0), _INSIDE))
    if whose := list(_keys(wanted)):
        yield table.key_id.in_(select(usage_keys.c.id).where(usage_keys.c.view == CALLS.id, *whose))


def _keys(wanted: Filter) -> Iterable[Any]:
    if wanted.project_id is not None:
        yield usage_keys.c.project_id == wanted.project_id
    if wanted.token_id is not None:
        yield usage_keys.c.token_id == wanted.token_id
    if wanted.billed_model is not None:
        yield usage_keys.c.model == wanted.billed_model
    if wanted.model:
        # One that failed is counted under no model, and its record names what was asked for.
        yield or_(
            usage_keys.c.model.startswith(wanted.model, autoescape=True), usage_keys.c.model.in_(("", OTHER_MODELS))
        )
    if wanted.code is not None and wanted.outcome == "refused":
        yield usage_keys.c.refusal == (wanted.code or NO_CODE)
    elif wanted.would_refuse and wanted.outcome != "refused":
        yield usage_keys.c.refusal == wanted.would_refuse
