"""Claims on SQLite, on a plain driver cursor: 15 µs instead of an ORM's 200."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from sqlalchemy.engine import make_url

from database.claims import sqlite_ruled
from database.claims.statements import ANY_RESERVED, CLAIM, HELD_BY, HOLDERS, METERS_OF, STATE, SUCCESSOR
from database.claims.together import MOST, Together
from database.claims.transaction import Transaction
from database.engine import BUSY_TIMEOUT_S, set_pragmas
from llmproxy.admission import WINDOW, Connections, Grant, StoreUnavailable, TokenState
from llmproxy.limits.meters import Meter
from llmproxy.limits.reservations import Ruled, RuledClaim, Settlement, Verdict
from llmproxy.times import microseconds

_RESERVED_AMONG = "SELECT request_id FROM reservations WHERE request_id IN (SELECT value FROM json_each(:ids))"
_DROP_SETTLED = """
DELETE FROM reservations WHERE request_id IN (SELECT value FROM json_each(:ids)) AND state = 'settled' RETURNING 1
"""

# Of 2026-11-26 18:05:00.000000, for WINDOW is a whole hour.
_HOUR_CHARS = len("2026-11-26 18")

T = TypeVar("T")


class SqliteTokenStore:
    """
    One connection serves all greenlets of a process: a statement never yields, and each is a transaction of
    its own. A lock held by another process is waited for without stopping the other greenlets.
    """

    def __init__(self, database_url: str, *, default_limit: int) -> None:
        self._path = make_url(database_url).database or ":memory:"
        self._default_limit = default_limit
        self._connection: sqlite3.Connection | None = None
        self._together = Together(self._transaction)

    def claim(self, token_hash: str, now: datetime) -> Grant | None:
        """Count one request if the token may make it; see CLAIM."""
        values = self._values(token_hash, now)
        if self._together.has_company():
            rows = self._together.do(lambda shared: shared.connection.execute(CLAIM, values).fetchall())
        else:
            rows = self._execute(CLAIM, values)
        return Grant(*rows[0]) if rows else None

    def claim_ruled(self, token_hash: str, asked: RuledClaim, now: datetime) -> tuple[Grant | None, Verdict]:
        """Count and hold a call; see `database.claims.sqlite_ruled`."""
        values, now_us = self._values(token_hash, now), microseconds(now)
        return self._shared(lambda transaction: sqlite_ruled.claim(transaction, asked, values, now_us))

    def settle(self, settlement: Settlement) -> bool:
        """End a reservation; see `database.claims.sqlite_ruled`."""
        return self._shared(lambda transaction: bool(sqlite_ruled.settle(transaction, [settlement], now_us())))

    def settle_together(self, settlements: Sequence[Settlement]) -> int:
        """End many reservations in one transaction."""
        first = settlements[:MOST]
        self._shared(lambda transaction: sqlite_ruled.settle(transaction, first, now_us()))
        return len(first)

    def held_by(self, worker: str) -> list[str]:
        """Request ids of what is held for running calls of a worker."""
        return [row[0] for row in self._execute(HELD_BY, {"worker": worker})]

    def holders(self) -> list[tuple[str, str]]:
        """Nodes and workers for whose calls something is held."""
        return self._execute(HOLDERS, {})

    def any_reserved(self) -> bool:
        """Whether any call has a reservation."""
        return bool(self._execute(ANY_RESERVED, {})[0][0])

    def drop_settled(self, request_ids: list[str]) -> None:
        """Delete reservations that are settled."""
        if request_ids:
            self._execute(_DROP_SETTLED, {"ids": orjson.dumps(request_ids).decode()})

    def reserved_among(self, request_ids: list[str]) -> list[str]:
        """Those of the request ids that have a reservation."""
        values = {"ids": orjson.dumps(request_ids).decode()}
        return [row[0] for row in self._execute(_RESERVED_AMONG, values)] if request_ids else []

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; see STATE."""
        rows = self._execute(STATE, {"token": token_hash, "default_limit": self._default_limit})
        if not rows:
            return None
        token_id, project_id, active, project_active, expires_at, count, window, limit, is_ruled, *found = rows[0]
        return TokenState(
            token_id=token_id,
            project_id=project_id,
            is_active=bool(active),
            project_is_active=bool(project_active),
            expires_at=_from_sqlite_time(expires_at),
            request_count=count,
            window_started_at=_from_sqlite_time(window) if window else None,
            rate_limit=limit,
            ruled=self._ruled(token_id, project_id, *found) if is_ruled else None,
        )

    def _ruled(self, token_id: str, project_id: str, *found: Any) -> Ruled:
        meters = self._execute(METERS_OF, {"token_id": token_id, "project_id": project_id})
        return Ruled._make([*found, tuple(Meter(*row) for row in meters), now_us(), time.monotonic()])

    def successor(self, token_hash: str, now: datetime) -> str | None:
        """See SUCCESSOR."""
        rows = self._execute(SUCCESSOR, {"token": token_hash, "now": _sqlite_time(now)})
        return rows[0][0] if rows else None

    def connections(self) -> Connections:
        """The one. No statement yields, so nobody ever finds it busy."""
        return Connections(busy=0, idle=int(self._connection is not None), limit=1)

    def close(self) -> None:
        """Close the connection, if there is one. The next claim opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _values(self, token_hash: str, now: datetime) -> dict[str, Any]:
        return {
            "token": token_hash,
            "now": (text := _sqlite_time(now)),
            "window_floor": _hour_before(text[:_HOUR_CHARS]) + text[_HOUR_CHARS:],
            "default_limit": self._default_limit,
        }

    def _execute(self, statement: str, values: dict[str, Any]) -> list[Any]:
        if self._connection is not None:
            # Nearly always this is all there is to do, and a `with` more would be seen in its time.
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.OperationalError:
                pass
        return self._when_free(lambda connection: connection.execute(statement, values).fetchall())

    def _shared(self, work: Callable[[Transaction], T]) -> T:
        """All of the work or nothing, in a transaction that it may share; it must not yield."""
        return self._together.do(work) if self._together.has_company() else self._transaction(work)

    def _transaction(self, work: Callable[[Transaction], T]) -> T:
        """All of the work or nothing; it must not yield."""
        transaction = Transaction(self._when_free(_begin))
        try:
            done = work(transaction)
            transaction.write()
            transaction.connection.execute("COMMIT")
        except BaseException as exc:
            # Whatever it is in the middle of ends with the connection.
            self.close()
            if isinstance(exc, sqlite3.Error):
                raise StoreUnavailable(type(exc).__name__) from exc
            raise
        return done

    def _when_free(self, statement: Callable[[sqlite3.Connection], T]) -> T:
        """What a statement gives, once no other process has the lock that it needs."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return statement(self._connection)
            except sqlite3.OperationalError as exc:
                busy = (exc.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy:
                    # One opened while the disk was read-only would stay so when the disk is back.
                    self.close()
                if not busy or time.monotonic() > deadline:
                    raise StoreUnavailable(exc.sqlite_errorname) from exc
                time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311
            except sqlite3.Error as exc:
                raise StoreUnavailable(type(exc).__name__) from exc

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(self._path)}?mode=rw", uri=True, timeout=0, isolation_level=None, check_same_thread=False
        )
        set_pragmas(connection, synchronous="NORMAL")
        return connection


def _begin(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN IMMEDIATE")
    return connection


def now_us() -> int:
    """This node's clock, which is the database's."""
    return time.time_ns() // 1000


@lru_cache(maxsize=4)
def _hour_before(day_and_hour: str) -> str:
    # A time is written down in as long as a row is found, and a claim needs this one and that of WINDOW ago.
    return _sqlite_time(datetime.fromisoformat(day_and_hour) - WINDOW)[:_HOUR_CHARS]


def _sqlite_time(moment: datetime) -> str:
    """The text that SQLAlchemy's SQLite dialect stores for a time in UTC: sorts as the times do."""
    return moment.isoformat(" ", "microseconds")[:26]


def _from_sqlite_time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
