"""`GET /manage/usage`: the sums of usage as JSON, for whoever holds the management token."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from flask import Blueprint, Response, jsonify, request
from marshmallow import ValidationError

from accounting.report import Filters, Kind, Period, Step, local_days, series, top, totals, whole_hours
from accounting.zones import NoWholeHours
from blueprints import schemas, shapes
from blueprints.csv_table import CSV, csv_response
from blueprints.management import only_operators
from blueprints.operation import Operation
from blueprints.wire import iso, usage_json
from models import db

bp = Blueprint("usage", __name__, url_prefix="/manage")
bp.before_request(only_operators)


_STEPS = ("hour", "day")


@bp.get("/usage")
@Operation(query=schemas.UsageQuery, answer=shapes.UsageReport, also=(CSV,))
def usage(query: dict[str, Any]) -> Response:
    """
    Usage by hour, day, project, token or model, and the total of the same span.

    Whoever accepts text/csv rather than JSON gets the rows alone.
    """
    filters = Filters(query.get("project_id"), query.get("token_id"), query.get("model"))
    begin, end = whole_hours(query["begin"], query["end"])
    group = query["group_by"]
    answer: dict[str, Any] = {"from": iso(begin), "to": iso(end), "group_by": group}
    if group in _STEPS:
        periods = _periods(filters, begin, end, cast(Step, group), query.get("zone"))
        answer["data"] = [{group: _told(period.start), **usage_json(period.usage)} for period in periods]
    else:
        limit, after = query["limit"], query.get("after")
        found = top(db.session, cast(Kind, group), filters, begin, end, limit=limit + 1, after=after)
        consumers = found[:limit]
        answer["data"] = [
            {**_who(group, consumer.key, consumer.name), **usage_json(consumer.usage)} for consumer in consumers
        ]
        answer["has_more"] = len(found) > limit
        answer["next"] = schemas.rank_text(*consumers[-1].place) if answer["has_more"] else None
    answer["total"] = usage_json(totals(db.session, filters, begin, end))
    if request.accept_mimetypes.best_match(("application/json", CSV)) == CSV:
        whose = {group: None} if group in _STEPS else _who(group, "", None)
        table = _csv([whose | answer["total"], *answer["data"]], f"usage-by-{group}.csv")
        table.headers.update(_link(answer))
        return table
    return jsonify(answer)


def _periods(filters: Filters, begin: datetime, end: datetime, step: Step, zone: ZoneInfo | None) -> list[Period]:
    if zone is None:
        return series(db.session, filters, begin, end, step=step)
    try:
        return local_days(db.session, filters, begin, end, zone)
    except NoWholeHours as exc:
        words = (
            "is off from UTC by a part of an hour, and usage is summed up by hours of UTC: its days cannot be told."
        )
        raise ValidationError({"tz": [words]}) from exc


def _told(start: datetime) -> str | None:
    return iso(start) if start.tzinfo is UTC else start.isoformat()


def _link(answer: dict[str, Any]) -> dict[str, str]:
    """The header that leads on to the next page, where rows alone cannot: of the same span, whatever time it is."""
    if not answer.get("next"):
        return {}
    asked = {**request.args, **{name: answer[name] for name in ("from", "to")}, "after": answer["next"]}
    return {"Link": f'<?{urlencode(asked)}>; rel="next"'}


def _csv(rows: list[dict[str, Any]], name: str) -> Response:
    """A table with a column for each number, also of those that stand together in JSON; headed by the first row."""
    head, *flat = [dict(_flat(row)) for row in rows]
    return csv_response(head, (row.values() for row in flat), name)


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{name}_{part}", number) for part, number in value.items())
        else:
            yield name, value


def _who(group: str, key: str, name: str | None) -> dict[str, str | None]:
    """Whose usage a row is; null where the records named nobody."""
    return {"model": key or None} if group == "model" else {f"{group}_id": key or None, "name": name}
