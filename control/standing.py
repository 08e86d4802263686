"""How projects stand, for the metrics: what they are called, who will soon be without a token or a budget."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, case, func, select
from sqlalchemy.orm import Session

from control import limits
from llmproxy.telemetry.projects import ProjectSeen
from llmproxy.times import microseconds
from models import Meter, Project, Token

MOST = 1000
# A token is missed where it has lived for a while and is still used; those for an hour or a day expire by design.
SOON, AGE, USE = timedelta(days=3), timedelta(days=7), timedelta(days=7)


def projects_seen(engine: Engine, now: datetime) -> list[ProjectSeen]:
    """
    The newest MOST projects, the MOST whose tokens expire soonest, and the owners of the MOST meters most used.

    Raises SQLAlchemy's errors.
    """
    with engine.connect() as connection:
        expiring = _expiring(connection, now)
        used = _used(connection, now)
        names = _names(connection, {*expiring, *used})
    return [ProjectSeen(id_, name, expiring.get(id_, 0), tuple(used.get(id_, ()))) for id_, name in names.items()]


def _expiring(connection: Connection, now: datetime) -> dict[str, int]:
    """How many tokens of a project will soon be missed."""
    found = (
        select(Token.project_id, func.count())
        .where(Token.expires_at > now, Token.expires_at <= now + SOON, Token.is_active)
        .where(Token.created_at <= now - AGE, Token.last_used_at >= now - USE)
        .group_by(Token.project_id)
        .order_by(func.min(Token.expires_at))
        .limit(MOST)
    )
    return dict(connection.execute(found).all())


def _used(connection: Connection, now: datetime) -> dict[str, list[tuple[str, float]]]:
    """Of meters of projects: the id, and the part that is spent."""
    # A period that is over has nothing spent, as `limits.standing` knows.
    spent = case((Meter.period_end > microseconds(now), Meter.spent), else_=0)
    part = func.coalesce(spent * 1.0 / func.nullif(Meter.amount, 0), 1.0)
    most = select(Meter).where(Meter.token_id.is_(None)).order_by(part.desc(), Meter.id).limit(MOST)
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in Session(connection).scalars(most):
        told = limits.standing(row, microseconds(now)).spent
        found[row.project_id].append((row.id, told / row.amount if row.amount else 1.0))
    return found


def _names(connection: Connection, wanted: set[str]) -> dict[str, str]:
    """What these projects are called, and the newest."""
    named = select(Project.id, Project.name)
    newest = named.order_by(Project.created_at.desc()).limit(MOST)
    names = dict(connection.execute(newest).all())
    if others := wanted - names.keys():
        names |= dict(connection.execute(named.where(Project.id.in_(others))).all())
    return names
