"""Claims on PostgreSQL: plain connections of their own and one prepared statement, a fifth of the ORM's pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from threading import BoundedSemaphore
from typing import Any

import gevent
import psycopg
from psycopg.errors import LockNotAvailable

from database.claims import postgres_ruled
from database.claims.postgres_ruled import LOOK, METERS_HELD, SETTLE
from database.claims.statements import ANY_RESERVED, HELD_BY, HOLDERS, SUCCESSOR
from llmproxy.admission import WINDOW, Connections, Grant, StoreUnavailable, TokenState
from llmproxy.limits.meters import Meter
from llmproxy.limits.reservations import STALE, Ruled, RuledClaim, Settlement, Verdict, claims_on, database_us

# How long a claim waits for its answer, and before that for a connection while nobody has an answer.
TIMEOUT_S = 5.0
# How long it waits for one while others have theirs: behind many that came at once.
MOST_QUEUED_S = 30.0

# SQLite's claim in one step less: here an UPDATE may join, and return what it joined. A claim that waited for
# another one's row looks at the row again, as that left it. Its commit is not waited for: a crash of the *server*
# may forget the counts of its last half second, and a hot token is not held up by the disk. Said within the
# statement, it holds for this transaction alone, and costs no round trip.
CLAIM = """
UPDATE tokens SET
    request_count = CASE WHEN window_started_at > %(window_floor)s THEN request_count + 1 ELSE 1 END,
    window_started_at = CASE WHEN window_started_at > %(window_floor)s THEN window_started_at ELSE %(now)s END,
    last_used_at = %(now)s
FROM projects
WHERE token = %(token)s AND tokens.is_active AND NOT tokens.is_ruled AND expires_at > %(now)s
    AND (window_started_at IS NULL OR window_started_at <= %(window_floor)s
         OR request_count < COALESCE(rate_limit, %(default_limit)s::integer))
    AND projects.id = tokens.project_id AND projects.is_active AND NOT projects.is_ruled
    AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
RETURNING tokens.id, project_id, openai_api_key, base_url, stream_usage, name
"""
# Sent when the answer to CLAIM was lost, which may have counted the request: that is known by the moment in the row,
# unless another of the token's came between. Then it counts twice: rather one too few than one too many.
CLAIM_AGAIN = CLAIM.replace(
    "request_count = CASE", "request_count = CASE WHEN last_used_at = %(now)s THEN request_count"
).replace("(window_started_at IS NULL", "(last_used_at = %(now)s OR window_started_at IS NULL")
_SUCCESSOR = SUCCESSOR.replace(":token", "%(token)s").replace(":now", "%(now)s")
_HELD_BY = HELD_BY.replace(":worker", "%(worker)s")
_DROP_SETTLED = """
DELETE FROM reservations WHERE request_id = ANY(%(ids)s::text[]) AND state = 'settled' RETURNING 1
"""
_RESERVED_AMONG = "SELECT request_id FROM reservations WHERE request_id = ANY(%(ids)s::text[])"


class PostgresTokenStore:
    """
    Claims over a few connections that nobody else uses, each a transaction of its own in one round trip.

    Args:
        connect: Opens a connection (`database.postgres.connector`).
        pool_size: Connections at most. Few suffice, for a claim holds one for a millisecond.
    """

    def __init__(
        self, connect: Callable[..., psycopg.Connection[Any]], *, default_limit: int, pool_size: int
    ) -> None:
        self._connect = connect
        self._default_limit = default_limit
        # A cursor stands for its connection. The one used last is used next.
        self._idle: list[psycopg.Cursor[Any]] = []
        self._free = BoundedSemaphore(pool_size)
        self._busy = 0
        self._limit = pool_size
        self._answered = 0
        # The server's clock as it was told last, and when.
        self._clock: tuple[int, float] | None = None

    def claim(self, token_hash: str, now: datetime) -> Grant | None:
        """Count one request if the token may make it; see CLAIM."""
        values = {
            "token": token_hash,
            "now": now,
            "window_floor": now - WINDOW,
            "default_limit": self._default_limit,
        }
        rows = self._execute(CLAIM, values, again=CLAIM_AGAIN)
        return Grant(*rows[0]) if rows else None

    def state(self, token_hash: str) -> TokenState | None:
        """The token as it stands; see STATE."""
        rows = self._execute(LOOK, {"token": token_hash, "default_limit": self._default_limit})
        if not rows:
            return None
        state, is_ruled = rows[0][:8], rows[0][8]
        if not is_ruled:
            return TokenState(*state)
        *found, meters, now_us = rows[0][9:]
        self._clock = now_us, time.monotonic()
        return replace(TokenState(*state), ruled=Ruled._make([*found, _meters(meters), *self._clock]))

    def claim_ruled(self, token_hash: str, asked: RuledClaim, now: datetime) -> tuple[Grant | None, Verdict]:
        """Count and hold a call, by the server's clock; see `database.claims.postgres_ruled`."""
        values = {"token": token_hash, "default_limit": self._default_limit}
        values |= postgres_ruled.claim_values(asked, now)
        rows = self._execute(postgres_ruled.CLAIM, values, again=postgres_ruled.CLAIM_AGAIN)
        if not rows:
            return None, STALE
        *granted, in_flight, _, _, _, is_admitted, now_us, found = rows[0]
        self._clock = now_us, time.monotonic()
        meters = _meters(found)
        if len(meters) < len(asked.demands):
            return None, STALE
        grant = Grant(*granted) if is_admitted else None
        return grant, Verdict(is_admitted, False, meters, claims_on(meters, asked.demands), in_flight, now_us)

    def settle(self, settlement: Settlement) -> bool:
        """End a reservation; see `database.claims.postgres_ruled`."""
        meters = settlement.meters
        if meters is None or self._clock is None:
            rows = self._execute(METERS_HELD, {"request_id": settlement.request_id})
            if not rows:
                # Its claim may still take place before the next statement, which would end it without its meters.
                return False
            meters = tuple(Meter(*row[:-1]) for row in rows if row[0] is not None)
            self._clock = rows[0][-1], time.monotonic()
        now_us = database_us(*self._clock, time.monotonic())
        return bool(self._execute(SETTLE, postgres_ruled.settle_values(settlement, meters, now_us)))

    def settle_together(self, settlements: Sequence[Settlement]) -> int:
        """End the first one: two in one transaction would wait for each other's rows with others that do the same."""
        self.settle(settlements[0])
        return 1

    def successor(self, token_hash: str, now: datetime) -> str | None:
        """See SUCCESSOR."""
        rows = self._execute(_SUCCESSOR, {"token": token_hash, "now": now})
        return rows[0][0] if rows else None

    def held_by(self, worker: str) -> list[str]:
        """Request ids of what is held for running calls of a worker."""
        return [row[0] for row in self._execute(_HELD_BY, {"worker": worker})]

    def holders(self) -> list[tuple[str, str]]:
        """Nodes and workers for whose calls something is held."""
        return [(node, worker) for node, worker in self._execute(HOLDERS, {})]

    def any_reserved(self) -> bool:
        """Whether any call has a reservation."""
        return bool(self._execute(ANY_RESERVED, {})[0][0])

    def drop_settled(self, request_ids: list[str]) -> None:
        """Delete reservations that are settled."""
        if request_ids:
            self._execute(_DROP_SETTLED, {"ids": request_ids})

    def reserved_among(self, request_ids: list[str]) -> list[str]:
        """Those of the request ids that have a reservation."""
        return [row[0] for row in self._execute(_RESERVED_AMONG, {"ids": request_ids})] if request_ids else []

    def connections(self) -> Connections:
        """What claims hold, and what lies ready for them."""
        return Connections(self._busy, len(self._idle), self._limit)

    def close(self) -> None:
        """Close the connections that are idle. The next claim opens another."""
        while self._idle:
            _close(self._idle.pop())

    def _execute(self, statement: str, values: dict[str, Any], *, again: str | None = None) -> list[tuple[Any, ...]]:
        """
        Args:
            again: What to send when the answer was lost, and the statement may have taken place; None for the same.
        """
        if not self._free.acquire(blocking=False):
            self._queue()
        self._busy += 1
        try:
            return self._answer(statement, values, again or statement)
        except psycopg.Error as exc:
            raise StoreUnavailable(type(exc).__name__) from exc
        finally:
            self._busy -= 1
            self._free.release()

    def _queue(self) -> None:
        """
        Wait for a connection.

        A queue that moves is no outage: hundreds of calls at once on one budget wait for its row one after the other,
        and none of them may be refused because the database is slow at that.
        """
        latest_s, answered = time.monotonic() + MOST_QUEUED_S, self._answered
        while not self._free.acquire(timeout=TIMEOUT_S):
            if self._answered == answered or time.monotonic() >= latest_s:
                raise StoreUnavailable("every connection is busy")
            answered = self._answered

    def _answer(self, statement: str, values: dict[str, Any], again: str) -> list[tuple[Any, ...]]:
        if self._idle:
            try:
                return self._run(self._idle.pop(), statement, values)
            except LockNotAvailable:
                raise
            except psycopg.OperationalError:
                # It is from before the server's restart, and so are the others.
                self.close()
                statement = again
        return self._run(self._connect(autocommit=True).cursor(), statement, values)

    def _run(self, cursor: psycopg.Cursor[Any], statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            with gevent.Timeout(TIMEOUT_S, StoreUnavailable("no answer in time")):
                rows = cursor.execute(statement, values).fetchall()
        except BaseException:
            # Whatever it is in the middle of, nobody else shall have it.
            _close(cursor)
            raise
        self._answered += 1
        self._idle.append(cursor)
        return rows


def _meters(rows: list[list[Any]] | None) -> tuple[Meter, ...]:
    return tuple(Meter(*row) for row in rows or ())


def _close(cursor: psycopg.Cursor[Any]) -> None:
    with suppress(psycopg.Error):
        cursor.connection.close()
