"""What the calls of a project or of a token did lately: the beginning of its page."""

from __future__ import annotations

from dataclasses import dataclass

from flask import request

from accounting import report
from accounting.report import Consumer, Filters, Period, Usage
from blueprints.admin import costs, searches
from blueprints.admin.charts import Chart, charts
from blueprints.admin.requests_log import RecordView, latest
from blueprints.admin.spans import SPANS, Span, address_of, addresses
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter
from models import db

_TOP = 5
# The codes of refusals with 429.
_LIMITS = frozenset(
    {"rate_limit_exceeded", "concurrency_limit_exceeded", "budget_exhausted", "budget_reserved", "budget_too_small"}
)


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the biggest users: its share of the biggest one's requests in percent."""

    consumer: Consumer
    percent: int


@dataclass(frozen=True, slots=True)
class Activity:
    """
    Sums over a span until now, and its latest failures.

    Attributes:
        limited: How many of the refusals were for a limit (429).
        during: The span for a list of requests, and `periods` where each of its periods begins and ends.
    """

    span: Span
    usage: Usage
    limited: int
    charts: list[Chart]
    labels: list[str]
    during: dict[str, str]
    periods: list[tuple[str, str]]
    models: list[Rank]
    failures: list[RecordView]


def activity(filters: Filters) -> Activity:
    """Of the project or token that `filters` name, in the span that the address asks for."""
    span = SPANS[searches.choice(request.args, "span", SPANS, "30d")]
    begin, end = span.around(utc_now())
    usage = report.totals(db.session, filters, begin, end)
    periods: list[Period] = []
    reasons, models, failures = {}, [], []
    if usage.requests:
        periods = span.periods(filters, begin, end)
        reasons = report.refusals_by_reason(db.session, filters, begin, end) if usage.refusals else {}
        models = report.top(db.session, "model", filters, begin, end, limit=_TOP)
    if usage.errors or usage.refusals:
        wanted = Filter(project_id=filters.project_id, token_id=filters.token_id, failed=True, begin=begin)
        failures = latest(wanted, limit=_TOP)
    return Activity(
        span=span,
        usage=usage,
        limited=sum(count for code, count in reasons.items() if code in _LIMITS),
        charts=charts(periods, end, with_cost=costs.price_date() is not None),
        labels=[span.label(period.start) for period in periods],
        during={"from": address_of(begin)},
        periods=addresses(periods, end),
        models=ranks(models),
        failures=failures,
    )


def ranks(consumers: list[Consumer]) -> list[Rank]:
    """The consumers with their shares."""
    most = max((consumer.usage.requests for consumer in consumers), default=0) or 1
    return [Rank(consumer, round(100 * consumer.usage.requests / most)) for consumer in consumers]
