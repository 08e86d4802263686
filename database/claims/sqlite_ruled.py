"""
Claims and settlements of tokens with rules or meters on SQLite: within one transaction that has the write lock.

Nothing here may yield: whoever yields within a transaction stops the process as soon as another greenlet begins one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from database.claims.statements import METER_COLUMNS
from llmproxy.admission import Grant
from llmproxy.limits.meters import Claimed, Meter, admitted
from llmproxy.limits.periods import period_ends
from llmproxy.limits.reservations import STALE, Hold, RuledClaim, Settlement, State, Verdict, ended, holds_of, judged

_MAY_CALL = """
SELECT tokens.id, project_id, openai_api_key, base_url, stream_usage, name, in_flight
FROM tokens JOIN projects ON projects.id = tokens.project_id
WHERE token = :token AND tokens.is_active AND projects.is_active AND expires_at > :now
    AND tokens.rules_version = :version AND projects.rules_version = :project_version
    AND (window_started_at IS NULL OR window_started_at <= :window_floor
         OR request_count < COALESCE(rate_limit, :default_limit))
"""
_COUNT = """
UPDATE tokens SET
    request_count = CASE WHEN window_started_at > :window_floor THEN request_count + 1 ELSE 1 END,
    window_started_at = CASE WHEN window_started_at > :window_floor THEN window_started_at ELSE :now END,
    last_used_at = :now, in_flight = in_flight + :reserves
WHERE token = :token
"""
_RESERVE = """
INSERT INTO reservations (request_id, project_id, token_id, node, worker, at, state, holds, estimate)
VALUES (?, ?, ?, ?, ?, ?, 'held', ?, ?) ON CONFLICT DO NOTHING
"""
_UPDATE_METER = "UPDATE meters SET spent = ?, reserved = ?, bounds = ?, mean = ?, period_end = ? WHERE id = ?"


def claim(
    connection: sqlite3.Connection, asked: RuledClaim, values: dict[str, Any], now_us: int
) -> tuple[Grant | None, Verdict]:
    """
    Count and hold a call, or nothing of it.

    Args:
        values: As the plain claim's statement has them.
    """
    versions = {"version": asked.version, "project_version": asked.project_version}
    row = connection.execute(_MAY_CALL, values | versions).fetchone()
    if row is None:
        return None, STALE
    *granted, in_flight = row
    found = _meters(connection, [demand.meter_id for demand in asked.demands])
    if len(found) < len(asked.demands):
        return None, STALE
    meters, calls, is_admitted = judged(found, asked.demands, now_us)
    if asked.concurrency is not None and in_flight >= asked.concurrency:
        is_admitted = False
    grant = Grant(*granted)
    if is_admitted and (not asked.reserves or _reserve(connection, asked, grant, meters, calls, now_us)):
        connection.execute(_COUNT, values | {"reserves": asked.reserves})
        connection.executemany(_UPDATE_METER, map(_written, map(admitted, meters, calls)))
    return (grant if is_admitted else None), Verdict(is_admitted, False, tuple(meters), in_flight, now_us)


def settle(connection: sqlite3.Connection, settlement: Settlement, now_us: int) -> bool:
    """End a reservation; False when there is none. See `database.claims.settlement`."""
    row = connection.execute(
        "SELECT token_id, state, holds, at FROM reservations WHERE request_id = ?", (settlement.request_id,)
    ).fetchone()
    if row is None:
        return False
    token_id, state, holds, at_us = row
    if state == "held" or (state == "assumed" and settlement.state != "assumed"):
        _charge(connection, settlement, state, [Hold(*entry) for entry in orjson.loads(holds)], at_us, now_us)
        if state == "held":
            connection.execute("UPDATE tokens SET in_flight = in_flight - 1 WHERE id = ?", (token_id,))
    if settlement.state is None:
        connection.execute("DELETE FROM reservations WHERE request_id = ?", (settlement.request_id,))
    elif state == "held" or settlement.state == "settled":
        connection.execute(
            "UPDATE reservations SET state = ? WHERE request_id = ?", (settlement.state, settlement.request_id)
        )
    return True


def _charge(
    connection: sqlite3.Connection,
    settlement: Settlement,
    state: State,
    holds: Sequence[Hold],
    at_us: int,
    now_us: int,
) -> None:
    """Bring the meters that are still there to what the call cost."""
    by_id = {hold.meter_id: hold for hold in holds}
    after = [
        ended(
            meter,
            by_id[meter.id],
            state,
            settlement.charge,
            at_us=at_us,
            now_us=now_us,
            ends=period_ends(meter.period, meter.zone, now_us),
        )
        for meter in _meters(connection, list(by_id))
    ]
    connection.executemany(_UPDATE_METER, map(_written, after))


def _reserve(
    connection: sqlite3.Connection,
    asked: RuledClaim,
    grant: Grant,
    meters: Sequence[Meter],
    calls: Sequence[Claimed],
    now_us: int,
) -> bool:
    """Make the reservation; False when the very same claim has made it before."""
    holds = orjson.dumps([list(hold) for hold in holds_of(meters, calls, asked.demands)]).decode()
    whose = (asked.request_id, grant.project_id, grant.token_id, asked.node, asked.worker)
    return connection.execute(_RESERVE, (*whose, now_us, holds, asked.estimate)).rowcount == 1


def _meters(connection: sqlite3.Connection, ids: Sequence[str]) -> list[Meter]:
    """Those that are there, by their ids."""
    return [Meter(*row) for row in connection.execute(_select_meters(len(ids)), ids)] if ids else []


@lru_cache(maxsize=64)
def _select_meters(count: int) -> str:
    columns, places = ", ".join(METER_COLUMNS), ", ".join("?" * count)
    return f"SELECT {columns} FROM meters WHERE id IN ({places}) ORDER BY id"  # noqa: S608


def _written(meter: Meter) -> tuple[int | str, ...]:
    return meter.spent, meter.reserved, meter.bounds, meter.mean, meter.period_end, meter.id
