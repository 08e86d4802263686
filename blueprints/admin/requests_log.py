"""Requests: the latest records of the call log, one of them in full, and those that arrive while one looks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, get_args

import orjson
from flask import Response, current_app, jsonify, request, url_for

from blueprints.admin import exports, queries
from blueprints.admin.advice import Advice, advice
from blueprints.admin.answers import page, wants_json
from blueprints.admin.site import bp
from blueprints.csv_table import csv_response
from blueprints.wire import iso
from control.errors import NotFound
from llmproxy.api_log.latest import Filter, Found, Place, read_at, search
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.errors import Outcome
from services import Services

PAGE_SIZE = 50
OUTCOMES: dict[str, str] = {name: name.replace("_", " ").capitalize() for name in get_args(Outcome)}
# Beside the outcomes: all that has gone wrong in any way.
FAILED = "failed"
COST_SOURCES = {
    "reported": "By the usage that the upstream told",
    "stored": "By the usage of what was read, which counts once",
    "computed": "By what was asked for and made",
    "none": "Costs nothing",
    "absent": "The upstream told no usage",
    "unpriced": "What it used has no price",
}
# The columns of the file; the names of what they hold in ReadRecord, and of project and token.
_COLUMNS = (
    *("arrived_at", "request_id", "token_id", "project_id", "method", "endpoint", "billed_model", "requested_model"),
    *("status_code", "outcome", "error_code", "error_type", "duration_ms", "ttft_ms", "prompt_tokens"),
    *("completion_tokens", "total_tokens", "cost_usd", "client_address", "upstream_request_id", "count"),
    *("project", "token"),
)
_STATUS = re.compile(r"[1-5](xx|[0-9]{2})", re.IGNORECASE)
_GOOD, _BAD = 400, 500
_ID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a filter: its field, and a sentence."""

    field: str
    words: str


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
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.record.failed_inside:
            return "Failed inside"
        name = self.record.outcome or "Unknown outcome"
        return OUTCOMES.get(name, name)


@bp.get("/requests")
def requests() -> Response:
    """The latest records that pass the filter."""
    sent = _sent_filters()
    wanted, problem = _filter(sent)
    before = Place.parse(request.args.get("before", ""))
    as_csv = exports.wants_csv()
    limit = exports.MAX_ROWS if as_csv else PAGE_SIZE
    found = search(_log_path(), wanted, limit=limit, before=before) if not problem else Found()
    if as_csv:
        return csv_response(_COLUMNS, map(_cells, _views(found.records)), "requests.csv")
    if wants_json():
        data = [record.fields for _, record in found.records]
        return jsonify(data=data, before=str(found.older) if found.older else None)
    return page(
        "requests.html",
        400 if problem else 200,
        rows=_views(found.records),
        found=found,
        before=before,
        filters=sent,
        filters_in_use={name: value for name, value in sent.items() if value},
        problem=problem,
        projects=queries.project_choices(),
        outcomes={FAILED: "Any error or refusal"} | OUTCOMES,
        reached=found.records[-1][1].arrived_at if found.records else None,
    )


@bp.get("/requests/tail")
def tail() -> Response:
    """For the live view: rows of the records after the place `after`, and the place to ask for next."""
    after = Place.parse(request.args.get("after", ""))
    wanted, problem = _filter(_sent_filters())
    found = search(_log_path(), wanted, limit=PAGE_SIZE, until=after) if not problem else Found()
    response = page("_request_rows.html", rows=_views(found.records))
    response.headers["X-Next-Place"] = str(found.end or after or "")
    return response


@bp.get("/requests/<request_id>")
def one_request(request_id: str) -> Response:
    """One record in full; the link says by `at` where it stands, or the latest stretch of the log is searched."""
    place = Place.parse(request.args.get("at", ""))
    record = read_at(_log_path(), place) if place else None
    if record is None or record.request_id != request_id:
        found = search(_log_path(), Filter(request_id=request_id), limit=1)
        record = found.records[0][1] if found.records else None
    if record is None:
        raise NotFound("request_id", "record in the latest part of the call log")
    if wants_json():
        return jsonify(record.fields)
    (row,) = _views([(place, record)])
    text = orjson.dumps(record.fields, option=orjson.OPT_INDENT_2).decode()
    told = advice(record)
    way_out = _way_out(told, row) if told else None
    return page("request.html", row=row, status_words=_status_words(record), text=text, advice=told, way_out=way_out)


def _way_out(told: Advice, row: RecordView) -> str | None:
    """The address of the page where the advice is followed; None where there is none, or not any more."""
    record = row.record
    if told.place == "token":
        return url_for(f"{bp.name}.token", token_id=record.token_id) if row.token else None
    if told.place == "project":
        return url_for(f"{bp.name}.project", project_id=record.project_id) if row.project else None
    if told.place == "new_token":
        return url_for(f"{bp.name}.new_token", project_id=record.project_id if row.project else None)
    return url_for(f"{bp.name}.health") if told.place else None


def latest(wanted: Filter, *, limit: int) -> list[RecordView]:
    """The latest records that pass, as far back as one search goes."""
    return _views(search(_log_path(), wanted, limit=limit).records)


def _log_path() -> Path:
    return Services.of(current_app).settings.log_path


def _sent_filters() -> dict[str, str]:
    return {
        name: request.args.get(name, "").strip() for name in ("project_id", "token", "status", "outcome", "model")
    }


def _filter(sent: Mapping[str, str]) -> tuple[Filter, Problem | None]:
    """What to search for, and what is wrong with the filters."""
    status = sent["status"].lower()
    if status and not _STATUS.fullmatch(status):
        return Filter(), Problem("status", "Status must be a number like 429, or a class like 4xx.")
    token_id, problem = _token_id(sent["token"])
    if problem:
        return Filter(), Problem("token", problem)
    wanted = Filter(
        project_id=sent["project_id"] or None,
        token_id=token_id,
        status=status.removesuffix("xx") or None,
        outcome=sent["outcome"] if sent["outcome"] not in ("", FAILED) else None,
        failed=sent["outcome"] == FAILED,
        model=sent["model"] or None,
    )
    return wanted, None


def _token_id(text: str) -> tuple[str | None, str | None]:
    """The token meant by an id, by how it begins, or by a label; what is wrong where that is none, or several."""
    # The log may name tokens that are no more.
    if not text or len(text) == _ID_LENGTH:
        return text or None, None
    found = queries.tokens_called(text, 2)
    if len(found) == 1:
        return found[0], None
    if found:
        return None, f"Several tokens are called “{text}”. Follow the link on the page of the one that is meant."
    return None, f"No token has the label “{text}”, or an id that begins so."


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
