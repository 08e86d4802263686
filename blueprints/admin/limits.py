"""Limits: the meters of a token or a project, shown as bars, added, changed, reset and deleted."""

from __future__ import annotations

from typing import Any, Literal

from flask import Response, request

from blueprints.admin import zones
from blueprints.admin.access import actor
from blueprints.admin.answers import done, page, shows
from blueprints.admin.display import LimitView, limit_view
from blueprints.admin.forms import LimitForm, NewLimitForm
from blueprints.admin.site import bp
from control import limits, projects, tokens
from llmproxy.admission import utc_now
from llmproxy.limits.amounts import shown as shown_amount
from models import Meter, Project, Token, db


def views(owner: Project | Token) -> list[LimitView]:
    """How an owner's own meters stand."""
    now = utc_now()
    return [limit_view(meter, now) for meter in limits.of(db.session, owner)]


@bp.get("/limits/new")
def new_limit() -> Response:
    """The form for a limit of the token or project that the query names."""
    owner = {name: request.args.get(name, "") for name in ("token_id", "project_id")}
    if owner["token_id"]:
        limits.require_life(tokens.find(db.session, owner["token_id"]), "token_id")
    return _new_again(NewLimitForm(formdata=None, data=owner | {"zone": zones.configured().key}))


@bp.post("/limits")
def add_limit() -> Response:
    """Add a limit."""
    added = limits.create(db.session, actor(), **NewLimitForm().values())
    return _to_owner(added, f"Added the limit “{added.name}”. It holds for the next request.")


@bp.get("/limits/<meter_id>", endpoint="limit")
def show_limit(meter_id: str) -> Response:
    """One limit, to be changed."""
    found = limits.find(db.session, meter_id)
    shown = {"amount": str(shown_amount(found.unit, found.amount)), "reserve": found.reserve, "name": found.name}
    return _limit_page(found, LimitForm(formdata=None, data=shown))


@bp.post("/limits/<meter_id>")
def change_limit(meter_id: str) -> Response:
    """Change a limit's name, amount or reserve."""
    found = limits.find(db.session, meter_id)
    changed = limits.change(db.session, actor(), meter_id, **LimitForm().changes(found.unit))
    return _to_owner(changed, f"Saved “{changed.name}”. It holds for the next request.")


@bp.get("/limits/<meter_id>/reset")
def confirm_reset_limit(meter_id: str) -> Response:
    """Ask before a limit has nothing spent."""
    return _ask(limits.find(db.session, meter_id), "reset")


@bp.get("/limits/<meter_id>/delete")
def confirm_delete_limit(meter_id: str) -> Response:
    """Ask before a limit is deleted."""
    return _ask(limits.find(db.session, meter_id), "delete")


@bp.post("/limits/<meter_id>/reset")
def reset_limit(meter_id: str) -> Response:
    """Let a limit have nothing spent."""
    changed = limits.reset(db.session, actor(), meter_id)
    return _to_owner(changed, f"“{changed.name}” has nothing spent now.")


@bp.post("/limits/<meter_id>/delete")
def delete_limit(meter_id: str) -> Response:
    """Delete a limit."""
    found = limits.find(db.session, meter_id)
    limits.delete(db.session, actor(), meter_id)
    return _to_owner(found, f"Deleted the limit “{found.name}”.")


@shows(NewLimitForm, of="add_limit")
def _new_again(form: NewLimitForm, status: int = 200) -> Response:
    return page("limit_new.html", status, form=form, **_owner(form.project_id.data, form.token_id.data))


@shows(LimitForm, of="change_limit")
def _change_again(form: LimitForm, status: int) -> Response:
    return _limit_page(limits.find(db.session, (request.view_args or {})["meter_id"]), form, status)


def _limit_page(found: Meter, form: LimitForm, status: int = 200) -> Response:
    owner = _owner(found.project_id, found.token_id)
    return page(
        "limit.html",
        status,
        limit=limit_view(found, utc_now()),
        form=form,
        is_over=limits.is_over(owner["token"]),
        **owner,
    )


def _ask(found: Meter, change: Literal["reset", "delete"]) -> Response:
    owner = _owner(found.project_id, found.token_id)
    return page("limit_ask.html", limit=limit_view(found, utc_now()), change=change, **owner)


def _owner(project_id: str | None, token_id: str | None) -> dict[str, Any]:
    token = tokens.find(db.session, token_id) if token_id else None
    project = token.project if token else projects.find(db.session, project_id or "")
    return {"project": project, "token": token}


def _to_owner(meter: Meter, message: str) -> Response:
    if meter.token_id:
        return done(message, "token", token_id=meter.token_id)
    return done(message, "project", project_id=meter.project_id)
