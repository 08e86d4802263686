"""The lists as CSV: whatever passes the filter that is looked at, up to a bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from flask import Response, request

from accounting.report import Brief
from blueprints.admin.display import TokenView
from blueprints.admin.queries import ProjectView
from blueprints.csv_table import csv_response
from blueprints.wire import audit_json, iso, project_json, token_json
from llmproxy.api_log.record import MICRO
from models import AuditEntry

MAX_ROWS = 10_000
_PROJECT = ("id", "name", "is_active", "key_hint", "base_url", "stream_usage", "created_at")
_TOKEN = ("id", "label", "project_id", "expires_at", "is_active", "rate_limit", "request_count", "created_at")
_LATELY = ("requests_30d", "errors_30d", "cost_usd_30d")
_AUDIT = ("at", "actor", "address", "action", "target_type", "target_id", "target_name")


def wants_csv() -> bool:
    """Whether the list is asked for as a file."""
    return request.args.get("format") == "csv"


def projects(rows: Iterable[ProjectView]) -> Response:
    """Projects with the number of their live tokens, and what they did lately."""
    table = (
        [*_picked(project_json(row.project), _PROJECT), row.live_tokens, iso(row.last_used_at), *_lately(row.lately)]
        for row in rows
    )
    return csv_response([*_PROJECT, "live_tokens", "last_used_at", *_LATELY], table, "projects.csv")


def tokens(rows: Iterable[TokenView]) -> Response:
    """Tokens with their projects' names, their states, and what they did lately."""
    table = (
        [
            *_picked(token_json(row.token), _TOKEN),
            *(iso(row.token.last_used_at), row.project.name, row.state),
            *_lately(row.lately or Brief()),
        ]
        for row in rows
    )
    return csv_response([*_TOKEN, "last_used_at", "project", "state", *_LATELY], table, "tokens.csv")


def audit(rows: Iterable[AuditEntry]) -> Response:
    """Entries of the audit trail, with what was before and after as JSON."""
    table = (
        [*_picked(audit_json(row), _AUDIT), *(orjson.dumps(facts).decode() for facts in (row.before, row.after))]
        for row in rows
    )
    return csv_response([*_AUDIT, "before", "after"], table, "audit.csv")


def _lately(brief: Brief) -> list[Any]:
    return [brief.requests, brief.errors, brief.cost / MICRO]


def _picked(fields: dict[str, Any], names: Iterable[str]) -> list[Any]:
    return [fields[name] for name in names]
