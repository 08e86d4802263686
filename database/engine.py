"""
The engine underneath the tables: connections set up for what this product does, and its write transactions.

SQLite runs in WAL mode. What operators change is synced to disk before they are told (``synchronous=FULL``);
a claim is not (``NORMAL``): a power cut may forget the last few counts, never a token or a revocation. The same
holds on PostgreSQL, by ``synchronous_commit``.

A statement in SQLite stops the whole process, so a write transaction never spans anything that yields; the lock
before it is waited for outside of SQLite, and questions outside of one are asked in threads (`sqlite_reads`).
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

from sqlalchemy import Connection, QueuePool, create_engine, event, orm
from sqlalchemy import Engine as Engine  # by this name for the floors above
from sqlalchemy.engine import make_url

from database import sqlite_reads
from database.errors import DatabaseError, NoAnswer
from llmproxy.admission import Connections

# Where rows are read and changed. Flask-SQLAlchemy's, which each request has its own of, is one too.
Session = orm.Session | orm.scoped_session[Any]

BUSY_TIMEOUT_S = 5.0
POOL_SIZE = 5
POOL_TIMEOUT_S = 5.0
BACKGROUND_BUSY_MS = 50
# SQLite's own checkpoint comes within somebody's commit, and stops that process until the disk has answered. So the
# background work makes them, once a second and in a thread; only where it does not does the log grow to 64 MB.
WAL_PAGES = 16_000


def engine_options(database_url: str, *, pool_size: int = POOL_SIZE, prepare: bool = True) -> dict[str, Any]:
    """
    What an engine is made of, by SQLAlchemy's names; `set_up` does the rest.

    Args:
        pool_size: Connections to PostgreSQL that everything but the claims may hold at a time.
        prepare: See `database.postgres.connector`.
    """
    if database_url.startswith("sqlite"):
        return {"url": database_url, "connect_args": {"timeout": BUSY_TIMEOUT_S, "factory": sqlite_reads.Connection}}
    # SQLite needs none of it, and starts sooner.
    from database.postgres import ImpatientConnection, connector

    return {
        # The URL is psycopg's to read: SQLAlchemy would not take several hosts.
        "url": "postgresql+psycopg://",
        "creator": connector(database_url, prepare=prepare, kind=ImpatientConnection),
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        # The last one that was given back is in use again first, so that the others show what is needed.
        "pool_use_lifo": True,
        # A restarted server costs nobody an error: a connection from before it is found dead, and replaced.
        "pool_pre_ping": True,
    }


def set_up(engine: Engine) -> Engine:
    """The engine, whose connections from here on are as this module's docstring says."""
    if engine.dialect.name == "sqlite":
        _listen_on_sqlite(engine)
    return engine


def open_engine(database_url: str) -> Engine:
    """An engine of its own, for what has no application around it."""
    return set_up(create_engine(**engine_options(database_url)))


def _listen_on_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own BEGIN comes too late and cannot be IMMEDIATE; `begin` below sends ours.
        connection.isolation_level = None
        set_pragmas(connection, synchronous="FULL")
        # SQLite's own knows the case of ASCII alone; PostgreSQL's knows that of its database's locale.
        connection.create_function("lower", 1, _lower, deterministic=True)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("writes", False):
            _begin_to_write(connection, options.get("busy_ms", BUSY_TIMEOUT_S * 1000))
        else:
            connection.exec_driver_sql("BEGIN")


def _lower(value: object) -> str | None:
    return None if value is None else str(value).lower()


def _begin_to_write(connection: Connection, busy_ms: float) -> None:
    """Take SQLite's write lock. Another process's is waited for out here: in SQLite, every greenlet would wait."""
    driver = cast(sqlite3.Connection, connection.connection.driver_connection)
    deadline = time.monotonic() + busy_ms / 1000
    driver.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                driver.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                busy = exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise NoAnswer("BEGIN IMMEDIATE", None, exc) from exc
            time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311
    finally:
        driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}")


def set_pragmas(connection: sqlite3.Connection, *, synchronous: str) -> None:
    """Set up a driver's connection as this module's docstring says; `synchronous` is FULL or NORMAL."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
    connection.execute("PRAGMA foreign_keys=ON")


@contextmanager
def write_transaction(session: Session) -> Iterator[None]:
    """
    All or nothing: commit at the end of the block, or roll back what it raised.

    Takes SQLite's write lock at once, so that what the block reads cannot change before it writes. Another process's
    is waited for during BUSY_TIMEOUT_S; `database.errors.NoAnswer` then.
    """
    session.rollback()
    session.connection(execution_options={"writes": True})
    try:
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise


@contextmanager
def background_transaction(engine: Engine, *, busy_ms: int = BACKGROUND_BUSY_MS) -> Iterator[Connection]:
    """
    All or nothing, for work that is done again when a power cut takes it back: SQLite does not wait for the disk.

    Args:
        busy_ms: How long to wait where another process holds SQLite's write lock; NoAnswer then.
    """
    with engine.connect().execution_options(writes=True, busy_ms=busy_ms) as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        driver.execute("PRAGMA synchronous=NORMAL")
        try:
            with connection.begin():
                yield connection
        except BaseException:
            # A COMMIT that failed may have left its transaction open. Nobody else shall get this connection.
            connection.invalidate()
            raise
        driver.execute("PRAGMA synchronous=FULL")


def checkpoint(database_url: str) -> None:
    """Move what SQLite's log holds into the database file. Takes as long as the disk does; nobody is kept waiting."""
    with closing(sqlite3.connect(make_url(database_url).database or ":memory:", isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def is_reachable(engine: Engine) -> bool:
    """True when the database answers a query."""
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM projects LIMIT 1")
    except DatabaseError:
        return False
    return True


def connections(engine: Engine) -> Connections | None:
    """What the pool of connections to PostgreSQL holds; None on SQLite, which has none."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return None
    return Connections(pool.checkedout(), pool.checkedin(), pool.size())
