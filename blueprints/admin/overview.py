"""Overview: what goes through, what it costs, what fails, and what withers next."""

from __future__ import annotations

from datetime import datetime

from flask import Response, current_app, jsonify, request

from accounting import ledger
from accounting import report as usage_report
from accounting.report import EVERYBODY, Kind, Usage
from blueprints.admin import queries, searches
from blueprints.admin.activity import ranks
from blueprints.admin.answers import page, wants_json
from blueprints.admin.charts import charts
from blueprints.admin.costs import price_date, unpriced
from blueprints.admin.requests_log import RecordView, latest
from blueprints.admin.site import bp
from blueprints.admin.spans import SPANS, address_of, addresses
from blueprints.wire import usage_json
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter
from models import db
from services import Services

TOP = 10
LATEST = 5
# From so many percent on, how many times as much is easier to read.
_MANY_TIMES = 900
_KINDS: tuple[Kind, ...] = ("project", "model", "token")


@bp.get("/")
def overview() -> Response:
    """The last 24 hours, 7 or 30 days."""
    span = SPANS[searches.choice(request.args, "span", SPANS, "24h")]
    begin, end = span.around(utc_now())
    totals = usage_report.totals(db.session, EVERYBODY, begin, end)
    if wants_json():
        cost_usd = usage_json(totals)["cost_usd"]
        return jsonify(
            span=span.name,
            requests=totals.requests,
            errors=totals.errors,
            refusals=totals.refusals,
            cost_usd=cost_usd,
            unpriced=totals.unpriced,
        )
    periods = span.periods(EVERYBODY, begin, end)
    settings = Services.of(current_app).settings
    return page(
        "overview.html",
        span=span,
        spans=SPANS,
        totals=totals,
        error_percent=_percent(totals.errors, totals.requests - totals.refusals),
        refusal_percent=_percent(totals.refusals, totals.requests),
        charts=charts(periods, end, with_cost=price_date() is not None),
        price_date=price_date(),
        unpriced=unpriced(EVERYBODY, span),
        silent=usage_report.silent_streams(db.session, EVERYBODY, begin, end)[:TOP],
        labels=[span.label(period.start) for period in periods],
        tops={kind: ranks(usage_report.top(db.session, kind, EVERYBODY, begin, end, limit=TOP)) for kind in _KINDS},
        reasons=usage_report.refusals_by_reason(db.session, EVERYBODY, begin, end),
        failures=_latest_failures(totals, begin),
        change=_changes(usage_report.totals(db.session, EVERYBODY, *span.before(begin)), totals),
        during={"from": address_of(begin)},
        periods=addresses(periods, end),
        withering=queries.next_to_wither(LATEST, default_limit=settings.rate_limit_per_hour),
        readers=ledger.lags(settings),
        steps=_first_steps(totals),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole > 0 else "0%"


def _latest_failures(totals: Usage, begin: datetime) -> list[RecordView]:
    # Where the sums know of none there is no need to look through the log for one.
    failed = totals.errors or totals.refusals
    return latest(Filter(failed=True, begin=begin), limit=LATEST) if failed else []


def _changes(before: Usage, now: Usage) -> dict[str, str]:
    """By how much each sum has changed against the time before, in words; none where that had nothing."""
    names = ("requests", "errors", "total_tokens", "cost")
    return {name: _change(was, getattr(now, name)) for name in names if (was := getattr(before, name))}


def _change(before: int, now: int) -> str:
    percent = round(100 * (now - before) / before)
    if percent >= _MANY_TIMES:
        return f"{now / before:,.0f} times"
    return f"{percent:+d}%".replace("-", "\N{MINUS SIGN}")


def _first_steps(totals: Usage) -> dict[str, bool] | None:
    """What a new proxy has and still lacks, in order; None once calls go through."""
    if totals.requests:
        return None
    steps = queries.steps_done()
    return None if all(steps.values()) else steps
