"""Where the way out of a failed call leads: the page of whoever can change what stopped it, at the very control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from flask import url_for

from blueprints.admin.advice import Advice
from blueprints.admin.request_filters import ERROR
from blueprints.admin.site import bp
from control import limits, tokens
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.limits.routes import find_route
from llmproxy.limits.rules import NO_RULES, Rules
from llmproxy.limits.rules_json import BadRules, read_rules
from models import Project, Token, db


def way_out(told: Advice, record: ReadRecord, *, has_project: bool, has_token: bool) -> str | None:
    """The address where the advice is followed; None where there is none, or not any more."""
    at = told.at or None
    if told.place == "new_token":
        return url_for(f"{bp.name}.new_token", project_id=record.project_id if has_project else None)
    if told.place == "alike":
        ended = ERROR if record.failed_inside else record.outcome
        return url_for(f"{bp.name}.requests", outcome=ended, token=record.token_id)
    if told.place == "project":
        return url_for(f"{bp.name}.project", project_id=record.project_id, _anchor=at) if has_project else None
    if told.place in ("token", "rules"):
        return _of_token(told, record, tokens.find(db.session, record.token_id or "")) if has_token else None
    return url_for(f"{bp.name}.health", _anchor=at) if told.place else None


def _of_token(told: Advice, record: ReadRecord, token: Token) -> str:
    at = told.at or None
    if told.place == "rules":
        owner = _whose_rules(told.at, record, token)
        if owner is not token:
            return url_for(f"{bp.name}.rules", project_id=token.project_id, _anchor=at)
        # There is no form for the rules of a token that is over.
        if not limits.is_over(token):
            return url_for(f"{bp.name}.rules", token_id=token.id, _anchor=at)
    elif told.at == "limits" and not limits.of(db.session, token) and limits.of(db.session, token.project):
        return url_for(f"{bp.name}.project", project_id=token.project_id, _anchor=at)
    return url_for(f"{bp.name}.token", token_id=token.id, _anchor=at)


def _whose_rules(at: str, record: ReadRecord, token: Token) -> Token | Project:
    """Whose rules stop such a call as they stand now: the token's, unless its project's alone do."""
    stop = _STOPS[at]
    if stop(_enforced(token.project.rules), record) and not stop(_enforced(token.rules), record):
        return token.project
    return token


def _enforced(document: Mapping[str, object] | None) -> Rules:
    try:
        rules = read_rules(document) if document else NO_RULES
    except BadRules:  # of a newer version; their form tells so
        return NO_RULES
    return rules if rules.mode == "enforce" else NO_RULES


def _stop_endpoint(rules: Rules, record: ReadRecord) -> bool:
    return not rules.allow_endpoint(find_route(record.method or "", record.endpoint or ""))


def _stop_parameters(rules: Rules, _record: ReadRecord) -> bool:
    # Which parameter it was the record does not say.
    return replace(rules, models=()).looks_at_bodies


# By the control that the advice leads to.
_STOPS: dict[str, Callable[[Rules, ReadRecord], bool]] = {
    "models": lambda rules, record: not rules.allow_model(record.requested_model or ""),
    "endpoints": _stop_endpoint,
    "addresses": lambda rules, record: not rules.allow_address(record.client_address or ""),
    "concurrency": lambda rules, _: rules.concurrency is not None,
    "unpriced": lambda rules, _: rules.unpriced == "refuse",
    "parameters": _stop_parameters,
}
