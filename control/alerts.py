"""
The outbox of alerts: what somebody is to be told is written down here once, and stays until it was delivered.

Budgets are looked at every few seconds, so that the calls which use them up pay nothing for it. What a period used up
in its last seconds is therefore not told where the next call has begun a new one before the look.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Engine, RowMapping, case, delete, func, select, update

from database.engine import Session, background_transaction
from llmproxy.limits.amounts import shown
from llmproxy.limits.periods import NEVER_US, RATES
from llmproxy.times import at_microsecond, iso_utc, microseconds
from models import Meter, Project, Token, alerts, new_id

BUDGET_THRESHOLD = "budget.threshold"
THRESHOLDS = (80, 95, 100)
# A period that has been over for longer, in which nobody looked, is told of no more.
LATE = timedelta(hours=1)
# Budgets at one look; the others are found by the next.
_MOST = 100


class Alert(NamedTuple):
    """An event that waits: `body` is its JSON, as it goes out with every try."""

    id: str
    kind: str
    body: bytes


def note_crossings(engine: Engine, now: datetime) -> int:
    """Write down which budgets have come past a threshold in this period and were not yet; how many events."""
    with engine.connect() as connection:
        found = list(connection.execute(_uncounted(now)).mappings())
    events = [event for row in found for event in _events(row, now)]
    if not events:
        return 0
    # The dialect that the engine has loaded, and not the other one for nothing.
    insert = import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert(alerts)
    with background_transaction(engine) as connection:
        noted = insert.on_conflict_do_nothing().returning(alerts.c.id)
        return len(connection.execute(noted, events).all())


def _uncounted(now: datetime) -> Any:
    """Budgets past a threshold whose highest one was not written down in their period."""
    reached = case(*((Meter.spent * 100 >= Meter.amount * each, each) for each in reversed(THRESHOLDS)), else_=0)
    is_known = (
        select(alerts.c.id)
        .where(alerts.c.kind == BUDGET_THRESHOLD, alerts.c.subject == Meter.id)
        .where(alerts.c.period_end == Meter.period_end, alerts.c.threshold == reached)
        .exists()
    )
    columns = [getattr(Meter, name) for name in ("id", "name", "unit", "period", "amount", "spent", "period_end")]
    return (
        select(*columns, Meter.project_id, Meter.token_id, Project.name.label("project"), Token.label.label("token"))
        .join(Project, Project.id == Meter.project_id)
        .outerjoin(Token, Token.id == Meter.token_id)
        .where(Meter.period.not_in(RATES), Meter.amount > 0, Meter.spent * 100 >= Meter.amount * THRESHOLDS[0])
        .where(Meter.period_end > microseconds(now - LATE), ~is_known)
        .limit(_MOST)
    )


def _events(row: RowMapping, now: datetime) -> Iterator[dict[str, Any]]:
    ends = row["period_end"]
    for threshold in THRESHOLDS:
        if row["spent"] * 100 < row["amount"] * threshold:
            return
        told = {
            "type": BUDGET_THRESHOLD,
            "timestamp": iso_utc(now),
            "data": {
                "threshold": threshold,
                "meter": {name: row[name] for name in ("id", "name", "unit", "period")}
                | {name: shown(row["unit"], row[name]) for name in ("amount", "spent")}
                | {"resets_at": None if ends >= NEVER_US else iso_utc(at_microsecond(ends))},
                "project": {"id": row["project_id"], "name": row["project"]},
                "token": row["token_id"] and {"id": row["token_id"], "label": row["token"]},
            },
        }
        key = {"kind": BUDGET_THRESHOLD, "subject": row["id"], "period_end": ends, "threshold": threshold}
        body = orjson.dumps(told).decode()
        yield {"id": new_id(), **key, "body": body, "at": microseconds(now), "state": "waiting"}


def waiting(engine: Engine, limit: int = 100) -> list[Alert]:
    """What was not delivered yet, oldest first."""
    oldest = select(alerts.c.id, alerts.c.kind, alerts.c.body).where(alerts.c.state == "waiting")
    in_order = oldest.order_by(alerts.c.at, alerts.c.subject, alerts.c.threshold).limit(limit)
    with engine.connect() as connection:
        return [Alert(id_, kind, body.encode()) for id_, kind, body in connection.execute(in_order)]


def count_waiting(engine: Engine) -> int:
    """How many were not delivered yet."""
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).where(alerts.c.state == "waiting")) or 0


def close(engine: Engine, alert_id: str, *, is_refused: bool = False) -> None:
    """Send this one no more: it was delivered, or its receiver will never take it."""
    state = "refused" if is_refused else "delivered"
    with background_transaction(engine) as connection:
        connection.execute(update(alerts).where(alerts.c.id == alert_id).values(state=state))


def tell_again(session: Session, meter_id: str) -> None:
    """Forget what was told of a meter that begins anew; what waits still goes out. In the caller's transaction."""
    session.execute(delete(alerts).where(alerts.c.subject == meter_id, alerts.c.state != "waiting"))
