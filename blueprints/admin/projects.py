"""Projects: list, create, change, replace the key, switch off and on, revoke all tokens, delete."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app, jsonify, make_response, request
from marshmallow import ValidationError

from blueprints import schemas
from blueprints.admin import once, queries
from blueprints.admin.access import actor
from blueprints.admin.answers import done, json_body, page, refused, rescues, wants_json
from blueprints.admin.forgery import StaleForm
from blueprints.admin.forms import (
    DeleteProjectForm,
    Form,
    KeyForm,
    NewProjectForm,
    ProjectForm,
    new_nonce,
    nonce_of,
)
from blueprints.admin.site import bp
from blueprints.management import project_json
from control import operations
from control.operations import Conflict, NotFound, live_token_count
from llmproxy.admission import utc_now
from models import Project, db
from services import Services

_SHOWN_TOKENS = 10


@bp.get("/projects")
def projects() -> Response:
    """Projects by name."""
    search = request.args.get("q", "").strip()
    found = queries.projects_page(request.args.get("page", 1, int), search=search)
    if wants_json():
        data = [project_json(row.project) for row in found.rows]
        return jsonify(data=data, has_more=found.has_next)
    return page("projects.html", page=found, search=search)


@bp.get("/projects/new")
def new_project() -> Response:
    """The form for a new project."""
    return _new_project(NewProjectForm(formdata=None))


@bp.post("/projects")
def create_project() -> Response:
    """Create a project."""
    if request.is_json:
        project = _operations().create_project(actor(), **json_body(schemas.NewProject()))
        return _created(project)
    form = NewProjectForm()
    nonce = nonce_of(form)
    try:
        values = form.load(schemas.NewProject())
        made_id = once.project_id_of(nonce) if nonce else None
        project = _operations().create_project(actor(), project_id=made_id, **values)
    except (ValidationError, Conflict) as exc:
        return refused(form, exc, _new_project)
    if wants_json():
        return _created(project)
    return done(
        f"Created the project “{project.name}”. Issue its first token next.", "project", project_id=project.id
    )


@bp.delete("/projects")
def delete_project_by_body() -> tuple[str, int]:
    """Delete a project named by a body: JSON or a form's fields, as of the schema ProjectName."""
    if request.is_json:
        body = json_body(schemas.ProjectName())
    else:
        sent: dict[str, Any] = dict(request.form)
        if "force" in sent:
            sent["force"] = sent["force"].lower() in ("true", "1", "on", "yes")
        body = schemas.ProjectName().load(sent)
    _operations().delete_project(actor(), body["id"], force=body.get("force", False))
    return "", 204


@bp.get("/projects/<project_id>")
def project(project_id: str) -> Response:
    """One project."""
    found = _project(project_id)
    return jsonify(project_json(found)) if wants_json() else _project_page(found)


@bp.post("/projects/<project_id>")
def change_project(project_id: str) -> Response:
    """Rename it, change its base URL or how it asks for usage; by JSON anything of schemas.ProjectChange."""
    if request.is_json:
        changes = json_body(schemas.ProjectChange())
        return jsonify(project_json(_operations().change_project(actor(), project_id, **changes)))
    form = ProjectForm()
    try:
        values = form.load(schemas.ProjectChange())
        changed = _operations().change_project(actor(), project_id, seen=form.seen.data or None, **values)
    except (ValidationError, Conflict) as exc:
        return refused(form, exc, lambda form, status: _project_page(_project(project_id), status, form=form))
    return _changed(changed, f"Saved “{changed.name}”.")


@bp.post("/projects/<project_id>/key")
def replace_key(project_id: str) -> Response:
    """Replace the API key; the next request uses the new one."""
    form = KeyForm()
    try:
        changed = _operations().change_project(actor(), project_id, **form.load(schemas.ProjectChange()))
    except (ValidationError, Conflict) as exc:
        return refused(form, exc, lambda form, status: _project_page(_project(project_id), status, key_form=form))
    return _changed(changed, f"Replaced the API key of “{changed.name}”. The next request uses it.")


@bp.post("/projects/<project_id>/switch")
def switch_project(project_id: str) -> Response:
    """Switch it off or on, as the field `is_active` (true, false) says."""
    on = request.form.get("is_active", "").lower() == "true"
    changed = _operations().change_project(actor(), project_id, is_active=on)
    words = (
        "Switched on. Its tokens work again." if on else "Switched off. Its tokens are refused until it is on again."
    )
    return _changed(changed, words)


@bp.get("/projects/<project_id>/revoke")
def confirm_revoke(project_id: str) -> Response:
    """Ask before every token is revoked."""
    found = _project(project_id)
    return page("project_revoke.html", project=found, live_tokens=live_token_count(project_id))


@bp.post("/projects/<project_id>/revoke")
def revoke_project_tokens(project_id: str) -> Response:
    """Revoke every token of a project."""
    revoked = _operations().revoke_project_tokens(actor(), project_id)
    if wants_json():
        return jsonify(revoked=revoked)
    return done(f"Revoked {revoked} token{'' if revoked == 1 else 's'}.", "project", project_id=project_id)


@bp.get("/projects/<project_id>/delete")
def confirm_delete(project_id: str) -> Response:
    """Ask before a project is deleted."""
    return _delete_page(_project(project_id), DeleteProjectForm(formdata=None))


@bp.post("/projects/<project_id>/delete")
def delete_project(project_id: str) -> Response:
    """Delete a project, when the number of its live tokens was entered."""
    found = _project(project_id)
    name = found.name
    form = DeleteProjectForm()
    try:
        number = form.number() if live_token_count(project_id) else 0
        _operations().delete_project(actor(), project_id, force=True, live_tokens=number)
    except (ValidationError, Conflict) as exc:
        return refused(form, exc, lambda form, status: _delete_page(found, form, status))
    return done(f"Deleted the project “{name}” with its tokens.", "projects")


@rescues("create_project")
def _create_again(exc: StaleForm) -> Response:
    form = NewProjectForm()
    return _new_project(form, form.refuse(exc))


@rescues("change_project")
def _change_again(exc: StaleForm) -> Response:
    form = ProjectForm()
    return _project_page(_path_project(), form.refuse(exc), form=form)


@rescues("replace_key")
def _replace_again(exc: StaleForm) -> Response:
    form = KeyForm()
    return _project_page(_path_project(), form.refuse(exc), key_form=form)


@rescues("delete_project")
def _delete_again(exc: StaleForm) -> Response:
    form = DeleteProjectForm()
    return _delete_page(_path_project(), form, form.refuse(exc))


def _path_project() -> Project:
    return _project((request.view_args or {})["project_id"])


def _operations() -> operations.Operations:
    return Services.of(current_app).operations


def _project(project_id: str) -> Project:
    found: Project | None = db.session.get(Project, project_id)
    if found is None:
        raise NotFound("id", "project")
    return found


def _new_project(form: Form, status: int = 200) -> Response:
    form.nonce.data = form.nonce.data or new_nonce()
    return page("project_new.html", status, form=form)


def _project_page(
    found: Project, status: int = 200, *, form: Form | None = None, key_form: Form | None = None
) -> Response:
    if form is not None:
        # Whoever saves again has seen what this page shows.
        form.seen.data = operations.version_of(found)
    now, default_limit = utc_now(), Services.of(current_app).settings.rate_limit_per_hour
    tokens = queries.tokens_page(
        1, project_id=found.id, state="", search="", order="newest", now=now, default_limit=default_limit
    )
    return page(
        "project.html",
        status,
        project=found,
        form=form or ProjectForm.of(found),
        key_form=key_form or KeyForm(formdata=None),
        tokens=tokens.rows[:_SHOWN_TOKENS],
        total_tokens=tokens.total,
        live_tokens=live_token_count(found.id),
        upstream_url=found.base_url or Services.of(current_app).settings.upstream_url,
    )


def _delete_page(found: Project, form: Form, status: int = 200) -> Response:
    return page("project_delete.html", status, project=found, form=form, live_tokens=live_token_count(found.id))


def _created(project: Project) -> Response:
    return make_response(jsonify(project_json(project)), 201)


def _changed(project: Project, message: str) -> Response:
    if wants_json():
        return jsonify(project_json(project))
    return done(message, "project", project_id=project.id)
