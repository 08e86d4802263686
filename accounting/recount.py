"""
Counts the log files that are still there again, and puts the sums of usage right.

The rollup stands still meanwhile (the caller holds its lock, and has brought it to the end of the log), so a
recount up to the saved position must come to the same sums. What it counts is gathered in rows that no report
looks at; then, hour by hour and each in one short transaction, the difference is added to every view. Killed at
any instant, it leaves hours that are right beside hours that are as they were.

An hour is replaced only when the files hold at least as many of its records as the sums: files that are gone
take nothing away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, delete, select

from accounting.fold import Row, Rows, Sums, add, fold, in_every_view, is_reading, tells_own_usage, with_used
from accounting.names import ModelNames
from accounting.rollup import UsageSums
from accounting.seen import counting
from accounting.views import CALLS, RECOUNT, View, moment
from llmproxy.api_log.lines import cut
from llmproxy.api_log.position import Position
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import MAX_LINE_BYTES
from llmproxy.api_log.segment import distinct_segments
from models import COUNTS, DIMENSIONS, SUMS, usage_keys, usage_sums

_CHUNK_BYTES = 256 << 10
_BUSY_MS = 10_000


@dataclass(slots=True)
class Recount:
    """
    What a recount found and did.

    Attributes:
        records: Counted in the files.
        reads: Of them, those of older versions whose usage is that of an object which was read: it counts no more.
        before_prices: Of them, those with usage that a version before prices wrote: they count as unpriced.
        replaced: Hours whose sums are what the files say now, in order.
        kept: Hours that were left as they were, because the files hold fewer of their records.
        changes: What differs in the replaced hours: the name of a sum -> what it was, and what it is now.
    """

    records: int = 0
    reads: int = 0
    before_prices: int = 0
    replaced: list[datetime] = field(default_factory=list)
    kept: list[datetime] = field(default_factory=list)
    changes: dict[str, tuple[int, int]] = field(default_factory=dict)


def recount(path: Path, engine: Engine, sums: UsageSums, *, replace_from: datetime | None = None) -> Recount:
    """
    Recount the log at `path`, up to the position that `sums` has saved.

    Args:
        replace_from: Replace every hour from this one on, also where the files hold less.
    """
    work = _Recounting(engine, sums, replace_from)
    done = Recount()
    work.clear()
    for records in _records(path, sums.load()):
        done.records += sum(record.count for record in records)
        done.reads += sum(tells_own_usage(record) and is_reading(record) for record in records)
        done.before_prices += sum(record.is_before_prices and not is_reading(record) for record in records)
        work.gather(records)
    for hour in work.hours():
        (done.replaced if work.settle(hour) else done.kept).append(moment(hour))
    work.clear()
    done.changes = {
        name: (work.before[name], work.after[name]) for name in COUNTS if work.before[name] != work.after[name]
    }
    return done


class _Recounting:
    """
    Attributes:
        before, after: The sums of the hours that were replaced.
    """

    def __init__(self, engine: Engine, sums: UsageSums, replace_from: datetime | None) -> None:
        self.before: Counter[str] = Counter()
        self.after: Counter[str] = Counter()
        self._engine = engine
        self._sums = sums
        # Asks the tables once: what is gathered is in none of their views, and would have room anew in each portion.
        self._names = ModelNames(engine)
        self._replace_from = replace_from

    def gather(self, records: list[ReadRecord]) -> None:
        rows, sights, _ = fold(records, model_name=self._names.name)
        with self._sums.transaction(busy_ms=_BUSY_MS) as connection:
            counted = with_used(rows, counting(connection, sights))
            self._sums.add(connection, {row._replace(view=RECOUNT.id): sums for row, sums in counted.items()})

    def hours(self) -> list[int]:
        hours = select(usage_sums.c.hour).where(usage_sums.c.key_id.in_(self._keys(RECOUNT))).distinct()
        with self._engine.connect() as connection:
            return sorted(connection.scalars(hours))

    def settle(self, hour: int) -> bool:
        """Bring one hour of every view to what was counted; False when it must be kept."""
        with self._sums.transaction(busy_ms=_BUSY_MS) as connection:
            counted, current = (self._calls(connection, view, hour) for view in (RECOUNT, CALLS))
            is_forced = self._replace_from is not None and moment(hour) >= self._replace_from
            if not is_forced and _requests(counted) < _requests(current):
                return False
            self._sums.add(connection, in_every_view(_difference(counted, current)))
        for total, calls in ((self.before, current), (self.after, counted)):
            for each in calls.values():
                total.update(each)
        return True

    def clear(self) -> None:
        """Remove what was gathered."""
        for hour in self.hours():
            with self._sums.transaction(busy_ms=_BUSY_MS) as connection:
                here = (usage_sums.c.view == RECOUNT.id) & (usage_sums.c.hour == hour)
                connection.execute(delete(usage_sums).where(here, usage_sums.c.key_id.in_(self._keys(RECOUNT))))

    def _calls(self, connection: Connection, view: View, hour: int) -> Rows:
        """What an hour of one view holds, as rows of CALLS."""
        columns = [usage_keys.c[name] for name in DIMENSIONS] + [usage_sums.c[name] for name in SUMS]
        statement = (
            select(*columns)
            .join(usage_keys, usage_keys.c.id == usage_sums.c.key_id)
            .where(usage_sums.c.view == view.id, usage_sums.c.hour == hour, usage_keys.c.node_id == self._sums.node)
        )
        found = connection.execute(statement).mappings()
        return {
            Row(CALLS.id, hour, *(each[name] for name in DIMENSIONS)): Sums(int, {name: each[name] for name in SUMS})
            for each in found
        }

    def _keys(self, view: View) -> Any:
        return select(usage_keys.c.id).where(usage_keys.c.view == view.id, usage_keys.c.node_id == self._sums.node)


def _difference(counted: Rows, current: Rows) -> Rows:
    difference: Rows = {}
    for row, sums in counted.items():
        add(difference, row, sums)
    for row, sums in current.items():
        add(difference, row, Sums(int, {name: -number for name, number in sums.items()}))
    return {row: sums for row, sums in difference.items() if any(sums.values())}


def _requests(calls: Rows) -> int:
    return sum(sums["requests"] for sums in calls.values())


def _records(path: Path, position: Position) -> Iterator[list[ReadRecord]]:
    """The records that a position has passed and whose files are there, in portions."""
    for segment in distinct_segments(path):
        if segment.id not in (*position.done, position.segment):
            continue
        limit = segment.size if segment.id in position.done else position.offset
        with segment.path.open("rb") as file:
            rest = b""
            while limit > 0:
                data = file.read(min(_CHUNK_BYTES, limit))
                limit = limit - len(data) if data else 0
                found = cut(rest + data, max_lines=_CHUNK_BYTES, is_last=limit == 0)
                yield found.records
                rest = (rest + data)[found.used :]
                # Longer than any record: not ours, and no reason to hold it.
                rest = rest[-MAX_LINE_BYTES:]
