"""
What the sums say: totals, series over time, the biggest users, reasons of refusals.

Each question is put to the view with the fewest rows that can answer it (see `accounting.views`); whole days are
taken from a view by day where there is one. Times are rounded outwards to whole hours, for the sums know no less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Engine, Subquery, and_, func, or_, orm, select, union_all

from accounting.views import CALLS, MODEL_HOURS, PROJECT_DAYS, PROJECT_HOURS, TOKEN_DAYS, View, hours_around, moment
from accounting.zones import LocalDays
from database.engine import Session
from models import BUCKETS_MS, COUNTS, DURATION, SUMS, TTFT, Project, Token, usage_keys, usage_sums

Step = Literal["hour", "day"]
Kind = Literal["project", "token", "model"]
Place = tuple[int, str]

_STEP_HOURS = {"hour": 1, "day": 24}
_COLUMN = {"project": "project_id", "token": "token_id", "model": "model"}
# The fewest rows first.
_BY_HOUR = (MODEL_HOURS, PROJECT_HOURS, CALLS)
_BY_DAY = (PROJECT_DAYS, TOKEN_DAYS)
# All that it takes to find the busiest.
_RANK = ("requests",)
_BRIEF = ("requests", "errors", "cost")


@dataclass(frozen=True, slots=True)
class Filters:
    """Whose usage; None means everybody's."""

    project_id: str | None = None
    token_id: str | None = None
    model: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Column -> wanted value."""
        wanted = {"project_id": self.project_id, "token_id": self.token_id, "model": self.model}
        return {name: value for name, value in wanted.items() if value is not None}


EVERYBODY = Filters()


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, interpolated within a bucket; None where nothing was measured."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Sums over some requests.

    Attributes:
        requests: All of them, refused ones included.
        refusals: Answered by the proxy itself instead of being forwarded.
        errors: Forwarded, and failed on the way, timed out, answered with a status of 400 or above, or with an error
            within the response.
        client_closed: The client hung up; these count as nothing else.
        usage_reported: Requests whose usage the upstream told; the token sums are theirs. Reading a stored object
            tells none.
        cached_tokens: Of the prompt tokens.
        reasoning_tokens: Of the completion tokens.
        cost: Micro-dollars, of all whose price could be told.
        unpriced: Requests that used what has no price, or that are older than prices.
        total_tokens: As the upstream told it, which may be more than prompt and completion.
        audio_seconds: Of transcriptions that are billed by duration.
        streams: Chat and completion streams that went through well.
        silent_streams: Of them, those that told no usage.
        cost_assumed: Of the cost, what a budget was charged for calls that told no usage.
        would_refuse: Requests that rules in mode `report` would have refused.
        duration_ms: Arrival to last byte, of what was forwarded.
        ttft_ms: Arrival to first body byte, of what was forwarded.
    """

    requests: int
    refusals: int
    errors: int
    client_closed: int
    usage_reported: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost: int
    unpriced: int
    total_tokens: int
    audio_seconds: int
    streams: int
    silent_streams: int
    cost_assumed: int
    would_refuse: int
    duration_ms: Percentiles
    ttft_ms: Percentiles


@dataclass(frozen=True, slots=True)
class Period:
    """Usage of the hour or day that begins at `start`."""

    start: datetime
    usage: Usage


@dataclass(frozen=True, slots=True)
class Consumer:
    """
    Usage of one project, token or model.

    `key` is its id or the model's name, '' where the record had none. `name` is the project's name or the token's
    label, None where there is none (any more).
    """

    key: str
    name: str | None
    usage: Usage

    @property
    def place(self) -> Place:
        """Where it stands among the others of the same span: behind it are less busy ones, or later keys."""
        return self.usage.requests, self.key


@dataclass(frozen=True, slots=True)
class Brief:
    """The three sums that lists show: see Usage."""

    requests: int = 0
    errors: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True)
class SilentStreams:
    """A project that does not ask for its streams' usage, and how many percent of them told none, at least 1."""

    project_id: str
    name: str
    percent: int


def whole_hours(begin: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The span of whole hours around a span of time: what a report over it covers."""
    first, last = hours_around(begin, end)
    return moment(first), moment(last)


def totals(session: Session, filters: Filters, begin: datetime, end: datetime) -> Usage:
    """Usage of the whole span."""
    sums = _sources(filters.columns, hours_around(begin, end), SUMS)
    return _usage(session.execute(select(*_added(sums, SUMS))).one())


def series(session: Session, filters: Filters, begin: datetime, end: datetime, *, step: Step) -> list[Period]:
    """Usage hour by hour or day by day (in UTC), every one of the span, zeros where there was none."""
    hours = _STEP_HOURS[step]
    span = first, last = hours_around(begin, end)
    sums = _sources(filters.columns, span, SUMS, by_hour=True, whole_days=step == "day")
    start = sums.c.hour - sums.c.hour % hours
    statement = select(start, *_added(sums, SUMS)).group_by(start)
    found = {start: row for start, *row in session.execute(statement)}
    starts = range(first // hours * hours, last, hours)
    return [Period(moment(start), _usage(found.get(start))) for start in starts]


def local_days(session: Session, filters: Filters, begin: datetime, end: datetime, zone: ZoneInfo) -> list[Period]:
    """Usage day by day of a zone, every one of the span. Raises NoWholeHours."""
    span = hours_around(begin, end)
    days = LocalDays(zone, *span)
    sums = _sources(filters.columns, span, SUMS, by_hour=True, whole_days=False)
    number = days.number_of(sums.c.hour)
    found = {int(day): row for day, *row in session.execute(select(number, *_added(sums, SUMS)).group_by(number))}
    return [Period(start, _usage(found.get(day))) for day, start in days.starts().items()]


def top(
    session: Session,
    by: Kind,
    filters: Filters,
    begin: datetime,
    end: datetime,
    *,
    limit: int,
    after: Place | None = None,
) -> list[Consumer]:
    """The `limit` projects, tokens or models with the most requests, the busiest first, or those behind a place."""
    column = _COLUMN[by]
    wanted: dict[str, Any] = dict(filters.columns)
    span = hours_around(begin, end)
    if by == "token":
        # There are many of them. To add up the numbers of all for the sake of a few would take most of the time.
        rows = _by_column(session, column, _sources(wanted, span, _RANK, column=column), _RANK, limit, after)
        wanted[column], after = [key for key, _ in rows], None
    # A model may be used without a request of its own: by a run of an eval.
    rows = _by_column(session, column, _sources(wanted, span, SUMS, column=column), SUMS, limit, after, least=0)
    names = _names(session, by, [key for key, *_ in rows])
    return [Consumer(key, names.get(key), _usage(sums)) for key, *sums in rows]


def briefs(session: Session, by: Kind, keys: list[str], begin: datetime, end: datetime) -> dict[str, Brief]:
    """What these projects, tokens or models did, by key; those alone that did something."""
    column = _COLUMN[by]
    sums = _sources({column: keys}, hours_around(begin, end), _BRIEF, column=column)
    return {key: Brief(*map(int, row)) for key, *row in _by_column(session, column, sums, _BRIEF, limit=None)}


def costliest(
    session: Session, by: Kind, filters: Filters, begin: datetime, end: datetime, *, limit: int
) -> list[tuple[str, str | None, Brief]]:
    """Keys, names and sums of those that cost the most in whole hours around a span, the costliest first."""
    column, names = _COLUMN[by], ("cost", "requests", "errors")
    sums = _sources(filters.columns, hours_around(begin, end), names, column=column)
    rows = _by_column(session, column, sums, names, limit)
    named = _names(session, by, [key for key, *_ in rows])
    return [
        (key, named.get(key), Brief(int(requests), int(errors), int(cost))) for key, cost, requests, errors in rows
    ]


def brief_sums(by: Kind, name: str, begin: datetime, end: datetime) -> Subquery:
    """Everybody's sum of this name: columns `key` and `most`, to order lists by."""
    column = _COLUMN[by]
    sums = _sources({}, hours_around(begin, end), (name,), column=column)
    group = usage_keys.c[column]
    joined = select(group.label("key"), func.sum(sums.c[name]).label("most")).join(
        sums, sums.c.key_id == usage_keys.c.id
    )
    return joined.group_by(group).subquery()


def refusals_by_reason(session: Session, filters: Filters, begin: datetime, end: datetime) -> dict[str, int]:
    """How often the proxy itself refused, by the error's code ('none' where it has none), the commonest first."""
    return _by_reason(session, filters, begin, end, "refusals")


def would_refuse_by_reason(session: Session, filters: Filters, begin: datetime, end: datetime) -> dict[str, int]:
    """How often rules that only report would have refused, by the error's code, the commonest first."""
    return _by_reason(session, filters, begin, end, "would_refuse")


def _by_reason(session: Session, filters: Filters, begin: datetime, end: datetime, count: str) -> dict[str, int]:
    sums = _sources(filters.columns, hours_around(begin, end), (count,), column="refusal")
    found = _by_column(session, "refusal", sums, (count,), limit=None)
    return {code: int(number) for code, number in found if code and number}


def silent_streams(session: Session, filters: Filters, begin: datetime, end: datetime) -> list[SilentStreams]:
    """The projects that could ask for usage that their streams did not tell, those with most of it first."""
    names = ("silent_streams", "streams")
    sums = _sources(filters.columns, hours_around(begin, end), names, column="project_id")
    found = {
        project_id: (silent, of) for project_id, silent, of in _by_column(session, "project_id", sums, names, None)
    }
    not_asking = select(Project.id, Project.name).where(Project.id.in_(found), Project.stream_usage != "ask")
    names_of = {row.id: row.name for row in session.execute(not_asking)}
    return [
        SilentStreams(project_id, names_of[project_id], max(1, round(100 * silent / of)))
        for project_id, (silent, of) in found.items()
        if project_id in names_of
    ]


def unpriced_models(
    session: Session, filters: Filters, begin: datetime, end: datetime, *, limit: int
) -> dict[str, int]:
    """How many calls had no price, by model ('' where nobody named it), the most first."""
    sums = _sources(filters.columns, hours_around(begin, end), ("unpriced",), column="model")
    found = _by_column(session, "model", sums, ("unpriced",), limit)
    return {model: int(count) for model, count in found}


def unpriced_by_all(engine: Engine, begin: datetime, end: datetime, *, limit: int) -> dict[str, int]:
    """`unpriced_models` of everybody, for who has no session."""
    with orm.Session(engine) as session:
        return unpriced_models(session, EVERYBODY, begin, end, limit=limit)


def _names(session: Session, by: Kind, keys: list[str]) -> dict[str, str | None]:
    if by == "model":
        return {key: key for key in keys}
    statement = (
        select(Project.id, Project.name).where(Project.id.in_(keys))
        if by == "project"
        else select(Token.id, Token.label).where(Token.id.in_(keys))
    )
    return {row[0]: row[1] for row in session.execute(statement)}


def _by_column(
    session: Session,
    column: str,
    sums: Subquery,
    names: tuple[str, ...],
    limit: int | None,
    after: Place | None = None,
    *,
    least: int = 1,
) -> list[Any]:
    """
    The groups of a column with their sums, those with most of the first sum first; none before or at a place.

    Args:
        least: Of the first sum, for a group to be among them.
    """
    group, added = usage_keys.c[column], _added(sums, names)
    most = added[0]
    statement = (
        select(group, *added)
        .join(sums, sums.c.key_id == usage_keys.c.id)
        .group_by(group)
        .having(most >= least, *([_follows(most, group, after)] if after else []))
        .order_by(most.desc(), group)
        .limit(limit)
    )
    return list(session.execute(statement))


def _follows(most: ColumnElement[int], group: ColumnElement[str], place: Place) -> ColumnElement[bool]:
    count, key = place
    return or_(most < count, and_(most == count, group > key))


def _added(sums: Subquery, names: tuple[str, ...]) -> list[Any]:
    return [func.sum(sums.c[name]) for name in names]


def _sources(
    wanted: Mapping[str, Any],
    span: tuple[int, int],
    names: tuple[str, ...],
    *,
    column: str | None = None,
    by_hour: bool = False,
    whole_days: bool = True,
) -> Subquery:
    """
    Sums by `key_id`, or by `hour`, from the views that have them with the fewest rows.

    Args:
        wanted: Column -> the value it must have, or a list of values.
        column: What the keys will be told apart by.
        whole_days: False when days are too coarse.
    """
    group = usage_sums.c.hour if by_hour else usage_sums.c.key_id
    dimensions = {*wanted, column} - {None}
    parts = [
        select(group, *(func.sum(usage_sums.c[name]).label(name) for name in names))
        .where(usage_sums.c.hour >= first, usage_sums.c.hour < last, _is_in(view, wanted, names))
        .group_by(group)
        for view, first, last in _parts(dimensions, span, whole_days=whole_days)
    ]
    return union_all(*parts).subquery()


def _is_in(view: View, wanted: Mapping[str, Any], names: tuple[str, ...]) -> ColumnElement[bool]:
    if not wanted and not (view is TOKEN_DAYS and names == _RANK):
        return usage_sums.c.view == view.id
    conditions = [
        usage_keys.c[name].in_(value) if isinstance(value, list) else usage_keys.c[name] == value
        for name, value in wanted.items()
    ]
    # A key belongs to one view. Naming the view besides would invite the database to walk through all of it,
    # instead of going by the index over keys.
    return usage_sums.c.key_id.in_(select(usage_keys.c.id).where(usage_keys.c.view == view.id, *conditions))


def _parts(dimensions: set[Any], span: tuple[int, int], *, whole_days: bool) -> Iterable[tuple[View, int, int]]:
    """The view for each part of the span."""
    first, last = span
    hours = next(view for view in _BY_HOUR if dimensions <= view.dimensions)
    days = next((view for view in _BY_DAY if dimensions <= view.dimensions), None)
    first_day, last_day = -(-first // 24) * 24, last // 24 * 24
    if hours is MODEL_HOURS or days is None or not whole_days or first_day >= last_day:
        return [(hours, first, last)]
    parts = [(hours, first, first_day), (days, first_day, last_day), (hours, last_day, last)]
    return [part for part in parts if part[1] < part[2]]


def _usage(sums: Iterable[Any] | None) -> Usage:
    # PostgreSQL adds bigints up to a numeric, and both databases nothing at all up to NULL.
    by_name = {name: int(number or 0) for name, number in zip(SUMS, sums or [0] * len(SUMS), strict=True)}
    return Usage(
        **{name: by_name[name] for name in COUNTS},
        duration_ms=_percentiles([by_name[name] for name in DURATION]),
        ttft_ms=_percentiles([by_name[name] for name in TTFT]),
    )


def _percentiles(buckets: list[int]) -> Percentiles:
    return Percentiles(p50=_quantile(buckets, 0.5), p95=_quantile(buckets, 0.95))


def _quantile(buckets: list[int], share: float) -> float | None:
    """The value under which `share` of the samples lie; of what is beyond the last bound, that bound."""
    left = share * sum(buckets)
    if left == 0:
        return None
    for low, high, count in zip((0, *BUCKETS_MS), BUCKETS_MS, buckets, strict=False):
        if count and left <= count:
            return round(low + (high - low) * left / count, 1)
        left -= count
    return float(BUCKETS_MS[-1])
