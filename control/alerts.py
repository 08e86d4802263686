"""
The outbox of alerts: what somebody is to be told is written down here once, and stays until it was delivered.

Budgets are looked at every few seconds, so that the calls which use them up pay nothing for it. What a period used up
in its last seconds is told after it: the call that begins another keeps what stood there.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Engine, RowMapping, case, delete, func, select, update

from database.engine import Session, background_transaction
from llmproxy.limits.amounts import shown
from llmproxy.limits.periods import NEVER_US, RATES
from llmproxy.times import at_microsecond, iso_utc, microseconds
from llmproxy.webhook import BUDGET_THRESHOLD, KEY_REFUSED, KINDS, MODEL_UNPRICED, TOKEN_EXPIRES_SOON
from models import Meter, Project, Token, alerts, new_id

THRESHOLDS = (80, 95, 100)
# A period that has been over for longer, in which nobody looked, is told of no more.
LATE = timedelta(hours=1)
# A token is told of so long before its end, if it has lived as long: those for an hour or a day expire by design.
SOON = timedelta(days=1)
# Of either kind at one look; the others are found by the next.
_MOST = 100


class Alert(NamedTuple):
    """An event that waits: `body` is its JSON, as it goes out with every try."""

    id: str
    kind: str
    body: bytes


def note_new(engine: Engine, now: datetime, kinds: Collection[str] = KINDS) -> int:
    """Write down what is to be told and was not yet, of budgets and of tokens; how many events."""
    with engine.connect() as connection:
        budgets = list(_budgets(connection, now)) if BUDGET_THRESHOLD in kinds else []
        tokens = list(connection.execute(_expiring(now)).mappings()) if TOKEN_EXPIRES_SOON in kinds else []
    events = [event for row in budgets for event in _crossings(row, now)] + [_expiry(row, now) for row in tokens]
    return _note(engine, events)


def note_unpriced(engine: Engine, calls: Mapping[str, int], now: datetime) -> int:
    """Write down which models without a price were called today, each once a day; how many events."""
    return _note_daily(engine, MODEL_UNPRICED, [_unpriced(model, count, now) for model, count in calls.items()])


def note_refused_keys(engine: Engine, project_ids: Collection[str], now: datetime) -> int:
    """Write down whose key an upstream refuses, each project once a day; how many events."""
    named = select(Project.id, Project.name).where(Project.id.in_(project_ids))
    with engine.connect() as connection:
        projects = list(connection.execute(named).mappings())
    return _note_daily(engine, KEY_REFUSED, [_key_refused(dict(project), now) for project in projects])


def _note_daily(engine: Engine, kind: str, events: Sequence[dict[str, Any]]) -> int:
    """Those of them that were not written down on their day."""
    subjects = [event["subject"] for event in events]
    known = select(alerts.c.subject, alerts.c.period_end).where(alerts.c.kind == kind, alerts.c.subject.in_(subjects))
    with engine.connect() as connection:
        told = {tuple(row) for row in connection.execute(known)}
    return _note(engine, [event for event in events if (event["subject"], event["period_end"]) not in told])


def _note(engine: Engine, events: Sequence[dict[str, Any]]) -> int:
    if not events:
        return 0
    # The dialect that the engine has loaded, and not the other one for nothing.
    insert = import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert(alerts)
    with background_transaction(engine) as connection:
        noted = insert.on_conflict_do_nothing().returning(alerts.c.id)
        return len(connection.execute(noted, events).all())


def _budgets(connection: Connection, now: datetime) -> Iterator[RowMapping]:
    """Those of this period, and of the one before: a call may have begun another since the last look."""
    yield from connection.execute(_uncounted(Meter.spent, Meter.period_end, now)).mappings()
    last = _uncounted(Meter.last_spent, Meter.last_end, now).where(Meter.last_end <= microseconds(now))
    yield from connection.execute(last).mappings()


def _uncounted(spent: Any, ends: Any, now: datetime) -> Any:
    """Budgets past a threshold whose highest one was not written down in the period that ends then."""
    reached = case(*((spent * 100 >= Meter.amount * each, each) for each in reversed(THRESHOLDS)), else_=0)
    is_known = (
        select(alerts.c.id)
        .where(alerts.c.kind == BUDGET_THRESHOLD, alerts.c.subject == Meter.id)
        .where(alerts.c.period_end == ends, alerts.c.threshold == reached)
        .exists()
    )
    columns = [getattr(Meter, name) for name in ("id", "name", "unit", "period", "amount")]
    columns += [spent.label("spent"), ends.label("period_end")]
    return (
        select(*columns, Meter.project_id, Meter.token_id, Project.name.label("project"), Token.label.label("token"))
        .join(Project, Project.id == Meter.project_id)
        .outerjoin(Token, Token.id == Meter.token_id)
        .where(Meter.period.not_in(RATES), Meter.amount > 0, spent * 100 >= Meter.amount * THRESHOLDS[0])
        .where(ends > microseconds(now - LATE), ~is_known)
        .limit(_MOST)
    )


def _expiring(now: datetime) -> Any:
    """Tokens that have lived for a day, expire within the next one and were not told of in the last."""
    is_known = (
        select(alerts.c.id)
        .where(alerts.c.kind == TOKEN_EXPIRES_SOON, alerts.c.subject == Token.id)
        .where(alerts.c.at > microseconds(now - SOON))
        .exists()
    )
    return (
        select(Token.id, Token.label, Token.expires_at, Token.project_id, Project.name.label("project"))
        .join(Project, Project.id == Token.project_id)
        .where(Token.expires_at > now, Token.expires_at <= now + SOON)
        .where(Token.is_active, Token.created_at <= now - SOON, ~is_known)
        .limit(_MOST)
    )


def _crossings(row: RowMapping, now: datetime) -> Iterator[dict[str, Any]]:
    ends = row["period_end"]
    for threshold in THRESHOLDS:
        if row["spent"] * 100 < row["amount"] * threshold:
            return
        data = {
            "threshold": threshold,
            "meter": {name: row[name] for name in ("id", "name", "unit", "period")}
            | {name: shown(row["unit"], row[name]) for name in ("amount", "spent")}
            | {"resets_at": None if ends >= NEVER_US else iso_utc(at_microsecond(ends))},
            "project": {"id": row["project_id"], "name": row["project"]},
            "token": row["token_id"] and {"id": row["token_id"], "label": row["token"]},
        }
        yield _event(BUDGET_THRESHOLD, row["id"], ends, threshold, data, now)


def _expiry(row: RowMapping, now: datetime) -> dict[str, Any]:
    data = {
        "token": {"id": row["id"], "label": row["label"]},
        "project": {"id": row["project_id"], "name": row["project"]},
        "expires_at": iso_utc(row["expires_at"]),
    }
    return _event(TOKEN_EXPIRES_SOON, row["id"], microseconds(row["expires_at"]), 0, data, now)


def _unpriced(model: str, calls: int, now: datetime) -> dict[str, Any]:
    # Names are longer than a subject may be.
    subject = str(uuid.uuid5(uuid.NAMESPACE_OID, model))
    data = {"model": model, "calls": calls}
    return _event(MODEL_UNPRICED, subject, _end_of_day(now), 0, data, now)


def _key_refused(project: dict[str, str], now: datetime) -> dict[str, Any]:
    return _event(KEY_REFUSED, project["id"], _end_of_day(now), 0, {"project": project}, now)


def _end_of_day(now: datetime) -> int:
    return microseconds(now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1))


def _event(
    kind: str, subject: str, period_end: int, threshold: int, data: dict[str, Any], now: datetime
) -> dict[str, Any]:
    """A row: of the first four there is one alone."""
    key = {"kind": kind, "subject": subject, "period_end": period_end, "threshold": threshold}
    body = orjson.dumps({"type": kind, "timestamp": iso_utc(now), "data": data}).decode()
    return {"id": new_id(), **key, "body": body, "at": microseconds(now), "state": "waiting"}


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


def tell_again(session: Session, subject: str) -> None:
    """
    Forget what was told of a meter that begins anew, or of a project with another key; what waits still goes out.

    In the caller's transaction.
    """
    session.execute(delete(alerts).where(alerts.c.subject == subject, alerts.c.state != "waiting"))
