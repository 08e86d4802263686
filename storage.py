"""
The database underneath the tables: connections, write transactions, migrations, and the claim.

SQLite runs in WAL mode. What operators change is synced to disk before they are told (``synchronous=FULL``);
a claim is not (``NORMAL``): a power cut may forget the last few counts, never a token or a revocation.

A statement in SQLite stops the whole process, so a write transaction never spans anything that yields.
"""

from __future__ import annotations

import fcntl
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from flask import Flask
from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from llmproxy.admission import WINDOW, Claim, StoreUnavailable, TokenState
from models import db

BUSY_TIMEOUT_S = 5.0
BACKGROUND_BUSY_MS = 50
# SQLite's own checkpoint comes within somebody's commit, and stops that process until the disk has answered. So the
# background work makes them, once a second and in a thread; only where it does not does the log grow to 64 MB.
WAL_PAGES = 16_000
MIGRATIONS = Path(__file__).parent / "migrations"
# Revisions are numbered, so the last file is the newest schema.
SCHEMA_HEAD = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]
MIGRATION_LOCK_ID = 7_236_118_404  # any number that nobody else locks in the same PostgreSQL database

# Everything that admits a request, and its count, in one statement. `window_floor` is an hour ago: a window
# that began no later is over. RETURNING cannot name another table in SQLite, but it can ask one.
CLAIM = """
UPDATE tokens SET
    request_count = CASE WHEN window_started_at > :window_floor THEN request_count + 1 ELSE 1 END,
    window_started_at = CASE WHEN window_started_at > :window_floor THEN window_started_at ELSE :now END,
    last_used_at = :now
WHERE token = :token AND is_active AND expires_at > :now
    AND (window_started_at IS NULL OR window_started_at <= :window_floor
         OR request_count < COALESCE(rate_limit, :default_limit))
    AND EXISTS (SELECT 1 FROM projects WHERE projects.id = tokens.project_id AND projects.is_active)
RETURNING id, project_id,
    (SELECT openai_api_key FROM projects WHERE projects.id = tokens.project_id),
    (SELECT base_url FROM projects WHERE projects.id = tokens.project_id),
    (SELECT stream_usage FROM projects WHERE projects.id = tokens.project_id)
"""
STATE = """
SELECT tokens.id, tokens.project_id, tokens.is_active, projects.is_active, tokens.expires_at,
    tokens.request_count, tokens.window_started_at, COALESCE(tokens.rate_limit, :default_limit)
FROM tokens JOIN projects ON projects.id = tokens.project_id WHERE tokens.token = :token
"""


def engine_url(database_url: str) -> str:
    """The URL for SQLAlchemy: PostgreSQL by psycopg 3, which is cooperative under gevent."""
    scheme, rest = database_url.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else database_url


def init_app(app: Flask, database_url: str) -> None:
    """Tie the tables to `app`, with connections set up as this module's docstring says."""
    app.config["SQLALCHEMY_DATABASE_URI"] = engine_url(database_url)
    is_sqlite = database_url.startswith("sqlite")
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = (
        {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
        if is_sqlite
        else {"pool_size": 5, "max_overflow": 15, "pool_timeout": 5, "connect_args": {"connect_timeout": 5}}
    )
    db.init_app(app)
    if is_sqlite:
        with app.app_context():
            _listen_on_sqlite(db.engine)


def _listen_on_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own BEGIN comes too late and cannot be IMMEDIATE; `begin` below sends ours.
        connection.isolation_level = None
        _set_pragmas(connection, synchronous="FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_pragmas(connection: sqlite3.Connection, *, synchronous: str) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    connection.execute("PRAGMA foreign_keys=ON")


@contextmanager
def write_transaction() -> Iterator[None]:
    """
    All or nothing: commit at the end of the block, or roll back what it raised.

    Takes SQLite's write lock at once, so that what the block reads cannot change before it writes.
    """
    db.session.rollback()
    db.session.connection(execution_options={"writes": True})
    try:
        yield
        db.session.commit()
    except BaseException:
        db.session.rollback()
        raise


@contextmanager
def background_transaction(engine: Engine, *, busy_ms: int = BACKGROUND_BUSY_MS) -> Iterator[Connection]:
    """
    All or nothing, for work that is done again when a power cut takes it back: SQLite does not wait for the disk.

    Args:
        busy_ms: How long to wait where another process holds SQLite's write lock; OperationalError then. The
            whole process stands still meanwhile.
    """
    with engine.connect().execution_options(writes=True) as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.execute("PRAGMA synchronous=NORMAL")
        driver.execute(f"PRAGMA busy_timeout={busy_ms}")
        try:
            with connection.begin():
                yield connection
        except BaseException:
            # A COMMIT that failed may have left its transaction open. Nobody else shall get this connection.
            connection.invalidate()
            raise
        driver.execute("PRAGMA synchronous=FULL")
        driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")


def checkpoint(database_url: str) -> None:
    """Move what SQLite's log holds into the database file. Takes as long as the disk does; nobody is kept waiting."""
    with closing(sqlite3.connect(make_url(database_url).database or ":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def migrate_to_head(app: Flask, data_dir: Path) -> None:
    """Bring the database to the newest schema; one process at a time, the others wait and find it done."""
    with app.app_context(), (data_dir / ".migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if schema_version() == SCHEMA_HEAD:
            return
        # Alembic takes a third of a second to import, and most starts have nothing to migrate.
        from flask_migrate import Migrate, upgrade

        Migrate(app, db, directory=str(MIGRATIONS), render_as_batch=True)
        upgrade()
        db.engine.dispose()


def schema_version() -> str | None:
    """The newest migration that the database has seen; None for an empty database."""
    with db.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return version


def is_reachable() -> bool:
    """True when the database answers a query."""
    try:
        with db.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM projects LIMIT 1")
    except SQLAlchemyError:
        return False
    return True


class SqliteTokenStore:
    """
    Claims on a plain driver cursor: 15 µs instead of an ORM's 200.

    One connection serves all greenlets of a process: a statement never yields, and each is a transaction of
    its own. A lock held by another process is waited for without stopping the other greenlets.
    """

    def __init__(self, database_url: str, *, default_limit: int) -> None:
        self._path = make_url(database_url).database or ":memory:"
        self._default_limit = default_limit
        self._connection: sqlite3.Connection | None = None

    def claim(self, token_hash: str, now: datetime) -> Claim | None:
        """Count one request if the token may make it; see CLAIM."""
        rows = self._execute(
            CLAIM,
            {
                "token": token_hash,
                "now": _sqlite_time(now),
                "window_floor": _sqlite_time(now - WINDOW),
                "default_limit": self._default_limit,
            },
        )
        return Claim(*rows[0]) if rows else None

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; see STATE."""
        rows = self._execute(STATE, {"token": token_hash, "default_limit": self._default_limit})
        if not rows:
            return None
        token_id, project_id, active, project_active, expires_at, count, window, limit = rows[0]
        return TokenState(
            token_id=token_id,
            project_id=project_id,
            is_active=bool(active),
            project_is_active=bool(project_active),
            expires_at=_from_sqlite_time(expires_at),
            request_count=count,
            window_started_at=_from_sqlite_time(window) if window else None,
            rate_limit=limit,
        )

    def _execute(self, statement: str, values: dict[str, Any]) -> list[Any]:
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.OperationalError as exc:
                busy = (exc.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() > deadline:
                    raise StoreUnavailable(exc.sqlite_errorname) from exc
                time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311
            except sqlite3.Error as exc:
                raise StoreUnavailable(type(exc).__name__) from exc

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        _set_pragmas(connection, synchronous="NORMAL")
        return connection


class PostgresTokenStore:
    """Claims over the application's connection pool, each a transaction of its own in one round trip."""

    def __init__(self, engine: Engine, *, default_limit: int) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._default_limit = default_limit

    def claim(self, token_hash: str, now: datetime) -> Claim | None:
        """Count one request if the token may make it; see CLAIM."""
        rows = self._execute(
            _CLAIM_POSTGRES,
            {
                "token": token_hash,
                "now": now,
                "window_floor": now - WINDOW,
                "default_limit": self._default_limit,
            },
        )
        return Claim(*rows[0]) if rows else None

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; see STATE."""
        rows = self._execute(_STATE_POSTGRES, {"token": token_hash, "default_limit": self._default_limit})
        return TokenState(*rows[0]) if rows else None

    def _execute(self, statement: str, values: dict[str, Any]) -> list[Any]:
        try:
            return self._run(statement, values)
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise StoreUnavailable(type(exc.orig).__name__) from exc
        except SQLAlchemyError as exc:
            raise StoreUnavailable(type(exc).__name__) from exc
        # The pool held a connection from before the server's restart; it has thrown all of them away now.
        try:
            return self._run(statement, values)
        except SQLAlchemyError as exc:
            raise StoreUnavailable(type(exc).__name__) from exc

    def _run(self, statement: str, values: dict[str, Any]) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.exec_driver_sql(statement, values).fetchall())


def _named_for_psycopg(statement: str) -> str:
    for name in ("token", "now", "window_floor", "default_limit"):
        cast = {"now": "::timestamptz", "window_floor": "::timestamptz", "default_limit": "::integer"}.get(name, "")
        statement = statement.replace(f":{name}", f"%({name})s{cast}")
    return statement


_CLAIM_POSTGRES = _named_for_psycopg(CLAIM)
_STATE_POSTGRES = _named_for_psycopg(STATE)


def _sqlite_time(moment: datetime) -> str:
    """The text that SQLAlchemy's SQLite dialect stores for a time in UTC: sorts as the times do."""
    return moment.isoformat(" ", "microseconds")[:26]


def _from_sqlite_time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def token_store(app: Flask, database_url: str, *, default_limit: int) -> SqliteTokenStore | PostgresTokenStore:
    """The store that admits requests, for whichever database the settings name."""
    if database_url.startswith("sqlite"):
        return SqliteTokenStore(database_url, default_limit=default_limit)
    with app.app_context():
        return PostgresTokenStore(db.engine, default_limit=default_limit)
