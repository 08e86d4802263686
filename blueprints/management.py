"""`/manage/*`: projects and tokens as JSON, for whoever holds the management token."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Any

import orjson
from flask import Blueprint, Response, current_app, jsonify, request
from flask_httpauth import HTTPTokenAuth
from marshmallow import Schema, ValidationError
from sqlalchemy import Select, and_, or_, select
from werkzeug.exceptions import RequestEntityTooLarge

from blueprints import schemas
from blueprints.errors import error_response
from control.operations import Actor, NotFound, iso_utc
from llmproxy.admission import utc_now
from models import Project, Token, db
from services import Services

MAX_BODY_BYTES = 64 * 1024

bp = Blueprint("management", __name__, url_prefix="/manage")
auth = HTTPTokenAuth(scheme="Bearer", realm="management")


@auth.verify_token  # type: ignore[untyped-decorator]
def _is_management_token(token: str) -> str | None:
    expected = Services.of(current_app).settings.management_token.encode()
    return "management" if hmac.compare_digest(token.encode(), expected) else None


@auth.error_handler  # type: ignore[untyped-decorator]
def _unauthorized(status: int) -> Response:
    return error_response(status, "Send the management token in the header `Authorization: Bearer <token>`.")


@bp.before_request
@auth.login_required  # type: ignore[untyped-decorator]
def only_operators() -> None:
    # Of a chunked body Werkzeug reads so much and drops the rest in silence: one byte more tells.
    request.max_content_length = MAX_BODY_BYTES + 1


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


def actor() -> Actor:
    """Who the audit trail names for a change made here."""
    return Actor("management", request.remote_addr)


def iso(moment: datetime | None) -> str | None:
    """A time on the wire: ISO 8601, UTC, with Z."""
    return iso_utc(moment) if moment else None


def project_json(project: Project) -> dict[str, Any]:
    """A project as operators see it; of its key, the hint alone."""
    return {
        "id": project.id,
        "name": project.name,
        "is_active": project.is_active,
        "base_url": project.base_url,
        "stream_usage": project.stream_usage,
        "key_hint": project.key_hint,
        "created_at": iso(project.created_at),
    }


def token_json(token: Token) -> dict[str, Any]:
    """A token as operators see it: never the secret."""
    return {
        "id": token.id,
        "project_id": token.project_id,
        "label": token.label,
        "is_active": token.is_active,
        "expires_at": iso(token.expires_at),
        "rate_limit": token.rate_limit or Services.of(current_app).settings.rate_limit_per_hour,
        "request_count": token.request_count,
        "window_started_at": iso(token.window_started_at),
        "created_at": iso(token.created_at),
        "last_used_at": iso(token.last_used_at),
    }


@bp.post("/projects")
def create_project() -> tuple[Response, int]:
    """Create a project."""
    project = Services.of(current_app).operations.create_project(actor(), **read_body(schemas.NewProject()))
    return jsonify(project_json(project)), 201


@bp.get("/projects")
def list_projects() -> Response:
    """List projects, the newest first."""
    query = read_query(schemas.ProjectQuery())
    statement = select(Project)
    if "active" in query:
        statement = statement.where(Project.is_active == query["active"])
    rows, has_more = _page(statement, Project, query)
    return jsonify(data=[project_json(row) for row in rows], has_more=has_more)


@bp.get("/projects/<project_id>")
def read_project(project_id: str) -> Response:
    """Show a project."""
    project = db.session.get(Project, project_id)
    if project is None:
        raise NotFound("id", "project")
    return jsonify(project_json(project))


@bp.patch("/projects/<project_id>")
def change_project(project_id: str) -> Response:
    """Change a project."""
    changes = read_body(schemas.ProjectChange())
    return jsonify(project_json(Services.of(current_app).operations.change_project(actor(), project_id, **changes)))


@bp.delete("/projects/<project_id>")
def delete_project(project_id: str) -> tuple[str, int]:
    """Delete a project; with `?force=true` also one whose tokens live."""
    force = read_query(schemas.ForceQuery())["force"]
    Services.of(current_app).operations.delete_project(actor(), project_id, force=force)
    return "", 204


@bp.post("/projects/<project_id>/revoke")
def revoke_project_tokens(project_id: str) -> Response:
    """Revoke every token of a project."""
    return jsonify(revoked=Services.of(current_app).operations.revoke_project_tokens(actor(), project_id))


@bp.post("/tokens")
def issue_token() -> tuple[Response, int]:
    """Issue a token. The only time that its secret is shown."""
    body = read_body(schemas.NewToken())
    lifetime = schemas.lifetime(body.pop("duration_hours"))
    secret, token = Services.of(current_app).operations.issue_token(actor(), lifetime=lifetime, **body)
    shown = {
        "token": secret,
        "expires_at": iso(token.expires_at),
        "id": token.id,
        "project_id": token.project_id,
    }
    return jsonify(shown), 201


@bp.delete("/tokens")
def revoke_token() -> tuple[str, int]:
    """Revoke a token by its secret or its public id."""
    body = read_body(schemas.TokenName())
    Services.of(current_app).operations.revoke_token(actor(), token_id=body.get("id"), secret=body.get("token"))
    return "", 204


@bp.get("/tokens")
def list_tokens() -> Response:
    """List tokens, the newest first."""
    query = read_query(schemas.TokenQuery())
    statement = select(Token)
    if "project_id" in query:
        statement = statement.where(Token.project_id == query["project_id"])
    if "active" in query:
        live = and_(Token.is_active, Token.expires_at > utc_now())
        statement = statement.where(live if query["active"] else ~live)
    rows, has_more = _page(statement, Token, query)
    return jsonify(data=[token_json(row) for row in rows], has_more=has_more)


@bp.get("/tokens/<token_id>")
def read_token(token_id: str) -> Response:
    """Show a token."""
    return jsonify(token_json(_token(token_id)))


@bp.patch("/tokens/<token_id>")
def change_token(token_id: str) -> Response:
    """Change a token."""
    changes = read_body(schemas.TokenChange())
    return jsonify(token_json(Services.of(current_app).operations.change_token(actor(), token_id, **changes)))


@bp.delete("/tokens/<token_id>")
def revoke_token_by_id(token_id: str) -> tuple[str, int]:
    """Revoke a token by its public id."""
    Services.of(current_app).operations.revoke_token(actor(), token_id=token_id)
    return "", 204


def _token(token_id: str) -> Token:
    token: Token | None = db.session.scalar(select(Token).where(Token.id == token_id))
    if token is None:
        raise NotFound("id", "token")
    return token


def _page(statement: Select[Any], table: Any, query: dict[str, Any]) -> tuple[list[Any], bool]:
    """One page, newest first, after the row whose id is `after`; and whether there is a next one."""
    if "after" in query:
        last = db.session.scalar(select(table).where(table.id == query["after"]))
        if last is None:
            raise ValidationError({"after": ["is not the id of a row in this list."]})
        older = or_(
            table.created_at < last.created_at,
            and_(table.created_at == last.created_at, table.id < last.id),
        )
        statement = statement.where(older)
    statement = statement.order_by(table.created_at.desc(), table.id.desc()).limit(query["limit"] + 1)
    rows = list(db.session.scalars(statement))
    return rows[: query["limit"]], len(rows) > query["limit"]
