"""
JSON in and out of the management API, which the admin pages speak to scripts: bodies and queries are read here, and
every shape that is answered is made here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson
from flask import Response, current_app, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from accounting.report import Usage
from control import limits
from llmproxy.admission import utc_now
from llmproxy.api_log.record import MICRO
from llmproxy.limits.amounts import shown as shown_amount
from llmproxy.limits.price_fields import TIERS
from llmproxy.limits.price_row import NEVER, Row
from llmproxy.limits.price_words import amounts, fees
from llmproxy.times import at_microsecond, iso_utc, microseconds
from models import AuditEntry, Meter, Project, Token
from services import Services

MAX_BODY_BYTES = 64 * 1024


def read_body(schema: Schema) -> dict[str, Any]:
    """The request's JSON body, checked. Raises ValidationError, RequestEntityTooLarge."""
    raw = request.get_data()
    if len(raw) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise ValidationError("The body must be JSON.") from exc
    values: dict[str, Any] = schema.load(data)
    return values


def read_query(schema: Schema) -> dict[str, Any]:
    """The request's query, checked. Raises ValidationError."""
    values: dict[str, Any] = schema.load(request.args.to_dict())
    return values


def iso(moment: datetime | None) -> str | None:
    """A time: ISO 8601, UTC, with Z."""
    return iso_utc(moment) if moment else None


def project_json(project: Project) -> dict[str, Any]:
    """A project as operators see it; of its key, the hint alone."""
    shown = _shown(project, "id", "name", "is_active", "base_url", "stream_usage", "key_hint", "created_at")
    return shown | _shown(project, "default_tier", "rules")


def token_json(token: Token) -> dict[str, Any]:
    """A token as operators see it: never the secret."""
    shown = _shown(token, "id", "project_id", "label", "is_active", "expires_at", "request_count")
    shown |= _shown(token, "window_started_at", "created_at", "last_used_at", "rules")
    return shown | {"rate_limit": token.rate_limit or Services.of(current_app).settings.rate_limit_per_hour}


def issued_json(secret: str, token: Token) -> dict[str, Any]:
    """A token that was just issued: the only time that its secret is shown."""
    return {"token": secret} | _shown(token, "id", "project_id", "expires_at")


def rotated_json(secret: str, token: Token, old_until: datetime) -> dict[str, Any]:
    """A token with a new secret: the only time that it is shown."""
    return issued_json(secret, token) | {"old_token_until": iso(old_until)}


def limited_json(shown: dict[str, Any], rows: Iterable[Meter]) -> dict[str, Any]:
    """A token or a project with its own meters."""
    now_us = microseconds(utc_now())
    return shown | {"meters": [meter_json(row, now_us) for row in rows]}


def meter_json(row: Meter, now_us: int) -> dict[str, Any]:
    """A meter and how it stands; amounts in its unit, dollars as text."""
    told = _shown(row, "id", "project_id", "token_id", "name", "unit", "period", "zone", "reserve")
    told["models"] = row.models.split(",") if row.models else None
    found = limits.standing(row, now_us)
    sums = {"amount": row.amount, "spent": found.spent, "reserved": found.reserved, "remaining": found.remaining}
    told |= {name: shown_amount(row.unit, amount) for name, amount in sums.items()}
    return told | {"resets_at": None if found.resets_at is None else iso(at_microsecond(found.resets_at))}


def audit_json(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit trail."""
    target = _shown(entry, "target_type", "target_id", "target_name")
    return target | _shown(entry, "id", "at", "actor", "address", "action", "before", "after")


def usage_json(usage: Usage) -> dict[str, Any]:
    """Sums of usage."""
    sums = asdict(usage)
    return sums | {f"{name}_usd": sums.pop(name) / MICRO for name in ("cost", "cost_assumed")}


def price_json(row: Row) -> dict[str, Any]:
    """A model's prices: by tier, up to the line and above it."""
    tiers = {}
    for tier in (None, *(tier for tier in TIERS if tier in row.short)):
        above = {"long": amounts(row.long[tier])} if row.long_over < NEVER else {}
        tiers[tier or "default"] = amounts(row.short[tier]) | above
    return {
        "model": row.model,
        "origin": row.origin,
        "source": row.source or None,
        "date": row.date or None,
        "max_in": row.max_in,
        "max_out": row.max_out,
        "reasons": row.reasons,
        "long_over": row.long_over if row.long_over < NEVER else None,
        "tiers": tiers,
        "tools": fees(row),
    }


def _shown(row: Any, *names: str) -> dict[str, Any]:
    """Columns of a row, times as text."""
    values = {name: getattr(row, name) for name in names}
    return {name: iso(value) if isinstance(value, datetime) else value for name, value in values.items()}


def without_host(response: Response) -> Response:
    """A redirect to a path alone. Flask names the host that the request did, and the scheme behind a front server."""
    location = response.headers.get("Location", "")
    if location.startswith(request.host_url):
        response.headers["Location"] = location[len(request.host_url) - 1 :]
    return response
