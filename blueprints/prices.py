"""`GET /manage/prices`: what a model costs, and which models in use have no price, for the management token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, jsonify

from accounting.report import EVERYBODY, unpriced_models
from blueprints import schemas, shapes
from blueprints.management import only_operators
from blueprints.operation import Operation
from blueprints.wire import price_json
from llmproxy.admission import utc_now
from llmproxy.limits.price_words import why_unpriced
from llmproxy.limits.prices import Prices
from models import db
from services import Services

_DAYS = 30

bp = Blueprint("prices", __name__, url_prefix="/manage")
bp.before_request(only_operators)


@bp.get("/prices")
@Operation(query=schemas.PriceQuery, answer=shapes.Prices)
def prices(query: dict[str, Any]) -> Response:
    """The sheet's date, and either a model's prices or the models of the last 30 days without one."""
    kept = Services.of(current_app).prices
    if kept is None:
        return jsonify(date=None, price=None, unpriced=[])
    if "model" not in query:
        return jsonify(date=kept.date, unpriced=_unpriced(kept, query["limit"]))
    row = kept.find(query["model"], query.get("project"))
    if row is None:
        return jsonify(date=kept.date, price=None, advice=why_unpriced(kept, query["model"]))
    return jsonify(date=kept.date, price=price_json(row))


def _unpriced(kept: Prices, limit: int) -> list[dict[str, Any]]:
    now = utc_now()
    found = unpriced_models(db.session, EVERYBODY, now - timedelta(days=_DAYS), now, limit=limit)
    return [
        {"model": model or None, "calls": calls, "advice": why_unpriced(kept, model)}
        for model, calls in found.items()
    ]
