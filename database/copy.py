"""
Copies all rows of one database to another of either kind, in one transaction: all or nothing.

The source is read as it stood at one moment. What arrived is read back within the transaction and compared, row
count and checksum of every table; a checksum is the sum of its rows' SHA-256, for the databases sort texts
differently. Upstream keys are bound to their project's id, so they move as they are; every one must open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Table, func, select, text
from sqlalchemy.engine import make_url

from database import schema
from database.engine import open_engine
from llmproxy.keyring import KeyRing, SealBroken
from llmproxy.urls import seal_origin
from models import Project, db, leases, schema_floor

CHUNK_ROWS = 1000


class CopyRefused(Exception):
    """Nothing was copied; the message says why."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table, its rows, and the checksum that both databases agree on."""

    name: str
    rows: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, and how many sealed keys opened afterwards."""

    tables: list[CopiedTable]
    keys_opened: int


def copy(source_url: str, target_url: str, data_dir: Path, keyring: KeyRing) -> Copied:
    """
    Copy everything, making the schema of the target where it is missing.

    Raises:
        CopyRefused: the source is not of this version, the target holds data, or what arrived is not what left.
    """
    if source_url.startswith("sqlite") and not Path(make_url(source_url).database or "").is_file():
        raise CopyRefused("the source is no file")
    with _opened(source_url) as source:
        _require_this_version(source)
        with _opened(target_url) as target:
            _migrate(target, data_dir)
            with _snapshot(source) as reading, _all_or_nothing(target) as writing:
                _require_empty(writing)
                tables = [_copy_table(reading, writing, table) for table in _tables()]
                schema.raise_floor(writing, schema.floor(reading) or schema.HEAD)
                return Copied(tables, _open_keys(writing, keyring))


@contextmanager
def _opened(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _snapshot(source: Engine) -> Iterator[Connection]:
    """A transaction that sees one moment: any of SQLite's does."""
    is_postgres = source.dialect.name == "postgresql"
    options = {"isolation_level": "REPEATABLE READ"} if is_postgres else {}
    with source.connect().execution_options(**options) as connection, connection.begin():
        yield connection


@contextmanager
def _all_or_nothing(target: Engine) -> Iterator[Connection]:
    with target.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


def _tables() -> list[Table]:
    """Those that hold data, referenced ones first."""
    return [table for table in db.metadata.sorted_tables if table not in (leases, schema_floor)]


def _require_this_version(source: Engine) -> None:
    found = schema.version(source)
    if found != schema.HEAD:
        was = f"of schema {found}" if found else "empty"
        raise CopyRefused(f"the source is {was}, not {schema.HEAD}: start this version of the proxy on it once")


def _migrate(target: Engine, data_dir: Path) -> None:
    try:
        schema.migrate_to_head(target, data_dir)
    except schema.SchemaTooNew as exc:
        raise CopyRefused(f"the target cannot be used: {exc}") from exc


def _require_empty(target: Connection) -> None:
    full = [table.name for table in _tables() if target.execute(select(1).select_from(table).limit(1)).first()]
    if full:
        raise CopyRefused(f"the target holds data already, in {', '.join(full)}")


def _copy_table(source: Connection, target: Connection, table: Table) -> CopiedTable:
    left = _Checksum()
    for rows in _chunks(source, table):
        left.add(rows)
        target.execute(table.insert(), [dict(row) for row in rows])
    _set_sequence(target, table)
    arrived = _Checksum()
    for rows in _chunks(target, table):
        arrived.add(rows)
    if arrived != left:
        raise CopyRefused(f"{table.name}: {arrived.rows} rows arrived other than the {left.rows} that left")
    return CopiedTable(table.name, left.rows, left.hex)


def _chunks(connection: Connection, table: Table) -> Iterator[list[Any]]:
    result = connection.execute(select(table), execution_options={"yield_per": CHUNK_ROWS})
    yield from (list(rows) for rows in result.mappings().partitions())


@dataclass(slots=True)
class _Checksum:
    rows: int = 0
    sum: int = 0

    def add(self, rows: list[Any]) -> None:
        self.rows += len(rows)
        for row in rows:
            line = orjson.dumps([_comparable(value) for value in row.values()], option=orjson.OPT_SORT_KEYS)
            self.sum += int.from_bytes(hashlib.sha256(line).digest())

    @property
    def hex(self) -> str:
        """The last 256 bits."""
        return f"{self.sum % 2**256:064x}"


def _comparable(value: Any) -> Any:
    # To the microsecond, and the same whether it is a whole second or not.
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def _set_sequence(target: Connection, table: Table) -> None:
    """Let PostgreSQL number new rows after those that came with a number; SQLite does so by itself."""
    column = table.autoincrement_column
    if column is None or target.dialect.name != "postgresql":
        return
    last = target.scalar(select(func.max(column)))
    if last is not None:
        values = {"table": table.name, "column": column.name, "last": last}
        target.execute(text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)"), values)


def _open_keys(target: Connection, keyring: KeyRing) -> int:
    opened = 0
    for project_id, sealed, base_url in target.execute(select(Project.id, Project.openai_api_key, Project.base_url)):
        try:
            keyring.open(sealed, row_id=project_id, origin=seal_origin(base_url))
        except SealBroken as exc:
            raise CopyRefused(
                f"the key of project {project_id} does not open: {exc}. Is ENCRYPTION_KEY right?"
            ) from exc
        opened += 1
    return opened
