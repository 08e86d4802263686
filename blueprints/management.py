"""`/manage/*`: projects and tokens as JSON, for whoever holds the management token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request

from blueprints import schemas, shapes, sign_in
from blueprints.errors import error_response
from blueprints.operation import Operation
from blueprints.wire import MAX_BODY_BYTES, issued_json, project_json, rotated_json, token_json
from control import listing, projects, tokens
from control.audit import Actor
from llmproxy.admission import utc_now
from models import Project, Token, db
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


@bp.post("/projects")
@Operation(body=schemas.NewProject, status=201, answer=shapes.Project, refuses=(409,))
def create_project(body: Values) -> tuple[Response, int]:
    """Create a project."""
    project = projects.create(db.session, Services.of(current_app).keyring, actor(), **body)
    return jsonify(project_json(project)), 201


@bp.get("/projects")
@Operation(query=schemas.ProjectQuery, answer=shapes.Projects)
def list_projects(query: Values) -> Response:
    """List projects, the newest first."""
    rows, has_more = listing.projects(db.session, **query)
    return jsonify(data=[project_json(row) for row in rows], **_what_follows(rows, has_more))


@bp.get("/projects/<project_id>")
@Operation(answer=shapes.Project)
def read_project(project_id: str) -> Response:
    """Show a project."""
    return jsonify(project_json(projects.find(db.session, project_id)))


@bp.patch("/projects/<project_id>")
@Operation(body=schemas.ProjectChange, answer=shapes.Project, refuses=(409,))
def change_project(project_id: str, body: Values) -> Response:
    """Change a project."""
    changed = projects.change(db.session, Services.of(current_app).keyring, actor(), project_id, **body)
    return jsonify(project_json(changed))


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
@Operation(body=schemas.NewToken, status=201, answer=shapes.IssuedToken, refuses=(404,))
def issue_token(body: Values) -> tuple[Response, int]:
    """Issue a token. The only time that its secret is shown."""
    secret, token = tokens.issue(db.session, actor(), **body)
    return jsonify(issued_json(secret, token)), 201


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
@Operation(answer=shapes.Token)
def read_token(token_id: str) -> Response:
    """Show a token."""
    return jsonify(token_json(tokens.find(db.session, token_id)))


@bp.patch("/tokens/<token_id>")
@Operation(body=schemas.TokenChange, answer=shapes.Token, refuses=(409,))
def change_token(token_id: str, body: Values) -> Response:
    """Change a token."""
    return jsonify(token_json(tokens.change(db.session, actor(), token_id, **body)))


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
