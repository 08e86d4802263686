"""Lists of projects and tokens, the newest first: a page from the start, or after a row of the page before."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Select, and_, or_, select

from database.engine import Session
from llmproxy.times import at_microsecond, microseconds
from models import Project, Token

Row = TypeVar("Row", Project, Token)

_DOT = "."


class NoSuchPlace(Exception):
    """`after` is neither the id of a row nor the place behind one."""

    def __init__(self) -> None:
        super().__init__("after is neither the `next` of a page of this list nor the id of a row in it.")


def place_after(row: Project | Token) -> str:
    """Where a list goes on behind this row, also when the row is gone by then."""
    return f"{microseconds(row.created_at)}{_DOT}{row.id}"


def projects(session: Session, *, active: bool | None = None, **page: Any) -> tuple[list[Project], bool]:
    """
    Projects, and whether more follow. Raises NoSuchPlace.

    Args:
        active: Those alone that are switched on, or off.
        page: `limit` and, for what follows a row, its `place_after` or its id as `after`.
    """
    statement = select(Project)
    if active is not None:
        statement = statement.where(Project.is_active == active)
    return _page(session, statement, Project, **page)


def tokens(
    session: Session, *, now: datetime, project_id: str | None = None, active: bool | None = None, **page: Any
) -> tuple[list[Token], bool]:
    """
    Tokens, and whether more follow; `page` as for projects. Raises NoSuchPlace.

    Args:
        active: Those alone that are neither revoked nor expired at `now`, or that are.
    """
    statement = select(Token)
    if project_id is not None:
        statement = statement.where(Token.project_id == project_id)
    if active is not None:
        live = and_(Token.is_active, Token.expires_at > now)
        statement = statement.where(live if active else ~live)
    return _page(session, statement, Token, **page)


def _page(
    session: Session, statement: Select[Any], table: type[Row], *, limit: int, after: str | None = None
) -> tuple[list[Row], bool]:
    if after is not None:
        created_at, row_id = _place(session, table, after)
        is_as_old = and_(table.created_at == created_at, table.id < row_id)
        statement = statement.where(or_(table.created_at < created_at, is_as_old))
    statement = statement.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = list(session.scalars(statement))
    return rows[:limit], len(rows) > limit


def _place(session: Session, table: type[Row], after: str) -> tuple[datetime, str]:
    ticks, is_place, row_id = after.partition(_DOT)
    if is_place:
        try:
            return at_microsecond(int(ticks)), row_id
        except (ValueError, OverflowError) as exc:
            raise NoSuchPlace from exc
    row = session.scalar(select(table).where(table.id == after))
    if row is None:
        raise NoSuchPlace
    return row.created_at, row.id
