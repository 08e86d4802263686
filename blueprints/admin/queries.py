"""
What the pages read of projects, tokens and the audit trail, each list in a bounded number of statements. Here and
nowhere else in this package is SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, asc, case, cast, desc, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from accounting import report
from accounting.report import Brief, Kind
from blueprints.admin.display import HeldBack, TokenView, token_view
from blueprints.admin.spans import MONTH
from control import limits
from control.tokens import has_secret
from database.errors import DatabaseError
from llmproxy.admission import SECRET_LENGTH, WINDOW, hash_token, utc_now, without_prefix
from llmproxy.limits.periods import PERIODS, RATES, Period
from llmproxy.times import microseconds
from models import AuditEntry, Meter, Project, Token, db

PAGE_SIZE = 50
# A page far down a list makes the database walk there; nobody reads that far, filters lead there sooner.
LAST_PAGE = 1000
# A selection of more names is no help; the pages of projects lead on from there.
MAX_CHOICES = 500

TOKEN_STATES = {
    "live": "Live",
    "expiring": "Expires within 7 days",
    "limited": "Over the limit",
    "spent": "Budget spent",
    "off": "Project off",
    "current": "Not expired or revoked",
    "expired": "Expired",
    "revoked": "Revoked",
}
# By what was done in the last 30 days.
_BUSIEST = {"requests": "Most requests first", "errors": "Most errors first", "cost": "Costliest first"}
TOKEN_ORDERS = {
    "newest": "Newest first",
    "withering": "Withering first",
    "used": "Used last first",
    "label": "By label",
    **_BUSIEST,
}
PROJECT_STATES = {
    "on": "On",
    "off": "Off",
    "spent": "Budget spent",
    "expiring": "With tokens that expire within 7 days",
}
PROJECT_ORDERS = {"name": "By name", "newest": "Newest first", "used": "Used last first", **_BUSIEST}

# Before an order's name: the same from its other end.
REVERSED = "-"

_SOON = timedelta(days=7)
_BUDGETS = frozenset(PERIODS) - RATES

Direction = Callable[[Any], Any]
Rows = Select[*tuple[Any, ...]]

# Ids and secrets alike.
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# An id or how it begins, as lists show one of a token without a label.
_ID = re.compile(r"(?:token )?([0-9a-f]{4}[0-9a-f-]{0,32})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list. `number` counts from 1."""

    rows: list[Any]
    number: int
    total: int

    @property
    def last(self) -> int:
        """The number of the last page."""
        return _last_page(self.total)

    @property
    def has_next(self) -> bool:
        """Whether more follow."""
        return self.number < self.last


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project as a row of a table shows it. `is_spent` is one that is on, but for its budget."""

    project: Project
    live_tokens: int
    last_used_at: datetime | None
    lately: Brief
    is_spent: bool


def projects_page(
    number: int, *, search: str = "", state: str = "", order: str = "name", size: int = PAGE_SIZE
) -> Page:
    """Projects, filtered by what is not empty."""
    now = utc_now()
    statement: Rows = select(Project)
    if search:
        is_named = Project.name.icontains(search, autoescape=True)
        has_token = Project.id.in_(select(Token.project_id).where(Token.id == search))
        statement = statement.where(or_(is_named, has_token, *_has_id(Project.id, search)))
    if state:
        statement = statement.where(_project_in_state(state, now))
    page = _page(statement, _ordered_projects(statement, order, now), number, size)
    found = [project for (project,) in page.rows]
    ids = [project.id for project in found]
    tokens, lately = _tokens_of(ids, now), _lately("project", ids, now)
    spent = set(db.session.scalars(select(Project.id).where(Project.id.in_(ids), _is_spent(now))))
    rows = [
        ProjectView(project, *tokens.get(project.id, (0, None)), lately[project.id], project.id in spent)
        for project in found
    ]
    return Page(rows, page.number, page.total)


def _project_in_state(state: str, now: datetime) -> ColumnElement[bool]:
    if state == "expiring":
        soon = (Token.is_active, Token.expires_at > now, Token.expires_at <= now + _SOON)
        return exists().where(Token.project_id == Project.id, *soon)
    if state == "spent":
        return _is_spent(now)
    return Project.is_active.is_(state == "on")


def _is_spent(now: datetime) -> ColumnElement[bool]:
    return and_(Project.is_active, Project.id.in_(_projects_without(now, _BUDGETS)))


def _projects_without(now: datetime, periods: Iterable[Period]) -> Select[str]:
    """Projects that a meter of their own lets make no call."""
    return select(Meter.project_id).where(Meter.token_id.is_(None), limits.is_used_up(microseconds(now), periods))


def _is_held_back(now: datetime, periods: Iterable[Period]) -> ColumnElement[bool]:
    """Whether a meter of the token, or of its project, lets it make no call."""
    # Not in a list with NULL in it is neither true nor false.
    own = select(Meter.token_id).where(Meter.token_id.is_not(None), limits.is_used_up(microseconds(now), periods))
    return or_(Token.id.in_(own), Token.project_id.in_(_projects_without(now, periods)))


def either_way(orders: Iterable[str]) -> list[str]:
    """The names of these orders, and of each from its other end."""
    return [name for order in orders for name in (order, REVERSED + order)]


def _ordered_projects(statement: Rows, order: str, now: datetime) -> Rows:
    order, up, down = _directions(order)
    if order in _BUSIEST:
        return _by_sum(statement, "project", Project.id, order, now, down)
    if order == "used":
        used = (
            select(Token.project_id, func.max(Token.last_used_at).label("at")).group_by(Token.project_id).subquery()
        )
        joined = statement.outerjoin(used, used.c.project_id == Project.id)
        return joined.order_by(used.c.at.is_(None), down(used.c.at), Project.id)
    if order == "newest":
        return statement.order_by(down(Project.created_at), down(Project.id))
    return statement.order_by(up(func.lower(Project.name)), Project.id)


def _directions(order: str) -> tuple[str, Direction, Direction]:
    """The order's name, and how a column goes up and down in it: the other way round where it is reversed."""
    if order.startswith(REVERSED):
        return order.removeprefix(REVERSED), desc, asc
    return order, asc, desc


def _by_sum(
    statement: Rows, kind: Kind, column: InstrumentedAttribute[str], name: str, now: datetime, down: Direction
) -> Rows:
    sums = report.brief_sums(kind, name, *MONTH.around(now))
    joined = statement.outerjoin(sums, sums.c.key == column)
    return joined.order_by(down(func.coalesce(sums.c.most, 0)), column)


def _lately(kind: Kind, keys: list[str], now: datetime) -> dict[str, Brief]:
    found = report.briefs(db.session, kind, keys, *MONTH.around(now)) if keys else {}
    return {key: found.get(key, Brief()) for key in keys}


def _tokens_of(project_ids: Iterable[str], now: datetime) -> dict[str, tuple[int, datetime | None]]:
    """How many tokens of each project live, and when one of all was used last."""
    lives = case((and_(Token.is_active, Token.expires_at > now), 1))
    statement = (
        select(Token.project_id, func.count(lives), func.max(Token.last_used_at))
        .where(Token.project_id.in_(project_ids))
        .group_by(Token.project_id)
    )
    return {row[0]: (row[1], row[2]) for row in db.session.execute(statement)}


def tokens_page(
    number: int,
    *,
    project_id: str = "",
    state: str = "",
    search: str = "",
    order: str = "newest",
    default_limit: int,
    size: int = PAGE_SIZE,
) -> Page:
    """Tokens with their projects, filtered by what is not empty."""
    now = utc_now()
    statement = select(Token, Project).join(Token.project)
    if project_id:
        statement = statement.where(Token.project_id == project_id)
    if state:
        statement = statement.where(_in_state(state, now, default_limit))
    if ids := several_in(search):
        statement = statement.where(Token.id.in_(ids))
    elif search:
        statement = statement.where(or_(Token.label.icontains(search, autoescape=True), *_has_id(Token.id, search)))
    name, _, down = _directions(order)
    ordered = (
        _by_sum(statement, "token", Token.id, name, now, down)
        if name in _BUSIEST
        else statement.order_by(*_ordered(order, now))
    )
    page = _page(statement, ordered, number, size)
    return Page(_with_lately(_views(page.rows, now, default_limit), now), page.number, page.total)


def _views(rows: Iterable[Any], now: datetime, default_limit: int) -> list[TokenView]:
    """How tokens stand, of rows of a token and its project."""
    found = [(token, project) for token, project in rows]
    statement = select(Token.id, _is_held_back(now, _BUDGETS)).where(
        Token.id.in_([token.id for token, _ in found]), _is_held_back(now, PERIODS)
    )
    held: dict[str, HeldBack] = {
        key: "spent" if is_spent else "limited" for key, is_spent in db.session.execute(statement)
    }
    return [
        token_view(token, project, now=now, default_limit=default_limit, held_back=held.get(token.id))
        for token, project in found
    ]


def _with_lately(rows: list[TokenView], now: datetime) -> list[TokenView]:
    lately = _lately("token", [row.token.id for row in rows], now)
    return [replace(row, lately=lately[row.token.id]) for row in rows]


def token_as_shown(token: Token, *, default_limit: int) -> TokenView:
    """How one token stands."""
    return _views([(token, token.project)], utc_now(), default_limit)[0]


def _has_id(column: InstrumentedAttribute[str], text: str) -> list[ColumnElement[bool]]:
    """What holds for rows whose id is, or begins like, the one in `text`; empty where there is none in it."""
    found = _ID.fullmatch(text)
    return [column.startswith(found[1].lower())] if found else []


def tokens_called(text: str, limit: int) -> list[str]:
    """Ids of the tokens with this label (in whatever case) or an id that begins so, the newest first."""
    is_called = or_(func.lower(Token.label) == text.lower(), *_has_id(Token.id, text))
    return list(db.session.scalars(select(Token.id).where(is_called).order_by(Token.created_at.desc()).limit(limit)))


def several_in(text: str) -> list[str]:
    """The ids or secrets in a text that has more than one, whatever stands between them; else none."""
    found = list(dict.fromkeys(_UUID.findall(text)))
    return found if len(found) > 1 else []


def may_be_secret(text: str) -> bool:
    """Whether it has the form of a token's secret, which is that of its id, too."""
    return len(without_prefix(text)) == SECRET_LENGTH


def token_id_of(text: str) -> str | None:
    """The id of the token whose id or secret this is, also one that was replaced; None for no token's."""
    is_meant = or_(Token.id == text, has_secret(hash_token(without_prefix(text))))
    found: str | None = db.session.scalar(select(Token.id).where(is_meant))
    return found


def without_secret(text: str) -> str | None:
    """A search's text as an address may hold it: the id for a token's secret; None for what may be another secret."""
    if not may_be_secret(text):
        return text
    # Ids of what is no more, and of projects, have the form of a secret, too, and a name may have its length.
    is_known = or_(AuditEntry.target_id == text, AuditEntry.target_name == text)
    return token_id_of(text) or (text if db.session.scalar(select(exists().where(is_known))) else None)


def _in_state(state: str, now: datetime, default_limit: int) -> ColumnElement[bool]:
    living = and_(Token.is_active, Token.expires_at > now)
    limited = and_(
        Token.window_started_at.is_not(None),
        Token.window_started_at > now - WINDOW,
        Token.request_count >= func.coalesce(Token.rate_limit, default_limit),
    )
    works, spent = and_(living, Project.is_active), _is_held_back(now, _BUDGETS)
    return {
        "live": and_(works, ~limited, ~_is_held_back(now, PERIODS)),
        "expiring": and_(living, Token.expires_at <= now + _SOON),
        "limited": and_(works, or_(limited, _is_held_back(now, RATES)), ~spent),
        "spent": and_(works, spent),
        "off": and_(living, ~Project.is_active),
        "current": living,
        "expired": and_(Token.is_active, Token.expires_at <= now),
        "revoked": ~Token.is_active,
    }[state]


def _ordered(order: str, now: datetime) -> tuple[Any, ...]:
    order, up, down = _directions(order)
    if order == "withering":
        # What withers no more stands behind, the latest first.
        gone = case((and_(Token.is_active, Token.expires_at > now), 0), else_=1)
        return (gone, up(case((gone == 0, Token.expires_at))), down(Token.expires_at), Token.id)
    if order == "used":
        return (Token.last_used_at.is_(None), down(Token.last_used_at), Token.id)
    if order == "label":
        return (Token.label.is_(None), up(func.lower(Token.label)), Token.id)
    return (down(Token.created_at), down(Token.id))


def tokens_of(token_ids: Iterable[str], *, default_limit: int) -> list[TokenView]:
    """These tokens with what they did lately, by label."""
    now = utc_now()
    statement = select(Token, Project).join(Token.project).where(Token.id.in_(set(token_ids)))
    found = db.session.execute(statement.order_by(Token.label, Token.id))
    return _with_lately(_views(found, now, default_limit), now)


def next_to_wither(limit: int, *, default_limit: int) -> list[TokenView]:
    """Living tokens, the one that expires first first."""
    now = utc_now()
    statement = (
        select(Token, Project)
        .join(Token.project)
        .where(Token.is_active, Token.expires_at > now)
        .order_by(Token.expires_at)
        .limit(limit)
    )
    return _views(db.session.execute(statement), now, default_limit)


def project_choices(chosen: str = "") -> list[tuple[str, str]]:
    """Ids and names of projects to choose from, by name; the id that is chosen is among them, whatever it is."""
    statement = select(Project.id, Project.name).order_by(func.lower(Project.name)).limit(MAX_CHOICES)
    choices = [(row.id, row.name) for row in db.session.execute(statement)]
    if chosen and chosen not in dict(choices):
        name = db.session.scalar(select(Project.name).where(Project.id == chosen))
        choices.append((chosen, name or "A project that is no more"))
    return choices


def names_of(
    project_ids: Iterable[str | None], token_ids: Iterable[str | None]
) -> tuple[dict[str | None, str], dict[str | None, str]]:
    """Names of these projects and labels of these tokens by id, of those that still are."""
    projects = db.session.execute(select(Project.id, Project.name).where(Project.id.in_({*project_ids} - {None})))
    tokens = db.session.execute(select(Token.id, Token.label).where(Token.id.in_({*token_ids} - {None})))
    return (
        {row.id: row.name for row in projects},
        {row.id: row.label or f"Token {row.id[:8]}" for row in tokens},
    )


def audit_entries(
    limit: int,
    *,
    target_type: str | None,
    target: str,
    actor: str,
    begin: datetime | None,
    end: datetime | None,
    before_id: int | None,
) -> list[AuditEntry]:
    """
    Entries of the audit trail, the newest first, filtered by what is not empty.

    Args:
        target: A part of the name that it had, or an id or how it begins.
        begin: The first moment; `end` is the first one after those.
    """
    wanted = {"target_type": target_type, "actor": actor}
    statement = select(AuditEntry).filter_by(**{name: value for name, value in wanted.items() if value})
    if target:
        is_named = AuditEntry.target_name.icontains(target, autoescape=True)
        statement = statement.where(or_(is_named, *_has_id(AuditEntry.target_id, target)))
    if begin:
        statement = statement.where(AuditEntry.at >= begin)
    if end:
        statement = statement.where(AuditEntry.at < end)
    if before_id is not None:
        statement = statement.where(AuditEntry.id < before_id)
    return list(db.session.scalars(statement.order_by(AuditEntry.id.desc()).limit(limit)))


def has_rules_of_addresses() -> bool:
    """Whether any token or project is bound to addresses."""
    named = '%"addresses":%'
    return any(
        db.session.execute(select(kind.id).where(cast(kind.rules, Text).like(named)).limit(1)).first()
        for kind in (Project, Token)
    )


def upstreams_of_projects(limit: int) -> list[str]:
    """Base URLs that projects have of their own; none where the database does not answer."""
    distinct = select(Project.base_url).where(Project.base_url.is_not(None)).distinct().order_by(Project.base_url)
    try:
        return [url for url in db.session.scalars(distinct.limit(limit)) if url]
    except DatabaseError:
        return []


def steps_done() -> dict[str, bool]:
    """What was done of the first steps: whether there is a project, a token, a call."""
    columns = {"project": Project.id, "token": Token.id, "call": Token.last_used_at}
    return {name: _has_value(column) for name, column in columns.items()}


def _has_value(column: Any) -> bool:
    return db.session.scalar(select(column).where(column.is_not(None)).limit(1)) is not None


def _last_page(total: int) -> int:
    return max(1, min(LAST_PAGE, -(-total // PAGE_SIZE)))


def _page(wanted: Rows, ordered: Rows, number: int, size: int) -> Page:
    """The page of what is `wanted` that is nearest to `number`; it is counted without what its order takes."""
    total = db.session.scalar(select(func.count()).select_from(wanted.subquery())) or 0
    number = min(max(1, number), _last_page(total))
    rows = list(db.session.execute(ordered.limit(size).offset((number - 1) * size)))
    return Page(rows, number, total)
