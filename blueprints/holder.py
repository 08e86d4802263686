"""`/self`: what a token's holder may know of it, as JSON for whoever sends it, and as a page where it is pasted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, make_response, render_template, request
from werkzeug.exceptions import TooManyRequests

from accounting import report
from accounting.report import Filters
from blueprints import shapes
from blueprints.admin.display import limit_view, when
from blueprints.operation import Operation
from blueprints.welcome import api_url
from blueprints.wire import iso, meter_json
from control import limits, tokens
from llmproxy.admission import SECRET_LENGTH, bearer_of, hash_token, utc_now, without_prefix
from llmproxy.api_log.latest import Filter, search
from llmproxy.errors import ProxyError, TokenRevoked, UnknownToken
from llmproxy.times import microseconds
from models import Meter, Token, db
from services import Services

bp = Blueprint("holder", __name__)

A_MINUTE = 60
_KINDS = ("application/json", "text/html")  # the first of them for whoever takes either
_REFUSALS, _MODELS = 10, 20
# Everything stands in the one document, since nothing else is served on this listener.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@bp.after_request
def keep_nowhere(response: Response) -> Response:
    """No cache on the way is to have what only the holder may see."""
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("/self")
@Operation(answer=shapes.Holder, also=("text/html",), security="witheringToken")
def show_self() -> Response:
    """What the bearer may know of its token; a browser without one gets the page to paste it in."""
    if "Authorization" not in request.headers and request.accept_mimetypes.best_match(_KINDS) == "text/html":
        return _page()
    found = _find(bearer_of(request.headers.get("Authorization")))
    return jsonify(_told(found, limits.holding_for(db.session, found)))


@bp.post("/self")
def show_pasted() -> Response:
    """The same as a page, for the token in the form's field."""
    try:
        found = _find((request.form.get("token") or "").strip())
    except ProxyError as exc:
        return _page(exc.status, problem=exc.message)
    now, meters = utc_now(), limits.holding_for(db.session, found)
    views = [limit_view(meter, now) for meter in meters]
    return _page(told=_told(found, meters), limits=views, expires=when(found.expires_at))


def _page(status: int = 200, **values: Any) -> Response:
    response = make_response(render_template("self.html", base_url=api_url(), **values), status)
    response.headers.update(_PAGE_HEADERS)
    return response


def _find(secret: str) -> Token:
    """The token, whether or not it has expired. Raises UnknownToken, TokenRevoked, TooManyRequests."""
    bare, now = without_prefix(secret), utc_now()
    token_hash = hash_token(bare)
    # Who guesses is counted by where it comes from.
    token = tokens.find_by_hash(db.session, token_hash, now) if len(bare) == SECRET_LENGTH else None
    parts = Services.of(current_app)
    who = token_hash if token else parts.client_address(request.environ) or ""
    if parts.asked.count(who, int(now.timestamp()) // 60) > A_MINUTE:
        raise TooManyRequests(f"Ask at most {A_MINUTE} times a minute.")
    if token is None:
        raise UnknownToken
    if not token.is_active:
        raise TokenRevoked
    return token


def _told(token: Token, meters: list[Meter]) -> dict[str, Any]:
    now = utc_now()
    now_us, wanted = microseconds(now), Filters(token_id=token.id)
    names = ("name", "unit", "period", "amount", "spent", "reserved", "remaining", "resets_at", "models")
    held = [meter_json(meter, now_us) for meter in meters]
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    month, end = today.replace(day=1), now + timedelta(hours=1)
    return {
        "id": token.id,
        "label": token.label,
        "project": token.project.name,
        "base_url": api_url(),
        "is_expired": token.expires_at <= now,
        "expires_at": iso(token.expires_at),
        "limits": [{name: meter[name] for name in names} for meter in held],
        "rules": token.rules,
        "project_rules": token.project.rules,
        "usage": {
            "today": _sums(report.totals(db.session, wanted, today, end)),
            "this_month": _sums(report.totals(db.session, wanted, month, end)),
            "by_model": [
                {"model": row.key or None} | _sums(row.usage)
                for row in report.top(db.session, "model", wanted, month, end, limit=_MODELS)
            ],
        },
        "last_refusals": _last_refusals(token),
        "contact": Services.of(current_app).settings.contact or None,
    }


def _sums(usage: report.Usage) -> dict[str, Any]:
    names = ("requests", "refusals", "errors", "prompt_tokens", "completion_tokens", "total_tokens")
    return {name: getattr(usage, name) for name in names} | {"cost_usd": usage.cost / 10**6}


def _last_refusals(token: Token) -> list[dict[str, Any]]:
    path = Services.of(current_app).settings.log_path
    found = search(path, Filter(token_id=token.id, outcome="refused"), limit=_REFUSALS).records
    return [
        {
            "at": iso(record.arrived_at),
            "request_id": record.request_id,
            "status": record.status_code,
            "code": record.error_code,
        }
        for _, record in found
    ]
