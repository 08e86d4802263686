"""The audit trail, newest first: who changed what and when, here, by `/manage` or on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Response, jsonify, request

from blueprints.admin import exports, queries, searches, time_range, zones
from blueprints.admin.answers import page, wants_json
from blueprints.admin.request_filters import Problem
from blueprints.admin.site import bp
from blueprints.wire import audit_json
from models import AuditEntry

PAGE_SIZE = 50
MAX_ID = 2**31 - 1
_FIELDS = ("type", "actor", *time_range.NAMES, "target")
TARGET_TYPES = {"project": "Projects", "token": "Tokens", "sign_in": "Sign-ins"}

_ACTIONS = {
    "project.create": "created the project",
    "project.change": "changed the project",
    "project.delete": "deleted the project",
    "project.revoke_tokens": "revoked all tokens of",
    "project.rotate_encryption": "sealed anew the key of",
    "project.create_meter": "gave a limit to the project",
    "project.change_meter": "changed a limit of the project",
    "project.delete_meter": "deleted a limit of the project",
    "project.reset_meter": "reset a limit of the project",
    "token.create_meter": "gave a limit to the token",
    "token.change_meter": "changed a limit of the token",
    "token.delete_meter": "deleted a limit of the token",
    "token.reset_meter": "reset a limit of the token",
    "token.issue": "issued the token",
    "token.change": "changed the token",
    "token.rotate": "gave a new secret to the token",
    "token.revoke": "revoked the token",
    "sign_in.fail": "could not sign in to",
}


@dataclass(frozen=True, slots=True)
class AuditView:
    """An entry as a page shows it; `changes` are (field, before, after), None where there is none."""

    entry: AuditEntry
    words: str
    title: str
    changes: list[tuple[str, str | None, str | None]]
    has_page: bool


@bp.get("/audit")
def audit() -> Response:
    """Entries, filtered by target and actor."""
    return searches.moved("audit", "target") or _list(request.args)


@bp.post("/audit")
def filter_audit() -> Response:
    """Turn a filled-in filter into an address, in which no secret stands."""
    form = request.form.to_dict() | time_range.for_address(request.form)
    found = searches.address("audit", form, _FIELDS, "target")
    return found or _list(form | {"target": ""}, Problem("target", searches.UNKNOWN))


def _list(said: Mapping[str, str], problem: Problem | None = None) -> Response:
    target, actor, kind = (
        said.get("target", "").strip(),
        said.get("actor", "").strip(),
        searches.choice(said, "type", TARGET_TYPES),
    )
    begin, end, wrong = time_range.moments(said)
    if wrong:
        searches.refuse("must be a time like 2026-11-23T18:30.", wrong)
        problem = Problem(wrong, time_range.words(str(zones.of_pages())))
    before = searches.number("before")
    is_elsewhere = before == 0
    if is_elsewhere:
        searches.refuse("is no place in this list: follow its own links.", "before")
    as_csv = exports.wants_csv()
    rows = queries.audit_entries(
        exports.MAX_ROWS if as_csv else PAGE_SIZE + 1,
        target_type=kind or None,
        target=target,
        actor=actor,
        begin=begin,
        end=end,
        before_id=min(before, MAX_ID) if before else None,
    )
    if as_csv:
        return exports.audit(rows)
    shown, has_more = rows[:PAGE_SIZE], len(rows) > PAGE_SIZE
    if wants_json():
        return jsonify(data=[audit_json(row) for row in shown], has_more=has_more)
    times = {name: said.get(name, "").strip() for name, moment in (("from", begin), ("to", end)) if moment}
    filters = {"type": kind, "target": target, "actor": actor} | times
    return page(
        "audit.html",
        400 if problem else 200,
        problem=problem,
        rows=_views(shown),
        older=shown[-1].id if has_more else None,
        before=before,
        filters=filters,
        times=time_range.for_form(said),
        is_elsewhere=is_elsewhere,
        is_filtered=any(filters.values()),
        types=TARGET_TYPES,
    )


def _views(entries: list[AuditEntry]) -> list[AuditView]:
    facts = [fact for entry in entries for fact in (entry.before, entry.after) if fact]
    projects, _ = queries.names_of((fact.get("project_id") for fact in facts), ())
    return [_view(entry, projects) for entry in entries]


def _view(entry: AuditEntry, projects: Mapping[str | None, str]) -> AuditView:
    before, after = (_named(facts or {}, projects) for facts in (entry.before, entry.after))
    fields = list(dict.fromkeys([*before, *after]))
    return AuditView(
        entry=entry,
        words=_ACTIONS.get(entry.action, entry.action),
        title=entry.target_name or entry.target_id[:8],
        changes=[(name, _said(before, name), _said(after, name)) for name in fields],
        has_page=entry.target_type in ("project", "token") and entry.action != "project.delete",
    )


def _named(facts: dict[str, Any], projects: Mapping[str | None, str]) -> dict[str, Any]:
    """The facts with the project's name in place of its id, where it still is."""
    name = projects.get(facts.get("project_id"))
    if name is None:
        return facts
    return {"project": name} | {key: value for key, value in facts.items() if key != "project_id"}


def _said(facts: dict[str, Any], name: str) -> str | None:
    if name not in facts:
        return None
    value = facts[name]
    if value is None:
        return "none"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
