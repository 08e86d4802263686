"""Tokens: list, issue (the secret is shown once), change label, limit and expiry, revoke."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app, jsonify, make_response, request
from marshmallow import ValidationError
from sqlalchemy import select
from wtforms.fields.choices import SelectChoice

from blueprints import schemas
from blueprints.admin import once, queries
from blueprints.admin.access import actor
from blueprints.admin.answers import done, json_body, page, refused, rescues, wants_json
from blueprints.admin.display import TokenView, token_view
from blueprints.admin.forgery import StaleForm
from blueprints.admin.forms import Form, NewTokenForm, TokenForm, new_nonce, nonce_of
from blueprints.admin.site import bp
from blueprints.management import iso, token_json
from control import operations
from control.operations import Conflict, NotFound
from llmproxy.admission import utc_now
from models import Project, Token, db
from services import Services


@bp.get("/tokens")
def tokens() -> Response:
    """Tokens, filtered by project and state."""
    state, order = request.args.get("state", ""), request.args.get("order", "newest")
    filters = {
        "project_id": request.args.get("project_id", ""),
        "state": state if state in queries.TOKEN_STATES else "",
        "search": request.args.get("q", "").strip(),
        "order": order if order in queries.TOKEN_ORDERS else "newest",
    }
    found = queries.tokens_page(
        request.args.get("page", 1, int), now=utc_now(), default_limit=_default_limit(), **filters
    )
    if wants_json():
        return jsonify(data=[token_json(row.token) for row in found.rows], has_more=found.has_next)
    projects = queries.project_choices()
    return page(
        "tokens.html",
        page=found,
        filters=filters,
        is_filtered=any(filters[name] for name in ("project_id", "state", "search")),
        projects=projects,
        states=queries.TOKEN_STATES,
        orders=queries.TOKEN_ORDERS,
    )


@bp.get("/tokens/new")
def new_token() -> Response:
    """The form for a new token."""
    return _new_token(NewTokenForm(formdata=None, data={"project_id": request.args.get("project_id", "")}))


@bp.post("/tokens")
def issue_token() -> Response:
    """
    Issue a token.

    The secret stands in this very answer and nowhere else: no redirect could carry it without leaving it in a
    cookie, an address or the database. The answer is not stored by browsers (`no-store`).
    """
    if request.is_json:
        return _issued_json(*_issue(json_body(schemas.NewToken())))
    form = NewTokenForm()
    nonce = nonce_of(form)
    try:
        secret, token = _issue(form.load(schemas.NewToken()), secret=once.secret_of(nonce) if nonce else None)
    except (ValidationError, Conflict, NotFound) as exc:
        form.nonce.data = None if isinstance(exc, Conflict) else nonce
        return refused(form, exc, _new_token)
    if wants_json():
        return _issued_json(secret, token)
    project = db.session.get(Project, token.project_id)
    return page("token_issued.html", 201, secret=secret, row=_view(token), project=project, base_url=_base_url())


@bp.delete("/tokens")
def revoke_token_by_body() -> tuple[str, int]:
    """Revoke a token named by a body: JSON or a form's fields, as of the schema TokenName."""
    schema = schemas.TokenName()
    body = json_body(schema) if request.is_json else schema.load(dict(request.form))
    _operations().revoke_token(actor(), token_id=body.get("id"), secret=body.get("token"))
    return "", 204


@bp.get("/tokens/<token_id>")
def token(token_id: str) -> Response:
    """One token."""
    found = _token(token_id)
    return jsonify(token_json(found)) if wants_json() else _token_page(found)


@bp.post("/tokens/<token_id>")
def change_token(token_id: str) -> Response:
    """Change label, limit or expiry."""
    if request.is_json:
        changes = json_body(schemas.TokenChange())
        return jsonify(token_json(_operations().change_token(actor(), token_id, **changes)))
    form = TokenForm()
    try:
        changes = form.changes(_token(token_id))
        changed = _operations().change_token(actor(), token_id, seen=form.seen.data or None, **changes)
    except (ValidationError, Conflict) as exc:
        return refused(form, exc, lambda form, status: _token_page(_token(token_id), status, form=form))
    if wants_json():
        return jsonify(token_json(changed))
    return done("Saved. It holds for the next request.", "token", token_id=token_id)


@bp.get("/tokens/<token_id>/revoke")
def confirm_revoke_token(token_id: str) -> Response:
    """Ask before a token is revoked."""
    return page("token_revoke.html", row=_view(_token(token_id)))


@bp.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> Response:
    """Revoke a token."""
    _operations().revoke_token(actor(), token_id=token_id)
    if wants_json():
        return make_response("", 204)
    return done("Revoked. Its next request is refused.", "token", token_id=token_id)


@rescues("issue_token")
def _issue_again(exc: StaleForm) -> Response:
    form = NewTokenForm()
    return _new_token(form, form.refuse(exc))


@rescues("change_token")
def _change_again(exc: StaleForm) -> Response:
    form = TokenForm()
    return _token_page(_token((request.view_args or {})["token_id"]), form.refuse(exc), form=form)


def _operations() -> operations.Operations:
    return Services.of(current_app).operations


def _default_limit() -> int:
    return Services.of(current_app).settings.rate_limit_per_hour


def _base_url() -> str:
    """Where the operator's browser reached this proxy, for the snippets."""
    return f"{request.host_url}v1"


def _token(token_id: str) -> Token:
    found: Token | None = db.session.scalar(select(Token).where(Token.id == token_id))
    if found is None:
        raise NotFound("id", "token")
    return found


def _view(token: Token) -> TokenView:
    return token_view(token, token.project, now=utc_now(), default_limit=_default_limit())


def _issue(body: dict[str, Any], secret: str | None = None) -> tuple[str, Token]:
    lifetime = schemas.lifetime(body.pop("duration_hours"))
    return _operations().issue_token(actor(), lifetime=lifetime, secret=secret, **body)


def _issued_json(secret: str, token: Token) -> Response:
    shown = {
        "token": secret,
        "expires_at": iso(token.expires_at),
        "id": token.id,
        "project_id": token.project_id,
    }
    return make_response(jsonify(shown), 201)


def _new_token(form: Form, status: int = 200) -> Response:
    form.nonce.data = form.nonce.data or new_nonce()
    projects = queries.project_choices()
    form.project_id.choices = [SelectChoice(*project) for project in projects]
    return page("token_new.html", status, form=form, has_projects=bool(projects), default_limit=_default_limit())


def _token_page(found: Token, status: int = 200, *, form: Form | None = None) -> Response:
    if form is not None:
        # Whoever saves again has seen what this page shows.
        form.seen.data = operations.version_of(found)
    return page(
        "token.html",
        status,
        row=_view(found),
        form=form or TokenForm.of(found),
        default_limit=_default_limit(),
    )
