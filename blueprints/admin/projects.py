"""Projects: list, create, change, replace the key, switch off and on, revoke all tokens, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response, current_app, jsonify, make_response, request

from accounting.report import Filters
from blueprints import schemas
from blueprints.admin import costs, exports, limits, once, queries, rules, searches
from blueprints.admin.access import actor
from blueprints.admin.activity import activity
from blueprints.admin.answers import done, page, shows, wants_json
from blueprints.admin.forms import DeleteProjectForm, KeyForm, NewProjectForm, ProjectForm
from blueprints.admin.site import bp
from blueprints.admin.spans import MONTH, SPANS, during_month
from blueprints.wire import project_json, read_body
from control import keys, projects
from control.audit import version_of
from control.projects import live_token_count
from llmproxy.telemetry.standing import calls_of
from models import Project, db
from services import Services

_SHOWN_TOKENS = 10


@bp.get("/projects", endpoint="projects")
def list_projects() -> Response:
    """Projects, filtered by name, by id or by a token, and by state."""
    return searches.moved("projects", "q") or _list(request.args)


@bp.post("/projects/filter")
def filter_projects() -> Response:
    """Turn a filled-in filter into an address, in which no secret stands."""
    found = searches.address("projects", request.form, ("q", "state", "order"), "q")
    return found or _list(request.form.to_dict() | {"q": ""}, searches.UNKNOWN)


def _list(said: Mapping[str, str], problem: str | None = None) -> Response:
    filters = {
        "search": said.get("q", "").strip(),
        "state": searches.choice(said, "state", queries.PROJECT_STATES),
        "order": searches.choice(said, "order", queries.either_way(queries.PROJECT_ORDERS), "name"),
    }
    asked, size = searches.number("page"), queries.PAGE_SIZE
    if exports.wants_csv():
        asked, size = None, exports.MAX_ROWS
    found = queries.projects_page(asked or 1, size=size, **filters)
    if exports.wants_csv():
        return exports.projects(found.rows)
    is_elsewhere = searches.is_elsewhere(asked, found)
    if wants_json():
        data = [project_json(row.project) for row in found.rows]
        return jsonify(data=data, has_more=found.has_next)
    return page(
        "projects.html",
        400 if problem else 200,
        problem=problem,
        page=found,
        is_elsewhere=is_elsewhere,
        filters=filters,
        is_filtered=bool(filters["search"] or filters["state"]),
        states=queries.PROJECT_STATES,
        orders=queries.PROJECT_ORDERS,
        price_date=costs.price_date(),
        during=during_month(),
    )


@bp.get("/projects/new")
def new_project() -> Response:
    """The form for a new project."""
    return _new_project(NewProjectForm(formdata=None))


@bp.post("/projects")
def create_project() -> Response:
    """Create a project."""
    keyring = Services.of(current_app).keyring
    if request.is_json:
        return _created(projects.create(db.session, keyring, actor(), **read_body(schemas.NewProject())))
    form = NewProjectForm()
    nonce = once.nonce_of(form)
    made_id = once.project_id_of(nonce) if nonce else None
    values = form.load(schemas.NewProject())
    project = projects.create(db.session, keyring, actor(), project_id=made_id, **values)
    if wants_json():
        return _created(project)
    message = f"Created the project “{project.name}”. Issue its first token next."
    if sharing := keys.sharing(db.session, keyring, project):
        message += (
            f" It has the same key as {', '.join(sharing)}: their tokens can read and delete each other's files."
        )
    return done(message, "project", project_id=project.id)


@bp.delete("/projects")
def delete_project_by_body() -> tuple[str, int]:
    """Delete a project named by a body: JSON or a form's fields, as of the schema ProjectName."""
    if request.is_json:
        body = read_body(schemas.ProjectName())
    else:
        sent: dict[str, Any] = dict(request.form)
        if "force" in sent:
            sent["force"] = sent["force"].lower() in ("true", "1", "on", "yes")
        body = schemas.ProjectName().load(sent)
    projects.delete(db.session, actor(), **body)
    return "", 204


@bp.get("/projects/<project_id>", endpoint="project")
def show_project(project_id: str) -> Response:
    """One project."""
    found = projects.find(db.session, project_id)
    return jsonify(project_json(found)) if wants_json() else _project_page(found)


@bp.post("/projects/<project_id>")
def change_project(project_id: str) -> Response:
    """Rename it, change its base URL or how it asks for usage; by JSON anything of schemas.ProjectChange."""
    if request.is_json:
        return jsonify(project_json(_change(project_id, **read_body(schemas.ProjectChange()))))
    form = ProjectForm()
    changed = _change(project_id, seen=form.seen.data or None, **form.changes())
    return _changed(changed, f"Saved “{changed.name}”.")


@bp.post("/projects/<project_id>/key")
def replace_key(project_id: str) -> Response:
    """Replace the API key; the next request uses the new one."""
    changed = _change(project_id, **KeyForm().load(schemas.ProjectChange()))
    return _changed(changed, f"Replaced the API key of “{changed.name}”. The next request uses it.")


@bp.get("/projects/<project_id>/switch")
def confirm_switch_off(project_id: str) -> Response:
    """Ask before a project is switched off."""
    parts, found = Services.of(current_app), projects.find(db.session, project_id)
    parts.tell_gauges()
    return page(
        "project_off.html",
        project=found,
        live_tokens=live_token_count(db.session, project_id),
        running=calls_of(project_id),
        cuts_streams=parts.settings.cut_streams,
    )


@bp.post("/projects/<project_id>/switch")
def switch_project(project_id: str) -> Response:
    """Switch it off or on, as the field `is_active` (true, false) says."""
    on = request.form.get("is_active", "").lower() == "true"
    words = (
        "Switched on. Its tokens work again." if on else "Switched off. Its tokens are refused until it is on again."
    )
    return _changed(_change(project_id, is_active=on), words)


@bp.post("/projects/<project_id>/stream-usage")
def ask_for_usage(project_id: str) -> Response:
    """Have the usage of its streams asked for, or not, as the field `stream_usage` (ask, as-sent) says."""
    values = schemas.ProjectChange().load({"stream_usage": request.form.get("stream_usage", "")})
    changed = _change(project_id, **values)
    words = "is asked for in every stream" if changed.stream_usage == "ask" else "is what its callers ask for"
    return _changed(changed, f"The usage of “{changed.name}” {words} from now on.")


@bp.get("/projects/<project_id>/revoke")
def confirm_revoke(project_id: str) -> Response:
    """Ask before every token is revoked."""
    found = projects.find(db.session, project_id)
    return page("project_revoke.html", project=found, live_tokens=live_token_count(db.session, project_id))


@bp.post("/projects/<project_id>/revoke")
def revoke_project_tokens(project_id: str) -> Response:
    """Revoke every token of a project."""
    revoked = projects.revoke_tokens(db.session, actor(), project_id)
    if wants_json():
        return jsonify(revoked=revoked)
    return done(f"Revoked {revoked} token{'' if revoked == 1 else 's'}.", "project", project_id=project_id)


@bp.get("/projects/<project_id>/delete")
def confirm_delete(project_id: str) -> Response:
    """Ask before a project is deleted."""
    return _delete_page(projects.find(db.session, project_id), DeleteProjectForm(formdata=None))


@bp.post("/projects/<project_id>/delete")
def delete_project(project_id: str) -> Response:
    """Delete a project, when the number of its live tokens was entered."""
    name = projects.find(db.session, project_id).name
    number = DeleteProjectForm().number() if live_token_count(db.session, project_id) else 0
    projects.delete(db.session, actor(), project_id, force=True, live_tokens=number)
    return done(f"Deleted the project “{name}” with its tokens.", "projects")


@shows(NewProjectForm, of="create_project")
def _new_project(form: NewProjectForm, status: int = 200) -> Response:
    once.give_nonce(form)
    return page("project_new.html", status, form=form)


@shows(ProjectForm, of="change_project")
def _change_again(form: ProjectForm, status: int) -> Response:
    found = _asked_for()
    # Whoever saves again has seen what this page shows.
    form.seen.data = version_of(found)
    return _project_page(found, status, form=form)


@shows(KeyForm, of="replace_key")
def _replace_again(form: KeyForm, status: int) -> Response:
    return _project_page(_asked_for(), status, key_form=form)


@shows(DeleteProjectForm, of="delete_project")
def _delete_again(form: DeleteProjectForm, status: int) -> Response:
    return _delete_page(_asked_for(), form, status)


def _asked_for() -> Project:
    """The project that the request's path names."""
    return projects.find(db.session, (request.view_args or {})["project_id"])


def _change(project_id: str, **changes: Any) -> Project:
    return projects.change(db.session, Services.of(current_app).keyring, actor(), project_id, **changes)


def _project_page(
    found: Project, status: int = 200, *, form: ProjectForm | None = None, key_form: KeyForm | None = None
) -> Response:
    settings = Services.of(current_app).settings
    tokens = queries.tokens_page(1, project_id=found.id, default_limit=settings.rate_limit_per_hour)
    return page(
        "project.html",
        status,
        project=found,
        form=form or ProjectForm(formdata=None, obj=found, seen=version_of(found)),
        key_form=key_form or KeyForm(formdata=None),
        tokens=tokens.rows[:_SHOWN_TOKENS],
        total_tokens=tokens.total,
        live_tokens=live_token_count(db.session, found.id),
        upstream_url=found.base_url or settings.upstream_url,
        activity=activity(Filters(project_id=found.id)),
        limits=limits.views(found),
        rules=rules.view(found.rules),
        spans=SPANS,
        price_date=costs.price_date(),
        unpriced=costs.unpriced(Filters(project_id=found.id), MONTH),
        silent=costs.silent_last_month(found.id),
        during=during_month(),
    )


def _delete_page(found: Project, form: DeleteProjectForm, status: int = 200) -> Response:
    live_tokens = live_token_count(db.session, found.id)
    return page("project_delete.html", status, project=found, form=form, live_tokens=live_tokens)


def _created(project: Project) -> Response:
    return make_response(jsonify(project_json(project)), 201)


def _changed(project: Project, message: str) -> Response:
    if wants_json():
        return jsonify(project_json(project))
    return done(message, "project", project_id=project.id)
