"""
Adds the call log to the sums of usage, every record exactly once.

Guarantees:
* A batch's sums and the position after it are committed in one transaction. A process that is killed at any
  instant has done both or neither; whoever reads next goes on from there.
* One process of a node adds at a time (the reader's lock); any other takes its place within a tick.
* The records of a batch are summed up in memory first, so the transaction is short: nobody's admission waits
  for more than a few milliseconds of it.

A log file that somebody edited is read again by the reader, and counted again here; `recount` puts that right.
"""

from __future__ import annotations

import fcntl
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, select

from accounting import index
from accounting.fold import Folded, Row, Rows, Sight, Sums, fold, in_every_view, with_used
from accounting.names import ModelNames
from accounting.reservations import pass_records
from accounting.seen import counting
from database.engine import BACKGROUND_BUSY_MS, background_transaction
from llmproxy.admission import utc_now
from llmproxy.api_log.position import Position
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.reader import LogReader
from llmproxy.limits.reservations import ReservationStore
from llmproxy.telemetry import metrics
from models import DIMENSIONS, SUMS, UtcDateTime, reader_positions

READER = "rollup"
BATCH_RECORDS = 250
_MAX_KNOWN_KEYS = 200_000

_KEY_COLUMNS = ("view", "node_id", *DIMENSIONS)
_SUM_COLUMNS = ("view", "hour", "key_id", *SUMS)
_PLACES = {name: at for at, name in enumerate(_SUM_COLUMNS)}
_NO_CALLS = Folded({}, [], [])
_NOTHING = (0,) * len(SUMS)
# By hand, for the driver itself: 600 rows of 45 numbers are a batch, and this is a fifth of the ORM's time.
_ON_SUM = "ON CONFLICT (view, hour, key_id) DO UPDATE SET " + ", ".join(
    f"{name} = usage_sums.{name} + excluded.{name}" for name in SUMS
)
_ON_KEY = f"ON CONFLICT ({', '.join(_KEY_COLUMNS)}) DO UPDATE SET view = excluded.view RETURNING id"
_ADD = (
    f"INSERT INTO usage_sums ({', '.join(_SUM_COLUMNS)}) VALUES ({', '.join('?' * len(_SUM_COLUMNS))}) "  # noqa: S608
    + _ON_SUM
)
# All new keys at once: as JSON on SQLite, where a statement for each takes twice as long, and as an array for each
# column on PostgreSQL. Without a condition, SQLite would take the conflict's ON for that of a join.
_NEW_KEYS_OF_JSON = (
    f"INSERT INTO usage_keys ({', '.join(_KEY_COLUMNS)}) SELECT "  # noqa: S608
    + ", ".join(f"json_extract(value, '$[{at}]')" for at in range(len(_KEY_COLUMNS)))
    + f" FROM json_each(?) WHERE true {_ON_KEY}, {', '.join(_KEY_COLUMNS)}"
)
# The same for the sums on PostgreSQL: one round trip, and one value to pass for 600.
_ADD_ALL = (
    f"INSERT INTO usage_sums ({', '.join(_SUM_COLUMNS)}) "  # noqa: S608
    f"SELECT * FROM unnest({', '.join(['%s::bigint[]'] * len(_SUM_COLUMNS))}) {_ON_SUM}"
)
_NEW_KEYS = (
    f"INSERT INTO usage_keys ({', '.join(_KEY_COLUMNS)}) SELECT * "  # noqa: S608
    f"FROM unnest(%s::smallint[], {', '.join(['%s::text[]'] * (len(_KEY_COLUMNS) - 1))}) "
    f"{_ON_KEY}, {', '.join(_KEY_COLUMNS)}"
)
_THERE = "SELECT id FROM usage_keys WHERE id IN (SELECT value FROM json_each(?))"
_COUNT_THERE = f"SELECT count(*) FROM ({_THERE})"  # noqa: S608
_ALL_THERE = "SELECT id FROM usage_keys WHERE id = ANY(%s) FOR KEY SHARE"
_COUNT_ALL_THERE = f"SELECT count(*) FROM ({_ALL_THERE}) AS there"  # noqa: S608
_SAVE_POSITION = (
    "INSERT INTO reader_positions (node_id, reader, position, saved_at) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (node_id, reader) DO UPDATE SET position = excluded.position, saved_at = excluded.saved_at"
)


def node_id(data_dir: Path) -> str:
    """The name under which this data directory's records are counted; made on the first call, and kept there."""
    with (data_dir / "node_id").open("a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        kept = file.read().strip()
        if not kept:
            kept = str(uuid.uuid4())
            file.write(f"{kept}\n")
    return kept


class UsageSums:
    """
    The sums of one node together with the position of the reader that feeds them.

    A `PositionStore`: what was staged is added in the transaction that saves the position.

    Attributes:
        last_save_s: How long the last such transaction took, the wait for it included.
    """

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine = engine
        self.node = node
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._staged = _NO_CALLS
        self._offsets: Sequence[int] = ()
        self.last_save_s = 0.0
        self._ids: dict[tuple[Any, ...], int] = {}
        self._numbered = "", 0
        self._names = ModelNames(engine)

    def stage(self, records: Iterable[ReadRecord], offsets: Sequence[int] = ()) -> None:
        """
        Sum up the records that the next saved position will have passed.

        Args:
            offsets: Where their lines begin in the segment of that position; none, and they are not indexed.
        """
        self._names.begin()
        self._staged, self._offsets = fold(records, model_name=self._names.name), offsets

    @contextmanager
    def transaction(self, *, busy_ms: int = BACKGROUND_BUSY_MS) -> Iterator[Connection]:
        """A `database.engine.background_transaction` to add in."""
        try:
            with background_transaction(self._engine, busy_ms=busy_ms) as connection:
                yield connection
        except BaseException:
            # The keys that it made were rolled back with it.
            self._ids.clear()
            self._numbered = "", 0
            raise

    def load(self) -> Position:
        """The position that was saved last. Its sums are in the tables, and nothing after it."""
        where = (reader_positions.c.node_id == self.node) & (reader_positions.c.reader == READER)
        with self._engine.connect() as connection:
            saved = connection.scalar(select(reader_positions.c.position).where(where))
        return Position.from_json(saved.encode()) if saved else Position()

    def save(self, position: Position) -> None:
        """Add what was staged, and remember the position. All or nothing."""
        started = time.perf_counter()
        rows, sights, calls = self._staged
        with self.transaction() as connection:
            counted = counting(connection, sights)
            self.add(connection, in_every_view(with_used(rows, counted)))
            if self._offsets and position.segment:
                ids = {row: self._ids[(row.view, self.node, *row[2:])] for row in rows}
                index.add(connection, self._segment(connection, position.segment), calls, self._offsets, ids)
            self._save_position(connection, position)
        self._staged, self._offsets = _NO_CALLS, ()
        self.last_save_s = time.perf_counter() - started
        for sight in counted:
            _tell(sight)

    def _segment(self, connection: Connection, segment: str) -> int:
        if self._numbered[0] != segment:
            self._numbered = segment, index.number_of(connection, self.node, segment)
        return self._numbered[1]

    def add(self, connection: Connection, added: Rows) -> None:
        """Add to the tables, within a `transaction` of these sums."""
        if not added:
            return
        keys = [(row.view, self.node, *row[2:]) for row in added]
        ids = self._key_ids(connection, keys)
        # Rows of one view and hour lie together, and are reached in one go.
        numbers = sorted(_numbers(row, ids[key], sums) for key, (row, sums) in zip(keys, added.items(), strict=True))
        if self._is_sqlite:
            connection.exec_driver_sql(_ADD, numbers)
        else:
            # Written out here: the driver would look at every number on its own.
            columns = tuple(f"{{{','.join(map(str, column))}}}" for column in zip(*numbers, strict=True))
            connection.exec_driver_sql(_ADD_ALL, columns)

    def _key_ids(self, connection: Connection, keys: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], int]:
        """The ids of all that is known, and of these keys, which are made where they are missing."""
        if len(self._ids) >= _MAX_KNOWN_KEYS:
            self._ids.clear()
        self._forget_deleted(connection, {key: self._ids[key] for key in keys if key in self._ids})
        missing = list({key for key in keys if key not in self._ids})
        if missing and self._is_sqlite:
            made = connection.exec_driver_sql(_NEW_KEYS_OF_JSON, (orjson.dumps(missing).decode(),))
            self._ids |= {(*key,): known for known, *key in made}
        elif missing:
            columns = tuple(map(list, zip(*missing, strict=True)))
            self._ids |= {(*key,): known for known, *key in connection.exec_driver_sql(_NEW_KEYS, columns)}
        return self._ids

    def _forget_deleted(self, connection: Connection, known: dict[tuple[Any, ...], int]) -> None:
        """Forget keys that a cleanup has deleted since, and keep it from deleting others until the commit."""
        ids = list(known.values())
        wanted: Any = f"[{','.join(map(str, ids))}]" if self._is_sqlite else ids
        count, there = (_COUNT_THERE, _THERE) if self._is_sqlite else (_COUNT_ALL_THERE, _ALL_THERE)
        if connection.exec_driver_sql(count, (wanted,)).scalar_one() < len(ids):
            found = set(connection.exec_driver_sql(there, (wanted,)).scalars())
            for key, known_id in known.items():
                if known_id not in found:
                    del self._ids[key]

    def _save_position(self, connection: Connection, position: Position) -> None:
        saved_at = UtcDateTime().process_bind_param(utc_now(), connection.dialect)
        values = (self.node, READER, position.to_json().decode(), str(saved_at) if self._is_sqlite else saved_at)
        connection.exec_driver_sql(_SAVE_POSITION if self._is_sqlite else _SAVE_POSITION.replace("?", "%s"), values)


def _numbers(row: Row, key_id: int, sums: Sums) -> tuple[int, ...]:
    """A row of `usage_sums`."""
    numbers = [row.view, row.hour, key_id, *_NOTHING]
    for name, number in sums.items():
        numbers[_PLACES[name]] = number
    return tuple(numbers)


def _tell(sight: Sight) -> None:
    """Metrics of what only the tables could say whether it counts."""
    metrics.count_usage(sight.row.model, sight.used)
    if cost := sight.used.get("cost"):
        metrics.count_cost(sight.project_id, sight.row.model, "reported", cost)
    if "unpriced" in sight.used:
        metrics.count_unpriced(sight.row.model)


class Rollup:
    """
    Moves a reader on through the log, a batch at a time.

    Args:
        reservations: Ended when their records are passed, see `accounting.reservations`; None leaves them alone.
    """

    def __init__(
        self, path: Path, sums: UsageSums, reservations: ReservationStore | None = None, **reader_options: Any
    ) -> None:
        self.reader = LogReader(path, READER, positions=sums, **reader_options)
        self.sums = sums
        self._reservations = reservations

    def step(self, *, max_records: int = BATCH_RECORDS) -> int:
        """
        Add one batch; how many records it held, or 0 at the end of the log.

        ReaderBusy when another process adds. Any other error leaves the batch for the next time.
        """
        try:
            while (batch := self.reader.read_batch(max_records=max_records)).size:
                self.sums.stage(batch.records, batch.offsets)
                if self._reservations is not None:
                    # Before the position moves on: what is passed again then has been ended, and is left alone.
                    pass_records(self._reservations, batch.records)
                self.reader.commit(batch)
                if batch.records:
                    return len(batch.records)
        except BaseException:
            # Whether a commit that failed took place is known to the database alone: ask it the next time.
            self.reader.close()
            raise
        return 0

    def close(self) -> None:
        """Let another process add."""
        self.reader.close()
