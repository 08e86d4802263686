"""`/manage/*`: projects and tokens as JSON, for whoever holds the management token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from blueprints import schemas, shapes, sign_in
from blueprints.errors import error_response
from blueprints.issuing import issued_by
from blueprints.operation import Operation
from blueprints.wire import (
    MAX_BODY_BYTES,
    limited_json,
    meter_json,
    project_json,
    rotated_json,
    token_json,
)
from control import keys, limits, listing, projects, tokens
from control.audit import Actor
from llmproxy.admission import utc_now
from llmproxy.times import microseconds
from models import Meter, Project, Token, db
from services import Services

Values = dict[str, Any]

bp = Blueprint("management", __name__, url_prefix="/manage")


@bp.before_request
def only_operators() -> Response | None:
    """Refuse whoever does not hold the management token."""
    if sign_in.who(sign_in.management) is None:
        response = error_response(401, "Send the management token in the header `Authorization: Bearer <token>`.")
        response.headers["WWW-Authenticate"] = sign_in.management.authenticate_header()
        return response
    # Of a chunked body Werkzeug reads so much and drops the rest in silence: one byte more tells.
    request.max_content_length = MAX_BODY_BYTES + 1
    return None


@bp.after_request
def keep_nowhere(response: Response) -> Response:
    """Some answers hold a secret: no cache on the way is to have any of them."""
    response.headers["Cache-Control"] = "no-store"
    return response


def actor() -> Actor:
    """Who the audit trail names for a change made here."""
    return Actor("management", Services.of(current_app).client_address(request.environ))


def _what_follows(rows: Sequence[Project | Token], has_more: bool) -> Values:
    return {"has_more": has_more, "next": listing.place_after(rows[-1]) if has_more else None}


def _project(project: Project) -> Response:
    return jsonify(limited_json(project_json(project), limits.of(db.session, project)))


def _token(token: Token) -> Response:
    return jsonify(limited_json(token_json(token), limits.of(db.session, token)))


def _meter(meter: Meter) -> Response:
    return jsonify(meter_json(meter, microseconds(utc_now())))


@bp.post("/projects")
@Operation(body=schemas.NewProject, status=201, answer=shapes.CreatedProject, refuses=(409,))
def create_project(body: Values) -> tuple[Response, int]:
    """Create a project."""
    keyring = Services.of(current_app).keyring
    project = projects.create(db.session, keyring, actor(), **body)
    shown = limited_json(project_json(project), limits.of(db.session, project))
    return jsonify(shown | {"shares_key_with": keys.sharing(db.session, keyring, project)}), 201


@bp.get("/projects")
@Operation(query=schemas.ProjectQuery, answer=shapes.Projects)
def list_projects(query: Values) -> Response:
    """List projects, the newest first."""
    rows, has_more = listing.projects(db.session, **query)
    return jsonify(data=[project_json(row) for row in rows], **_what_follows(rows, has_more))


@bp.get("/projects/<project_id>")
@Operation(answer=shapes.LimitedProject)
def read_project(project_id: str) -> Response:
    """Show a project."""
    return _project(projects.find(db.session, project_id))


@bp.patch("/projects/<project_id>")
@Operation(body=schemas.ProjectChange, answer=shapes.LimitedProject, refuses=(409,))
def change_project(project_id: str, body: Values) -> Response:
    """Change a project."""
    changed = projects.change(db.session, Services.of(current_app).keyring, actor(), project_id, **body)
    return _project(changed)


@bp.delete("/projects/<project_id>")
@Operation(query=schemas.ForceQuery, status=204, refuses=(409,))
def delete_project(project_id: str, query: Values) -> tuple[str, int]:
    """Delete a project; with `?force=true` also one whose tokens live."""
    projects.delete(db.session, actor(), project_id, **query)
    return "", 204


@bp.post("/projects/<project_id>/revoke")
@Operation(answer=shapes.Revoked)
def revoke_project_tokens(project_id: str) -> Response:
    """Revoke every token of a project."""
    return jsonify(revoked=projects.revoke_tokens(db.session, actor(), project_id))


@bp.post("/tokens")
@Operation(body=schemas.NewToken, status=201, answer=shapes.IssuedTokens, refuses=(404,))
def issue_token(body: Values) -> tuple[Response, int]:
    """Issue a token, or a list of `count`. The only time that a secret is shown."""
    return jsonify(issued_by(body, actor())), 201


@bp.delete("/tokens")
@Operation(body=schemas.TokenName, status=204, refuses=(404,))
def revoke_token(body: Values) -> tuple[str, int]:
    """Revoke a token by its secret or its public id."""
    tokens.revoke(db.session, actor(), **body)
    return "", 204


@bp.get("/tokens")
@Operation(query=schemas.TokenQuery, answer=shapes.Tokens)
def list_tokens(query: Values) -> Response:
    """List tokens, the newest first."""
    rows, has_more = listing.tokens(db.session, now=utc_now(), **query)
    return jsonify(data=[token_json(row) for row in rows], **_what_follows(rows, has_more))


@bp.get("/tokens/<token_id>")
@Operation(answer=shapes.LimitedToken)
def read_token(token_id: str) -> Response:
    """Show a token."""
    return _token(tokens.find(db.session, token_id))


@bp.patch("/tokens/<token_id>")
@Operation(body=schemas.TokenChange, answer=shapes.LimitedToken, refuses=(409,))
def change_token(token_id: str, body: Values) -> Response:
    """Change a token."""
    return _token(tokens.change(db.session, actor(), token_id, **body))


@bp.post("/tokens/<token_id>/rotate")
@Operation(body=schemas.Rotation, answer=shapes.RotatedToken, refuses=(409,))
def rotate_token(token_id: str, body: Values) -> Response:
    """Give a token a new secret. The only time that it is shown."""
    return jsonify(rotated_json(*tokens.rotate(db.session, actor(), token_id, **body)))


@bp.delete("/tokens/<token_id>")
@Operation(status=204)
def revoke_token_by_id(token_id: str) -> tuple[str, int]:
    """Revoke a token by its public id."""
    tokens.revoke(db.session, actor(), token_id=token_id)
    return "", 204


@bp.get("/meters")
@Operation(query=schemas.MeterQuery, answer=shapes.Meters)
def list_meters(query: Values) -> Response:
    """List meters of tokens and projects, and how they stand."""
    rows, has_more = limits.listed(db.session, **query)
    now_us = microseconds(utc_now())
    what_follows = {"has_more": has_more, "next": rows[-1].id if has_more else None}
    return jsonify(data=[meter_json(row, now_us) for row in rows], **what_follows)


@bp.post("/meters")
@Operation(body=schemas.OwnedMeter, status=201, answer=shapes.Meter, refuses=(404, 409))
def create_meter(body: Values) -> tuple[Response, int]:
    """Give a token or a project a meter."""
    return _meter(limits.create(db.session, actor(), **body)), 201


@bp.get("/meters/<meter_id>")
@Operation(answer=shapes.Meter)
def read_meter(meter_id: str) -> Response:
    """Show a meter, and how it stands."""
    return _meter(limits.find(db.session, meter_id))


@bp.patch("/meters/<meter_id>")
@Operation(body=schemas.MeterChange, answer=shapes.Meter, refuses=(409,))
def change_meter(meter_id: str, body: Values) -> Response:
    """Change a meter's name, amount or reserve."""
    return _meter(limits.change(db.session, actor(), meter_id, **body))


@bp.delete("/meters/<meter_id>")
@Operation(status=204)
def delete_meter(meter_id: str) -> tuple[str, int]:
    """Delete a meter: it limits nobody from the next call on."""
    limits.delete(db.session, actor(), meter_id)
    return "", 204


@bp.post("/meters/<meter_id>/reset")
@Operation(answer=shapes.Meter, refuses=(409,))
def reset_meter(meter_id: str) -> Response:
    """Let a meter have nothing spent."""
    return _meter(limits.reset(db.session, actor(), meter_id))
