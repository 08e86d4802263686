"""
The database behind a test: SQLite's file in its data directory, or with `--database postgresql` one on a server of
the tests' own.

A data directory has one database: whoever starts over the same directory again finds what was left there. It is the
copy of one that was migrated once, for migrating takes longer than most tests.
"""

import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import psycopg
from psycopg.rows import dict_row

from database import schema
from database.engine import open_engine
from models import db, schema_floor
from tests.postgres import PostgresServer, shared_postgres

SQLITE, POSTGRESQL = "sqlite", "postgresql"
WAIT_S = 60.0  # for whoever writes at that moment


class Kind(Protocol):
    """A kind of database that a run of the tests may choose."""

    def database_of(self, data_dir: Path, *, empty: bool) -> str:
        """See the function of this name."""

    def drop_below(self, directory: Path) -> None:
        """Drop what data directories in `directory` have outside of them."""


class Sqlite:
    """A file where the proxy looks by itself."""

    def __init__(self) -> None:
        self._migrated: bytes | None = None

    def database_of(self, data_dir: Path, *, empty: bool) -> str:
        file = data_dir / "llm-proxy.db"
        if not empty and not file.exists():
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(self._template())
        return f"sqlite:///{quote(str(data_dir))}/llm-proxy.db"

    def drop_below(self, directory: Path) -> None:
        """They lie in the directory, which pytest removes."""

    def _template(self) -> bytes:
        if self._migrated is None:
            with tempfile.TemporaryDirectory() as directory:
                migrate(f"sqlite:///{directory}/template.db")
                self._migrated = Path(directory, "template.db").read_bytes()
        return self._migrated


class Postgresql:
    """
    A database on the tests' server for each data directory. Skips a test that asks where there is no server.

    A database that is no longer used is emptied for the next one: making and dropping one takes ten times as long.
    """

    def __init__(self) -> None:
        self._template: str | None = None
        self._urls: dict[Path, str] = {}
        self._unused: list[str] = []

    def database_of(self, data_dir: Path, *, empty: bool) -> str:
        server = shared_postgres()
        if data_dir not in self._urls:
            self._urls[data_dir] = server.new_database() if empty else self._migrated(server)
        return self._urls[data_dir]

    def drop_below(self, directory: Path) -> None:
        for data_dir in [path for path in self._urls if path.is_relative_to(directory)]:
            url = self._urls.pop(data_dir)
            if _emptied(url):
                self._unused.append(url)
            else:
                shared_postgres().drop_database(url)

    def _migrated(self, server: PostgresServer) -> str:
        return self._unused.pop() if self._unused else server.new_database(self._template_on(server))

    def _template_on(self, server: PostgresServer) -> str:
        if self._template is None:
            url = server.new_database()
            migrate(url)
            self._template = url
        return self._template


def _emptied(url: str) -> bool:
    """Empty a database on PostgreSQL. False where its schema is not the newest, or somebody holds on to it."""
    end_the_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    end_the_others += "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    full = [table.name for table in reversed(db.metadata.sorted_tables) if table is not schema_floor]
    deletes = [f"DELETE FROM {name}" for name in full]
    from_1_again = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
    try:
        with psycopg.connect(url, options="-c lock_timeout=2s") as connection:
            found = connection.execute("SELECT version_num, oldest FROM alembic_version, schema_floor").fetchone()
            connection.execute("; ".join([end_the_others, *deletes, from_1_again]))
    except psycopg.Error:
        return False
    return found == (schema.HEAD, declared_floor())


def declared_floor(migration: Path | None = None) -> str:
    """The oldest revision whose code may go on after a migration, by default the newest."""
    newest = next((schema.MIGRATIONS / "versions").glob(f"{schema.HEAD}*.py"))
    found = re.search(r'^oldest = "(.+)"$', (migration or newest).read_text(), re.MULTILINE)
    assert found
    return found[1]


_chosen: Kind = Sqlite()


def choose(name: str) -> None:
    """Take SQLITE or POSTGRESQL from here on."""
    global _chosen
    _chosen = Postgresql() if name == POSTGRESQL else Sqlite()


def database_of(data_dir: Path, *, empty: bool = False) -> str:
    """
    The URL of a data directory's database, made where there is none yet.

    Args:
        empty: Without tables, as before the first start; with SQLite the file itself is left to whoever opens it.
    """
    return _chosen.database_of(data_dir, empty=empty)


def drop_below(directory: Path) -> None:
    """Drop the databases of all data directories in `directory`; nobody may use them any more."""
    _chosen.drop_below(directory)


def migrate(url: str) -> None:
    """Bring a database to the newest schema."""
    engine = open_engine(url)
    with tempfile.TemporaryDirectory() as directory:
        schema.migrate_to_head(engine, Path(directory))
    engine.dispose()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else can write to the database for the length of a `with` block."""
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE tokens, meters, reservations IN SHARE MODE")
            yield
        return
    with closing(sqlite3.connect(url.replace("sqlite:///", "file:"), uri=True, timeout=WAIT_S)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


def execute(url: str, statement: str) -> list[dict[str, Any]]:
    """What a statement finds, on a connection of its own: rows as the driver gives them, no types of ours."""
    if url.startswith("postgresql"):
        with psycopg.connect(url, row_factory=dict_row) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []
    with closing(sqlite3.connect(url.replace("sqlite:///", "file:"), uri=True, timeout=WAIT_S)) as file, file:
        file.row_factory = sqlite3.Row
        return [dict(row) for row in file.execute(statement)]
