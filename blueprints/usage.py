"""`GET /manage/usage`: the sums of usage as JSON, for whoever holds the management token."""

from __future__ import annotations

from typing import Any, cast

from flask import Blueprint, Response, jsonify

from accounting.report import Filters, Kind, Step, series, top, totals, whole_hours
from blueprints import schemas
from blueprints.management import only_operators
from blueprints.wire import iso, read_query, usage_json
from models import db

bp = Blueprint("usage", __name__, url_prefix="/manage")
bp.before_request(only_operators)


@bp.get("/usage")
def usage() -> Response:
    """Usage by hour, day, project, token or model, and the total of the same span."""
    query = read_query(schemas.UsageQuery())
    filters = Filters(query.get("project_id"), query.get("token_id"), query.get("model"))
    begin, end = whole_hours(query["begin"], query["end"])
    group = query["group_by"]
    answer: dict[str, Any] = {"from": iso(begin), "to": iso(end), "group_by": group}
    if group in ("hour", "day"):
        periods = series(db.session, filters, begin, end, step=cast(Step, group))
        answer["data"] = [{group: iso(period.start), **usage_json(period.usage)} for period in periods]
    else:
        consumers = top(db.session, cast(Kind, group), filters, begin, end, limit=query["limit"] + 1)
        answer["data"] = [
            {**_who(group, consumer.key, consumer.name), **usage_json(consumer.usage)}
            for consumer in consumers[: query["limit"]]
        ]
        answer["has_more"] = len(consumers) > query["limit"]
    answer["total"] = usage_json(totals(db.session, filters, begin, end))
    return jsonify(answer)


def _who(group: str, key: str, name: str | None) -> dict[str, str | None]:
    """Whose usage a row is; null where the records named nobody."""
    return {"model": key or None} if group == "model" else {f"{group}_id": key or None, "name": name}
