"""
Claims and settlements of tokens with rules or meters on SQLite: within one transaction that has the write lock.

Nothing here may yield: whoever yields within a transaction stops the process as soon as another greenlet begins one.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from database.claims.transaction import Transaction
from llmproxy.admission import Grant
from llmproxy.limits.meters import Claimed, Meter, admitted
from llmproxy.limits.periods import period_ends
from llmproxy.limits.reservations import (
    STALE,
    Charge,
    Hold,
    RuledClaim,
    Settlement,
    State,
    Verdict,
    ended,
    holds_of,
    judged,
)

_RESERVE = """
INSERT INTO reservations (request_id, project_id, token_id, node, worker, at, state, holds, estimate)
VALUES (?, ?, ?, ?, ?, ?, 'held', ?, ?) ON CONFLICT DO NOTHING
"""


class _Reserved(NamedTuple):
    """A reservation as its row stands."""

    token_id: str
    state: State
    holds: list[Hold]
    at_us: int


def claim(
    transaction: Transaction, asked: RuledClaim, values: dict[str, Any], now_us: int
) -> tuple[Grant | None, Verdict]:
    """
    Count and hold a call, or nothing of it.

    Args:
        values: As the plain claim's statement has them.
    """
    now, floor = values["now"], values["window_floor"]
    token = transaction.token(values["token"], asked, values["default_limit"])
    if token is None or not token.may_call(now, floor):
        return None, STALE
    found = transaction.meters([demand.meter_id for demand in asked.demands])
    if len(found) < len(asked.demands):
        return None, STALE
    meters, calls, is_admitted = judged(found, asked.demands, now_us)
    if asked.concurrency is not None and token.in_flight >= asked.concurrency:
        is_admitted = False
    verdict = Verdict(is_admitted, False, meters, calls, token.in_flight, now_us)
    connection = transaction.connection
    if is_admitted and (not asked.reserves or _reserve(connection, asked, token.grant, meters, calls, now_us)):
        token.count(now, floor, reserves=asked.reserves)
        transaction.change(map(admitted, meters, calls))
    return (token.grant if is_admitted else None), verdict


def settle(transaction: Transaction, settlements: Sequence[Settlement], now_us: int) -> int:
    """End reservations; how many of them there were. See `database.claims.settling`."""
    connection = transaction.connection
    rows = connection.execute(_select_held(len(settlements)), [settlement.request_id for settlement in settlements])
    found = {
        request_id: _Reserved(token_id, state, [Hold(*entry) for entry in orjson.loads(holds)], at_us)
        for request_id, token_id, state, holds, at_us in rows
    }
    count = len(found)
    ids = {hold.meter_id for reserved in found.values() for hold in reserved.holds}
    before = {meter.id: meter for meter in transaction.meters(list(ids))}
    after, released = dict(before), Counter[str]()
    states, deleted = list[tuple[str, str]](), list[tuple[str]]()
    for request_id, charge, state, _ in settlements:
        if (reserved := found.get(request_id)) is None:
            continue
        if reserved.state == "held" or (reserved.state == "assumed" and state != "assumed"):
            _charge(after, reserved, charge, now_us)
            released[reserved.token_id] += reserved.state == "held"
        if state is None:
            del found[request_id]
            deleted.append((request_id,))
        elif reserved.state == "held" or state == "settled":
            found[request_id] = reserved._replace(state=state)
            states.append((state, request_id))
    transaction.change(meter for meter in after.values() if meter is not before[meter.id])
    for token_id, ended_calls in released.items():
        transaction.release(token_id, ended_calls)
    connection.executemany("UPDATE reservations SET state = ? WHERE request_id = ?", states)
    connection.executemany("DELETE FROM reservations WHERE request_id = ?", deleted)
    return count


def _charge(meters: dict[str, Meter], reserved: _Reserved, charge: Charge, now_us: int) -> None:
    """Bring the meters that are still there to what the call cost."""
    for hold in reserved.holds:
        if meter := meters.get(hold.meter_id):
            ends = period_ends(meter.period, meter.zone, now_us)
            meters[meter.id] = ended(
                meter, hold, reserved.state, charge, at_us=reserved.at_us, now_us=now_us, ends=ends
            )


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


@lru_cache(maxsize=64)
def _select_held(count: int) -> str:
    places = ", ".join("?" * count)
    return f"SELECT request_id, token_id, state, holds, at FROM reservations WHERE request_id IN ({places})"  # noqa: S608
