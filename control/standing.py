"""How projects stand, for the metrics: what they are called, who will soon be without a token or a budget."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.orm import Session

from control import limits
from llmproxy.telemetry.projects import ProjectSeen
from llmproxy.times import microseconds
from models import Meter, Project, Token

MOST = 1000
# A token is missed where it has lived for a while and is still used; those for an hour or a day expire by design.
SOON, AGE, USE = timedelta(days=3), timedelta(days=7), timedelta(days=7)


def projects_seen(engine: Engine, now: datetime) -> list[ProjectSeen]:
    """The newest thousand projects. Raises SQLAlchemy's errors."""
    expiring = (
        select(Token.project_id, func.count())
        .where(Token.expires_at > now, Token.expires_at <= now + SOON, Token.is_active)
        .where(Token.created_at <= now - AGE, Token.last_used_at >= now - USE)
        .group_by(Token.project_id)
    )
    newest = select(Project.id, Project.name).order_by(Project.created_at.desc()).limit(MOST)
    with engine.connect() as connection:
        counts = {row[0]: row[1] for row in connection.execute(expiring)}
        used = _used(connection, now)
        return [
            ProjectSeen(id_, name, counts.get(id_, 0), tuple(used[id_])) for id_, name in connection.execute(newest)
        ]


def _used(connection: Connection, now: datetime) -> dict[str, list[tuple[str, float]]]:
    """Of at most MOST meters of projects: the id, and the part that is spent."""
    own = select(Meter).where(Meter.token_id.is_(None)).order_by(Meter.id).limit(MOST)
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in Session(connection).scalars(own):
        spent = limits.standing(row, microseconds(now)).spent
        found[row.project_id].append((row.id, spent / row.amount if row.amount else 1.0))
    return found
