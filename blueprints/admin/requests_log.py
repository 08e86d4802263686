"""Requests: the latest records of the call log, one of them in full, and those that arrive while one looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

import orjson
from flask import Response, current_app, jsonify, make_response, redirect, request, url_for

from accounting import index, report
from accounting.report import Brief, Filters, Kind
from accounting.rollup import node_id
from blueprints.admin import exports, queries, request_filters, searches
from blueprints.admin.advice import advice
from blueprints.admin.answers import page, wants_json
from blueprints.admin.costs import price_date
from blueprints.admin.request_filters import ERROR, FAILED, SLOWEST, Problem, Sent
from blueprints.admin.site import bp
from blueprints.admin.ways_out import way_out
from blueprints.csv_table import csv_response
from blueprints.errors import error_response
from blueprints.wire import iso
from control.errors import NotFound
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter, Found, Place, read_at, search
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.errors import Outcome
from models import db
from services import Services

PAGE_SIZE = 50
# How many that came since the last look are counted; PAGE_SIZE of them are shown.
MOST_AT_ONCE = 1000
SPENDERS = 5
_SPENDING: tuple[Kind, ...] = ("project", "token")
OUTCOMES: dict[str, str] = {name: name.replace("_", " ").capitalize() for name in get_args(Outcome)}
COST_SOURCES = {
    "reported": "By the usage that the upstream told",
    "stored": "By the usage of what was read, which counts once",
    "computed": "By what was asked for and made",
    "none": "Costs nothing",
    "absent": "The upstream told no usage",
    "assumed": "Assumed, for the upstream told no usage",
    "unpriced": "What it used has no price",
}
USAGE_SOURCES = {
    "reported": "Told by the upstream",
    "partial": "Told by the upstream in part: prompt or completion could not be read",
    "stored": "Told with an object that was read: it counts nothing",
    "absent": "Not told",
}
# The columns of the file; the names of what they hold in ReadRecord, and of project and token.
_COLUMNS = (
    *("arrived_at", "request_id", "token_id", "project_id", "method", "endpoint", "billed_model", "requested_model"),
    *("status_code", "outcome", "error_code", "error_type", "duration_ms", "ttft_ms", "prompt_tokens"),
    *("completion_tokens", "total_tokens", "cost_usd", "client_address", "upstream_request_id", "count"),
    *("user_agent", "secret", "project", "token"),
)
_GOOD, _BAD = 400, 500


@dataclass(frozen=True, slots=True)
class RecordView:
    """A record as a row of a table shows it, with the names of its project and its token, of those that still are."""

    record: ReadRecord
    place: Place | None
    project: str | None
    token: str | None

    @property
    def tone(self) -> str:
        """The colour of its status."""
        status = self.record.status_code
        if status is None or status >= _BAD or self.record.failed_inside:
            return "bad"
        return "good" if status < _GOOD else "warn"

    @property
    def cost_words(self) -> str:
        """How its cost came about, or why there is none."""
        words = COST_SOURCES.get(self.record.cost_source or "", "")
        return f"{words}, prices of {self.record.price_date}" if self.record.price_date else words

    @property
    def usage_words(self) -> str:
        """Whether its usage was told, and whose it is."""
        source = self.record.usage_source or ""
        return USAGE_SOURCES.get(source, source or "Unknown")

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.record.failed_inside:
            return "Failed inside"
        if self.record.is_cut:
            return "Cut off"
        name = self.record.outcome or "Unknown outcome"
        return OUTCOMES.get(name, name)


@bp.get("/requests")
def requests() -> Response:
    """The records that pass the filter: the latest of the log, or by the index where a time is asked for."""
    return _list(*request_filters.read(request.args))


@bp.post("/requests")
def filter_requests() -> Response:
    """Turn a filled-in filter into an address. A secret among it becomes its token's id, and stands in no address."""
    sent, problem = request_filters.resolve(request.form)
    if problem:
        return _list(sent, Filter(), problem)
    arguments: dict[str, Any] = request_filters.in_use(sent)
    return make_response(redirect(url_for(f"{bp.name}.requests", **arguments), 303))


def _list(sent: Sent, wanted: Filter, problem: Problem | None) -> Response:
    as_csv = exports.wants_csv()
    if problem and (as_csv or wants_json()):
        return error_response(400, problem.words, param=problem.field)
    limit = exports.MAX_ROWS if as_csv else PAGE_SIZE
    is_indexed = request_filters.needs_index(sent, wanted)
    before, after = Place.parse(request.args.get("before", "")), index.read_mark(request.args.get("after"))
    place = after if is_indexed else before
    is_elsewhere = place is None and any(request.args.get(name) for name in ("before", "after"))
    if is_elsewhere:
        searches.refuse("is no place in this list: follow its own links.", "after" if is_indexed else "before")
    found, older, gone = Found(), None, 0
    if is_indexed and not problem:
        browsed = _browse(wanted, slowest=sent["order"] == SLOWEST, limit=limit, after=request.args.get("after"))
        found.records, gone = browsed.records, browsed.gone
        older = {"after": browsed.next} if browsed.next else None
    elif not problem:
        found = search(_log_path(), wanted, limit=limit, before=before or _end_of(wanted))
        older = {"before": str(found.older)} if found.older else None
    if as_csv:
        return _as_csv(sent, found, older)
    if wants_json():
        data = [record.fields for _, record in found.records]
        return jsonify(data=data, **{"before": None} | (older or {}))
    return page(
        "requests.html",
        400 if problem else 200,
        rows=_views(found.records),
        found=found,
        older=older,
        is_first=place is None,
        is_elsewhere=is_elsewhere,
        is_indexed=is_indexed,
        indexed_since=_indexed_since(wanted) if is_indexed else None,
        spenders=_spenders(wanted) if sent["order"] != SLOWEST else {},
        gone=gone,
        most_rows=exports.MAX_ROWS,
        filters=request_filters.for_form(sent),
        filters_in_use=request_filters.in_use(sent),
        has_more_filters=any(sent[name] or (problem and problem.field == name) for name in request_filters.RARE),
        problem=problem,
        projects=[
            (request_filters.NONE, "No project"),
            *queries.project_choices(sent["project_id"].removeprefix(request_filters.NONE)),
        ],
        outcomes={FAILED: "Any error or refusal", ERROR: "Any error"} | OUTCOMES,
        spans=[(name, words) for name, (words, _) in request_filters.SPANS.items()],
        orders=request_filters.ORDERS,
        secrets=request_filters.SECRETS,
        lacks=request_filters.LACKS,
        reached=found.records[-1][1].arrived_at if found.records else None,
    )


def _as_csv(sent: Sent, found: Found, older: dict[str, str] | None) -> Response:
    """As a file; where there may be more, its header `Link` leads to the file that goes on."""
    response = csv_response(_COLUMNS, map(_cells, _views(found.records)), "requests.csv")
    if older:
        arguments: dict[str, Any] = request_filters.in_use(sent) | older
        response.headers["Link"] = f'<{url_for(f"{bp.name}.requests", format="csv", **arguments)}>; rel="next"'
    return response


def _spenders(wanted: Filter) -> dict[str, list[tuple[str, str | None, Brief]]]:
    """Who cost the most in the time that is listed; nobody beside a list of some of its calls, or without prices."""
    has_all = replace(wanted, project_id=None, token_id=None, begin=None, end=None) == Filter()
    if wanted.begin is None or not has_all or price_date() is None or request.args.get("after"):
        return {}
    whose = Filters(project_id=wanted.project_id, token_id=wanted.token_id)
    end = wanted.end or utc_now()
    return {
        kind: report.costliest(db.session, kind, whose, wanted.begin, end, limit=SPENDERS)
        for kind in _SPENDING
        if wanted.token_id is None and (kind == "token" or wanted.project_id is None)
    }


def _browse(wanted: Filter, *, slowest: bool, limit: int, after: str | None) -> index.Browsed:
    settings = Services.of(current_app).settings
    node = node_id(settings.data_dir)
    return index.browse(db.session, settings.log_path, node, wanted, slowest=slowest, limit=limit, after=after)


def _end_of(wanted: Filter) -> Place | None:
    """Before which the log holds all that is wanted; None for its end."""
    return index.end_of(db.session, node_id(Services.of(current_app).settings.data_dir), wanted)


def _indexed_since(wanted: Filter) -> datetime | None:
    """When the index begins, where the filter asks for times before."""
    at = index.begins_at(db.session)
    if at is None:
        return None
    begins = datetime.fromtimestamp(at / 1000, UTC)
    return begins if wanted.begin is None or wanted.begin < begins else None


@bp.get("/requests/tail")
def tail() -> Response:
    """For the live view: rows of the records after the place `after`, and the place to ask for next."""
    after = Place.parse(request.args.get("after", ""))
    sent, wanted, problem = request_filters.read(request.args)
    if after is None and request.args.get("after"):
        problem = Problem("after", "No place in the call log.")
    if problem:
        return error_response(400, problem.words, param=problem.field)
    found = search(_log_path(), wanted, limit=MOST_AT_ONCE, until=after)
    shown = found.records[:PAGE_SIZE]
    response = page(
        "_request_rows.html",
        rows=_views(shown),
        left_out=len(found.records) - len(shown),
        is_more=found.older is not None,
        filters_in_use=request_filters.in_use(sent),
    )
    response.headers["X-Next-Place"] = str(found.end or after or "")
    return response


@bp.get("/requests/<request_id>")
def one_request(request_id: str) -> Response:
    """One record in full; the link says by `at` where it stands, or the latest stretch of the log is searched."""
    place = Place.parse(request.args.get("at", ""))
    record = read_at(_log_path(), place) if place else None
    if record is None or record.request_id != request_id:
        place, record = _record_of(request_id)
    if record is None:
        raise NotFound("request_id", "record in the call log, or only in its older part")
    if wants_json():
        return jsonify(record.fields)
    (row,) = _views([(place, record)])
    text = orjson.dumps(record.fields, option=orjson.OPT_INDENT_2).decode()
    told = advice(record)
    return page(
        "request.html",
        row=row,
        status_words=_status_words(record),
        text=text,
        websocket=_websocket(place, record),
        advice=told,
        way_out=way_out(told, record, has_project=bool(row.project), has_token=bool(row.token)) if told else None,
    )


def _websocket(place: Place | None, record: ReadRecord) -> dict[str, Any] | None:
    """Of a WebSocket and of its responses: where its own record stands, once it has ended, and what lists them."""
    websocket_id = record.request_id if record.is_websocket else record.websocket_id
    if websocket_id is None:
        return None
    at, own = (place, record) if record.is_websocket else _record_of(websocket_id)
    return {"id": websocket_id, "at": at, "responses": request_filters.responses_of(websocket_id, own)}


def _record_of(request_id: str) -> tuple[Place | None, ReadRecord | None]:
    """A record by its id, which tells when it arrived; by a search of the latest stretch where that does not help."""
    wanted = request_filters.by_id(request_id)
    found = search(_log_path(), Filter(request_id=request_id), limit=1).records
    if not found and wanted.begin:
        found = _browse(wanted, slowest=False, limit=1, after=None).records
    return found[0] if found else (None, None)


def latest(wanted: Filter, *, limit: int) -> list[RecordView]:
    """The latest records that pass, as far back as one search goes."""
    return _views(search(_log_path(), wanted, limit=limit).records)


def _log_path() -> Path:
    return Services.of(current_app).settings.log_path


def _views(records: Sequence[tuple[Place | None, ReadRecord]]) -> list[RecordView]:
    projects, tokens = queries.names_of(
        (record.project_id for _, record in records), (record.token_id for _, record in records)
    )
    return [
        RecordView(record, place, projects.get(record.project_id), tokens.get(record.token_id))
        for place, record in records
    ]


def _cells(row: RecordView) -> list[Any]:
    first, *facts = (getattr(row.record, name) for name in _COLUMNS[:-2])
    return [iso(first), *facts, row.project, row.token]


def _status_words(record: ReadRecord) -> str:
    try:
        return HTTPStatus(record.status_code or 0).phrase
    except ValueError:
        return "Client closed request" if record.outcome == "client_closed" else ""
