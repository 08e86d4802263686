"""How projects stand, for the metrics: what they are called, and who will soon be without a token."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine, func, select

from llmproxy.telemetry.projects import ProjectSeen
from models import Project, Token

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
        return [ProjectSeen(id_, name, counts.get(id_, 0)) for id_, name in connection.execute(newest)]
