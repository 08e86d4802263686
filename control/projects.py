"""
What operators may do with projects, each as one transaction with its line in the audit trail.

The management API and the admin pages both call these, so a rule stands here once. Values arrive checked for type and
shape; what only the database knows (names taken, ids unknown, tokens alive) is checked here. All raise
`database.errors` where there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from control import alerts, audit, keys, limits
from control.audit import Actor
from control.errors import Conflict, KeyNeeded, NotFound
from database.engine import Session, write_transaction
from llmproxy.admission import utc_now
from llmproxy.keyring import KeyRing
from llmproxy.urls import seal_origin
from models import Project, Token, new_id


def find(session: Session, project_id: str, *, field: str = "id") -> Project:
    """
    The project. Raises NotFound.

    Args:
        field: What the caller calls the id.
    """
    project: Project | None = session.get(Project, project_id)
    if project is None:
        raise NotFound(field, "project")
    return project


def names(session: Session, wanted: Iterable[str]) -> set[str]:
    """Those of the names that projects have."""
    return set(session.scalars(select(Project.name).where(Project.name.in_(wanted))))


def create(
    session: Session,
    keyring: KeyRing,
    actor: Actor,
    *,
    name: str,
    openai_api_key: str,
    project_id: str | None = None,
    **fields: Any,
) -> Project:
    """
    A new project with its key sealed. Raises Conflict when the name is taken.

    Args:
        project_id: The id to give it, a UUID. The same call again finds the project made: a form that was sent twice
            makes one.
        fields: Any of base_url, stream_usage, default_tier, and of rules, meters (see `limits.apply`).
    """
    limited = {name: fields.pop(name) for name in limits.FIELDS if name in fields}
    project = Project(id=project_id or new_id(), name=name, created_at=utc_now(), **fields)
    project.rules = limited.get("rules") or None
    with write_transaction(session):
        made = session.get(Project, project_id) if project_id else None
        if made is not None and made.name == name:
            return made
        if made is not None:
            raise Conflict("name", f"This form has created the project {made.name!r} already.")
        _require_free_name(session, name)
        keys.seal(session, keyring, project, openai_api_key)
        session.add(project)
        _flush_name(session, name)  # first, for the columns' defaults are filled in by it
        audit.add(session, actor, "create", project, after=audit.facts(project))
        limits.apply(session, actor, project, limited)
    return project


def change(
    session: Session, keyring: KeyRing, actor: Actor, project_id: str, *, seen: str | None = None, **fields: Any
) -> Project:
    """
    Change a project. Raises NotFound, Conflict, and KeyNeeded when the upstream becomes another one without its key.

    Args:
        seen: `audit.version_of` the project that the caller decided by; another one raises Stale.
        fields: Any of name, openai_api_key, base_url, is_active, stream_usage, default_tier, and of rules, meters
            (see `limits.apply`).
    """
    new_key = fields.pop("openai_api_key", None)
    limited = {name: fields.pop(name) for name in limits.FIELDS if name in fields}
    with write_transaction(session):
        project = find(session, project_id)
        if limited:
            limits.lock(session, project_id=project_id)
        audit.require_seen(project, seen)
        before = audit.facts(project)
        if "name" in fields and fields["name"] != project.name:
            _require_free_name(session, fields["name"])
        origin = seal_origin(project.base_url)
        for name, value in fields.items():
            setattr(project, name, value)
        replaced = {}
        if new_key is None and seal_origin(project.base_url) != origin:
            raise KeyNeeded
        if new_key is not None:
            keys.seal(session, keyring, project, new_key)
            alerts.tell_again(session, project.id)
            # Two keys may end in the same four characters; that the key was replaced must show all the same.
            replaced["openai_api_key"] = "replaced"
        _flush_name(session, project.name)
        limits.apply(session, actor, project, limited)
        audit.add_change(session, actor, project, before, **replaced)
    return project


def delete(session: Session, actor: Actor, project_id: str, *, force: bool, live_tokens: int | None = None) -> None:
    """
    Delete a project and its tokens. Raises NotFound, and Conflict when tokens live and `force` is False.

    Args:
        live_tokens: How many live tokens the caller reckons with; another number raises Conflict.
    """
    with write_transaction(session):
        project = find(session, project_id)
        live = live_token_count(session, project_id)
        if live_tokens is not None and live_tokens != live:
            raise Conflict("live_tokens", f"The project has {live} live tokens now.")
        if live and not force:
            raise Conflict("force", f"The project still has {live} live tokens. Revoke them, or send force=true.")
        audit.add(session, actor, "delete", project, before=audit.facts(project) | {"live_tokens": live})
        session.execute(delete_from(Token).where(Token.project_id == project_id))
        session.delete(project)


def revoke_tokens(session: Session, actor: Actor, project_id: str) -> int:
    """Revoke every token of a project; how many were not revoked yet. Raises NotFound."""
    with write_transaction(session):
        project = find(session, project_id)
        active = update(Token).where(Token.project_id == project_id, Token.is_active).returning(Token.id)
        revoked = len(session.scalars(active.values(is_active=False)).all())
        if revoked:
            audit.add(session, actor, "revoke_tokens", project, after={"revoked": revoked})
    return revoked


def live_token_count(session: Session, project_id: str) -> int:
    """How many tokens of a project could still be used."""
    live = select(func.count()).where(Token.project_id == project_id, Token.is_active, Token.expires_at > utc_now())
    return session.scalar(live) or 0


def _require_free_name(session: Session, name: str) -> None:
    if session.scalar(select(Project.id).where(Project.name == name)):
        raise _name_taken(name)


def _flush_name(session: Session, name: str) -> None:
    # PostgreSQL lets two transactions look for the name at once; its unique index then decides.
    try:
        session.flush()
    except IntegrityError as exc:
        raise _name_taken(name) from exc


def _name_taken(name: str) -> Conflict:
    return Conflict("name", f"A project named {name!r} exists already. Choose another name.")
