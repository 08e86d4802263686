"""Overview: what goes through, what it costs, what fails, and what withers next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flask import Response, current_app, jsonify, request

from accounting import ledger
from accounting import report as usage_report
from accounting.report import EVERYBODY, Consumer, Kind, Period, Step, Usage
from blueprints.admin import queries
from blueprints.admin.answers import page, wants_json
from blueprints.admin.charts import charts
from blueprints.admin.costs import price_date, unpriced
from blueprints.admin.requests_log import RecordView, latest
from blueprints.admin.site import bp
from blueprints.wire import usage_json
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter
from models import db
from services import Services

TOP = 5
_KINDS: tuple[Kind, ...] = ("project", "model", "token")


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time to look back over."""

    words: str
    length: timedelta
    step: Step
    form: str


SPANS = {
    "24h": Span("24 hours", timedelta(hours=24), "hour", "%H:%M"),
    "7d": Span("7 days", timedelta(days=7), "hour", "%d %b %H:%M"),
    "30d": Span("30 days", timedelta(days=30), "day", "%d %b"),
}


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the biggest users: its share of the biggest one's requests in percent."""

    consumer: Consumer
    percent: int


@bp.get("/")
def overview() -> Response:
    """The last 24 hours, 7 or 30 days."""
    name = request.args.get("span", "24h")
    name = name if name in SPANS else "24h"
    span = SPANS[name]
    now = utc_now()
    begin = now - span.length
    totals = usage_report.totals(db.session, EVERYBODY, begin, now)
    if wants_json():
        cost_usd = usage_json(totals)["cost_usd"]
        return jsonify(
            span=name,
            requests=totals.requests,
            errors=totals.errors,
            refusals=totals.refusals,
            cost_usd=cost_usd,
            unpriced=totals.unpriced,
        )
    periods = usage_report.series(db.session, EVERYBODY, begin, now, step=span.step)
    settings = Services.of(current_app).settings
    return page(
        "overview.html",
        span_name=name,
        spans=SPANS,
        totals=totals,
        error_percent=_percent(totals.errors, totals.requests - totals.refusals),
        refusal_percent=_percent(totals.refusals, totals.requests),
        charts=charts(periods, with_cost=price_date() is not None),
        price_date=price_date(),
        unpriced=unpriced(EVERYBODY, span.length),
        silent=usage_report.silent_streams(db.session, EVERYBODY, begin, now)[:TOP],
        labels=[period.start.strftime(span.form) for period in periods],
        ends=_ends(periods, span),
        tops={kind: _ranks(usage_report.top(db.session, kind, EVERYBODY, begin, now, limit=TOP)) for kind in _KINDS},
        reasons=usage_report.refusals_by_reason(db.session, EVERYBODY, begin, now),
        refusals=_latest_refusals(totals),
        withering=queries.next_to_wither(TOP, default_limit=settings.rate_limit_per_hour),
        readers=ledger.lags(settings),
        steps=_first_steps(totals),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole > 0 else "0%"


def _ends(periods: list[Period], span: Span) -> tuple[str, str]:
    """The times at both ends of the charts."""
    return (periods[0].start.strftime(span.form), periods[-1].start.strftime(span.form)) if periods else ("", "")


def _ranks(consumers: list[Consumer]) -> list[Rank]:
    most = max((consumer.usage.requests for consumer in consumers), default=0) or 1
    return [Rank(consumer, round(100 * consumer.usage.requests / most)) for consumer in consumers]


def _latest_refusals(totals: Usage) -> list[RecordView]:
    # Where the sums know of none there is no need to look through the log for one.
    return latest(Filter(outcome="refused"), limit=TOP) if totals.refusals else []


def _first_steps(totals: Usage) -> dict[str, bool] | None:
    """What a new proxy has and still lacks, in order; None once calls go through."""
    if totals.requests:
        return None
    steps = queries.steps_done()
    return None if all(steps.values()) else steps
