"""Tokens: list, issue (the secret is shown once), change label, limit and expiry, revoke."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from flask import Response, current_app, jsonify, make_response, request
from wtforms.fields.choices import SelectChoice

from accounting.report import Filters
from blueprints import schemas
from blueprints.admin import costs, exports, limits, once, queries, rules, searches, zones
from blueprints.admin.access import actor
from blueprints.admin.activity import activity
from blueprints.admin.answers import done, page, shows, wants_json
from blueprints.admin.display import TokenView, exact, for_input
from blueprints.admin.forms import ExtendForm, NewTokenForm, RotateForm, TokenForm
from blueprints.admin.site import bp
from blueprints.admin.spans import SPANS, during_month
from blueprints.issuing import issued_by
from blueprints.wire import issued_json, read_body, rotated_json, token_json
from control import tokens
from control.audit import version_of
from control.errors import Conflict
from models import Token, db
from services import Services


@bp.get("/tokens", endpoint="tokens")
def list_tokens() -> Response:
    """Tokens, filtered by project and state."""
    return searches.moved("tokens", "q") or _list(request.args)


@bp.post("/tokens/filter")
def filter_tokens() -> Response:
    """Turn a filled-in filter into an address, in which no secret stands."""
    found = searches.address("tokens", request.form, ("q", "project_id", "state", "order"), "q")
    return found or _list(request.form.to_dict() | {"q": ""}, searches.UNKNOWN)


def _list(said: Mapping[str, str], problem: str | None = None) -> Response:
    filters = {
        "project_id": said.get("project_id", ""),
        "state": searches.choice(said, "state", queries.TOKEN_STATES),
        "search": said.get("q", "").strip(),
        "order": searches.choice(said, "order", queries.either_way(queries.TOKEN_ORDERS), "newest"),
    }
    asked, size = searches.number("page"), queries.PAGE_SIZE
    if exports.wants_csv():
        asked, size = None, exports.MAX_ROWS
    found = queries.tokens_page(asked or 1, size=size, default_limit=_default_limit(), **filters)
    if exports.wants_csv():
        return exports.tokens(found.rows)
    is_elsewhere = searches.is_elsewhere(asked, found)
    if wants_json():
        return jsonify(data=[token_json(row.token) for row in found.rows], has_more=found.has_next)
    return page(
        "tokens.html",
        400 if problem else 200,
        problem=problem,
        page=found,
        is_elsewhere=is_elsewhere,
        filters=filters,
        is_filtered=any(filters[name] for name in ("project_id", "state", "search")),
        projects=queries.project_choices(filters["project_id"]),
        states=queries.TOKEN_STATES,
        orders=queries.TOKEN_ORDERS,
        price_date=costs.price_date(),
        during=during_month(),
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
        return make_response(jsonify(issued_by(read_body(schemas.NewToken()), actor())), 201)
    form = NewTokenForm()
    nonce = once.nonce_of(form)
    wished = once.secret_of(nonce) if nonce else None
    secret, token = tokens.issue(db.session, actor(), secret=wished, **form.values())
    if wants_json():
        return make_response(jsonify(issued_json(secret, token)), 201)
    return _secret_page(secret, token)


@bp.delete("/tokens")
def revoke_token_by_body() -> tuple[str, int]:
    """Revoke a token named by a body: JSON or a form's fields, as of the schema TokenName."""
    schema = schemas.TokenName()
    tokens.revoke(db.session, actor(), **(read_body(schema) if request.is_json else schema.load(dict(request.form))))
    return "", 204


@bp.post("/tokens/revoke")
def revoke_selected() -> Response:
    """Revoke the tokens that the fields `id` name: all of them or none, and only once it is `confirmed`."""
    ids = request.form.getlist("id")
    if request.form.get("confirmed") != "yes":
        return page("tokens_revoke.html", rows=[row for row in _selected() if row.token.is_active])
    revoked = tokens.revoke_all(db.session, actor(), ids)
    if wants_json():
        return jsonify(revoked=revoked)
    return done(f"Revoked {revoked} token{'' if revoked == 1 else 's'}. Their next requests are refused.", "tokens")


@bp.post("/tokens/extend")
def extend_selected() -> Response:
    """Let those of the tokens that the fields `id` name, and that are alive, live until `expires_at` at least."""
    form = ExtendForm()
    if request.form.get("confirmed") != "yes":
        return _extend_again(ExtendForm(formdata=None))
    until = form.load(schemas.Extension())["expires_at"]
    count = tokens.extend_all(db.session, actor(), request.form.getlist("id"), until)
    if wants_json():
        return jsonify(extended=count)
    works = "token works" if count == 1 else "tokens work"
    return done(f"{count} {works} until {exact(until, zones.of_pages())}, or longer.", "tokens")


@bp.post("/tokens/export")
def export_selected() -> Response:
    """The tokens that the fields `id` name, as CSV."""
    return exports.tokens(_selected())


@bp.get("/tokens/<token_id>", endpoint="token")
def show_token(token_id: str) -> Response:
    """One token."""
    found = tokens.find(db.session, token_id)
    if wants_json():
        return jsonify(token_json(found))
    data = {
        "label": found.label,
        "rate_limit": found.rate_limit,
        "expires_at": for_input(found.expires_at, zones.of_pages()),
    }
    return _token_page(found, TokenForm(formdata=None, data=data, seen=version_of(found)))


@bp.post("/tokens/<token_id>")
def change_token(token_id: str) -> Response:
    """Change label, limit or expiry."""
    if request.is_json:
        body = read_body(schemas.TokenChange())
        return jsonify(token_json(tokens.change(db.session, actor(), token_id, **body)))
    form, token = TokenForm(), tokens.find(db.session, token_id)
    if _view(token).is_over:
        # Its page has no form any more; this one was opened before.
        raise Conflict("seen", "Nothing was saved: the token was revoked or has expired meanwhile.")
    changes = form.changes(token)
    changed = tokens.change(db.session, actor(), token_id, seen=form.seen.data or None, **changes)
    if wants_json():
        return jsonify(token_json(changed))
    return done("Saved. It holds for the next request.", "token", token_id=token_id)


@bp.get("/tokens/<token_id>/rotate")
def ask_how_to_rotate(token_id: str) -> Response:
    """The form for a new secret."""
    tokens.find(db.session, token_id)
    return _rotate_again(RotateForm(formdata=None))


@bp.post("/tokens/<token_id>/rotate")
def rotate_token(token_id: str) -> Response:
    """Give a token a new secret, which stands in this very answer and nowhere else: see `issue_token`."""
    if request.is_json:
        body = read_body(schemas.Rotation())
        return jsonify(rotated_json(*tokens.rotate(db.session, actor(), token_id, **body)))
    form = RotateForm()
    nonce = once.nonce_of(form)
    wished = once.secret_of(nonce) if nonce else None
    rotated = tokens.rotate(db.session, actor(), token_id, secret=wished, **form.load(schemas.Rotation()))
    return jsonify(rotated_json(*rotated)) if wants_json() else _secret_page(*rotated)


@bp.get("/tokens/<token_id>/revoke")
def confirm_revoke_token(token_id: str) -> Response:
    """Ask before a token is revoked."""
    return page("token_revoke.html", row=_view(tokens.find(db.session, token_id)))


@bp.post("/tokens/<token_id>/revoke")
def revoke_token(token_id: str) -> Response:
    """Revoke a token."""
    tokens.revoke(db.session, actor(), token_id=token_id)
    if wants_json():
        return make_response("", 204)
    return done("Revoked. Its next request is refused.", "token", token_id=token_id)


@shows(NewTokenForm, of="issue_token")
def _new_token(form: NewTokenForm, status: int = 200) -> Response:
    once.give_nonce(form)
    projects = queries.project_choices(form.project_id.data or "")
    form.project_id.choices = [SelectChoice(*project) for project in projects]
    return page(
        "token_new.html",
        status,
        form=form,
        has_projects=bool(projects),
        default_limit=_default_limit(),
        budget_zone=zones.configured(),
    )


@shows(TokenForm, of="change_token")
def _change_again(form: TokenForm, status: int) -> Response:
    found = tokens.find(db.session, (request.view_args or {})["token_id"])
    # Whoever saves again has seen what this page shows.
    form.seen.data = version_of(found)
    return _token_page(found, form, status)


@shows(ExtendForm, of="extend_selected")
def _extend_again(form: ExtendForm, status: int = 200) -> Response:
    return page("tokens_extend.html", status, form=form, rows=[row for row in _selected() if not row.is_over])


@shows(RotateForm, of="rotate_token")
def _rotate_again(form: RotateForm, status: int = 200) -> Response:
    once.give_nonce(form)
    found = tokens.find(db.session, (request.view_args or {})["token_id"])
    return page("token_rotate.html", status, row=_view(found), form=form)


def _secret_page(secret: str, token: Token, old_until: datetime | None = None) -> Response:
    return page(
        "token_issued.html",
        200 if old_until else 201,
        secret=secret,
        row=_view(token),
        project=token.project,
        old_until=old_until,
        # Where the operator's browser reached this proxy, for the snippets.
        base_url=f"{request.root_url}v1",
    )


def _token_page(found: Token, form: TokenForm, status: int = 200) -> Response:
    return page(
        "token.html",
        status,
        row=_view(found),
        form=form,
        old_until=tokens.retired_until(db.session, found.id),
        default_limit=_default_limit(),
        activity=activity(Filters(token_id=found.id)),
        limits=limits.views(found),
        project_limits=limits.views(found.project),
        rules=rules.view(found.rules),
        spans=SPANS,
        price_date=costs.price_date(),
    )


def _view(token: Token) -> TokenView:
    return queries.token_as_shown(token, default_limit=_default_limit())


def _selected() -> list[TokenView]:
    return queries.tokens_of(request.form.getlist("id"), default_limit=_default_limit())


def _default_limit() -> int:
    return Services.of(current_app).settings.rate_limit_per_hour
