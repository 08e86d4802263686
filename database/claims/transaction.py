"""One transaction on SQLite, with tokens and meters as what is done in it leaves them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from database.claims.statements import METER_COLUMNS
from llmproxy.admission import Grant
from llmproxy.limits.meters import Meter
from llmproxy.limits.reservations import RuledClaim

_FIND = """
SELECT in_flight, request_count, COALESCE(window_started_at, ''), COALESCE(rate_limit, ?), expires_at,
    tokens.id, project_id, openai_api_key, base_url, stream_usage, name
FROM tokens JOIN projects ON projects.id = tokens.project_id
WHERE token = ? AND tokens.is_active AND projects.is_active
    AND tokens.rules_version = ? AND projects.rules_version = ?
    AND projects.name = ? AND projects.default_tier IS ?
"""
_WRITE_CALLS = """
UPDATE tokens SET request_count = ?, window_started_at = ?, last_used_at = ?, in_flight = in_flight + ?
WHERE id = ?
"""
_RELEASE = "UPDATE tokens SET in_flight = in_flight - ? WHERE id = ?"
# What stood there when a period is over is kept for whoever alerts.
_WRITE_METER = """
UPDATE meters SET spent = ?1, reserved = ?2, bounds = ?3, mean = ?4, period_end = ?5,
    last_spent = CASE WHEN period_end = ?5 THEN last_spent ELSE spent END,
    last_end = CASE WHEN period_end = ?5 THEN last_end ELSE period_end END
WHERE id = ?6
"""


class FoundToken:
    """
    A token that was found as calls were judged by it, with those that are claimed in this transaction.

    Attributes:
        judged_by: The versions of its rules and meters and of its project's, the project's name, and its tier.
        in_flight: Running calls that have a reservation.
    """

    __slots__ = ("_count", "_expires", "_limit", "_reserved", "_used", "_window", "grant", "in_flight", "judged_by")

    def __init__(
        self,
        judged_by: tuple[int, int, str, str | None],
        in_flight: int,
        count: int,
        window: str,
        limit: int,
        expires: str,
        *granted: Any,
    ) -> None:
        self.judged_by = judged_by
        self.grant = Grant(*granted)
        self.in_flight = in_flight
        self._count, self._window, self._limit, self._expires = count, window, limit, expires
        self._used, self._reserved = "", 0

    def may_call(self, now: str, window_floor: str) -> bool:
        """Whether it makes one more call, by the clock and the hourly limit, as the plain claim has them."""
        return self._expires > now and (self._window <= window_floor or self._count < self._limit)

    def count(self, now: str, window_floor: str, *, reserves: bool) -> None:
        """It makes one."""
        if self._window > window_floor:
            self._count += 1
        else:
            self._count, self._window = 1, now
        self._used = now
        self.in_flight += reserves
        self._reserved += reserves

    def write(self, connection: sqlite3.Connection) -> None:
        """Bring the row to it, where it has made calls."""
        if self._used:
            values = (self._count, self._window, self._used, self._reserved, self.grant.token_id)
            connection.execute(_WRITE_CALLS, values)
            self._used, self._reserved = "", 0


class Transaction:
    """
    However many calls are claimed and settled in it, a token and a meter are read once and written once.

    Args:
        connection: In a transaction that has the write lock.
    """

    __slots__ = ("_found", "_tokens", "_unwritten", "connection")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._tokens: dict[str, FoundToken] = {}
        self._found: dict[str, Meter] = {}
        self._unwritten: dict[str, Meter] = {}

    def token(self, token_hash: str, asked: RuledClaim, default_limit: int) -> FoundToken | None:
        """None where it is not what the call was judged by, or has been revoked."""
        judged_by = (asked.version, asked.project_version, asked.project_name, asked.default_tier)
        found = self._tokens.get(token_hash)
        if found is None or found.judged_by != judged_by:
            row = self.connection.execute(_FIND, (default_limit, token_hash, *judged_by)).fetchone()
            if row is None:
                return None
            found = self._tokens[token_hash] = FoundToken(judged_by, *row)
        return found

    def release(self, token_id: str, count: int) -> None:
        """So many of its calls have ended."""
        for token in self._tokens.values():
            if token.grant.token_id == token_id:
                token.in_flight -= count
        self.connection.execute(_RELEASE, (count, token_id))

    def meters(self, ids: Sequence[str]) -> list[Meter]:
        """Those that are there, in the order of the ids."""
        found = self._found
        if unread := [meter_id for meter_id in ids if meter_id not in found]:
            rows = self.connection.execute(_select(len(unread)), unread)
            found.update((meter.id, meter) for meter in map(Meter._make, rows))
        return [found[meter_id] for meter_id in ids if meter_id in found]

    def change(self, meters: Iterable[Meter]) -> None:
        """Let meters that have been found be these, for all that is done from here on."""
        for meter in meters:
            before = self._unwritten.get(meter.id)
            if before is not None and before.period_end != meter.period_end:
                self.write()  # its row keeps what stood there at the end of a period
            self._found[meter.id] = self._unwritten[meter.id] = meter

    def write(self) -> None:
        """Bring the rows to what tokens and meters are."""
        for token in self._tokens.values():
            token.write(self.connection)
        if self._unwritten:
            values = [(m.spent, m.reserved, m.bounds, m.mean, m.period_end, m.id) for m in self._unwritten.values()]
            self.connection.executemany(_WRITE_METER, values)
            self._unwritten.clear()


@lru_cache(maxsize=64)
def _select(count: int) -> str:
    columns, places = ", ".join(METER_COLUMNS), ", ".join("?" * count)
    return f"SELECT {columns} FROM meters WHERE id IN ({places})"  # noqa: S608
