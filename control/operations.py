"""
What operators may do with projects and tokens, each as one transaction with its line in the audit trail.

The management API and the admin pages both call these, so a rule stands here once. Values arrive checked for
type and shape; what only the database knows (names taken, ids unknown, tokens alive) is checked here.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from database.engine import write_transaction
from llmproxy.admission import hash_token, utc_now
from llmproxy.keyring import KeyRing, SealBroken
from models import AuditEntry, Project, Token, db, new_id

KEY_HINT_LENGTH = 4
KEY_LENGTH_WORTH_A_HINT = 12  # of a shorter key, four characters would give too much away
# A form that was sent twice gets its first answer again for so long; later, it has been used up.
REPEAT_WITHIN = timedelta(minutes=1)
ROTATED_AT_ONCE = 50


class NotFound(Exception):
    """No such row; `field` is what named it."""

    def __init__(self, field: str, what: str) -> None:
        self.field = field
        super().__init__(f"There is no {what} with this {field}.")


class Conflict(Exception):
    """The change would break a rule that other rows hold; `field` is what to change."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Stale(Conflict):
    """The row is not what the caller saw any more."""

    def __init__(self) -> None:
        super().__init__("seen", "Somebody changed this meanwhile. Look at the current values, and save again.")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: a name for the audit trail, and the address the request came from."""

    name: str
    address: str | None = None


@dataclass(slots=True)
class Rotation:
    """
    What became of the upstream keys.

    Attributes:
        rotated: Sealed anew.
        current: Were sealed under the current encryption key already.
        lost: Ids of projects whose key no key of the ring opens.
    """

    rotated: int = 0
    current: int = 0
    lost: list[str] = field(default_factory=list)


class Operations:
    """The changes, over one key ring."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring

    # Projects

    def create_project(
        self, actor: Actor, *, name: str, openai_api_key: str, project_id: str | None = None, **fields: Any
    ) -> Project:
        """
        A new project with its key sealed. Raises Conflict when the name is taken.

        Args:
            project_id: The id to give it, a UUID. The same call again finds the project made: a form that
                was sent twice makes one.
        """
        project = Project(id=project_id or new_id(), name=name, created_at=utc_now(), **fields)
        self._seal(project, openai_api_key)
        with write_transaction():
            made: Project | None = db.session.get(Project, project_id) if project_id else None
            if made is not None and made.name == name:
                return made
            if made is not None:
                raise Conflict("name", f"This form has created the project {made.name!r} already.")
            _require_free_name(name)
            db.session.add(project)
            _flush_name(name)  # first, for the columns' defaults are filled in by it
            _audit(actor, "project.create", project, after=_project_facts(project))
        return project

    def change_project(self, actor: Actor, project_id: str, *, seen: str | None = None, **fields: Any) -> Project:
        """
        Change any of name, openai_api_key, base_url, is_active, stream_usage. Raises NotFound, Conflict.

        Args:
            seen: `version_of` the project that the caller decided by; another one raises Stale.
        """
        new_key = fields.pop("openai_api_key", None)
        with write_transaction():
            project = _project(project_id)
            _require_seen(project, seen)
            before = _project_facts(project)
            if "name" in fields and fields["name"] != project.name:
                _require_free_name(fields["name"])
            for name, value in fields.items():
                setattr(project, name, value)
            if new_key is not None:
                self._seal(project, new_key)
            changes = _changes(before, _project_facts(project))
            if new_key is not None:
                changes = _with_replaced_key(changes)
            if changes[1]:
                _audit(actor, "project.change", project, before=changes[0], after=changes[1])
            _flush_name(project.name)
        return project

    def delete_project(self, actor: Actor, project_id: str, *, force: bool, live_tokens: int | None = None) -> None:
        """
        Delete a project and its tokens. Raises NotFound, and Conflict when tokens live and `force` is False.

        Args:
            live_tokens: How many live tokens the caller reckons with; another number raises Conflict.
        """
        with write_transaction():
            project = _project(project_id)
            live = live_token_count(project_id)
            if live_tokens is not None and live_tokens != live:
                raise Conflict("live_tokens", f"The project has {live} live tokens now.")
            if live and not force:
                raise Conflict("force", f"The project still has {live} live tokens. Revoke them, or send force=true.")
            _audit(actor, "project.delete", project, before={**_project_facts(project), "live_tokens": live})
            db.session.execute(delete(Token).where(Token.project_id == project_id))
            db.session.delete(project)

    def revoke_project_tokens(self, actor: Actor, project_id: str) -> int:
        """Revoke every token of a project; how many were not revoked yet. Raises NotFound."""
        with write_transaction():
            project = _project(project_id)
            active = update(Token).where(Token.project_id == project_id, Token.is_active).returning(Token.id)
            revoked = len(db.session.scalars(active.values(is_active=False)).all())
            if revoked:
                _audit(actor, "project.revoke_tokens", project, after={"revoked": revoked})
        return revoked

    def _seal(self, project: Project, openai_api_key: str) -> None:
        project.openai_api_key = self._keyring.seal(openai_api_key, row_id=project.id)
        long_enough = len(openai_api_key) >= KEY_LENGTH_WORTH_A_HINT
        project.key_hint = openai_api_key[-KEY_HINT_LENGTH:] if long_enough else ""

    def rotate_keys(self, actor: Actor) -> Rotation:
        """
        Seal every upstream key anew under the current encryption key.

        A few at a time, so that claims and other changes go on meanwhile. Interrupted, it has done what it has done,
        and the next run does the rest. What cannot be opened is left as it is.
        """
        rotation = Rotation()
        last_id: str | None = ""
        while last_id is not None:
            last_id = self._rotate_some(actor, last_id, rotation)
        return rotation

    def _rotate_some(self, actor: Actor, after_id: str, rotation: Rotation) -> str | None:
        """Rotate the keys of the next projects; the id of the last one, None when there were none."""
        # Locked, for PostgreSQL would let an operator replace a key between the look at it and its sealing.
        some = select(Project).where(Project.id > after_id).order_by(Project.id).limit(ROTATED_AT_ONCE)
        done = Rotation()
        with write_transaction():
            projects = db.session.scalars(some.with_for_update(key_share=True)).all()
            for project in projects:
                self._rotate(actor, project, done)
        rotation.rotated += done.rotated
        rotation.current += done.current
        rotation.lost += done.lost
        return projects[-1].id if projects else None

    def _rotate(self, actor: Actor, project: Project, rotation: Rotation) -> None:
        if self._keyring.is_current(project.openai_api_key):
            rotation.current += 1
            return
        try:
            plain = self._keyring.open(project.openai_api_key, row_id=project.id)
        except SealBroken:
            rotation.lost.append(project.id)
            return
        project.openai_api_key = self._keyring.seal(plain, row_id=project.id)
        _audit(actor, "project.rotate_encryption", project)
        rotation.rotated += 1

    # Tokens

    def issue_token(
        self,
        actor: Actor,
        *,
        project_id: str,
        lifetime: timedelta,
        label: str | None = None,
        rate_limit: int | None = None,
        secret: str | None = None,
    ) -> tuple[str, Token]:
        """
        A new token: the secret, which is kept nowhere, and its row. Raises NotFound for the project.

        Args:
            secret: An unguessable UUID to use, so that the same call again within REPEAT_WITHIN gives the same
                token. Raises Conflict when it is another call, or comes later.
        """
        is_repeatable = secret is not None
        secret = secret or str(uuid.uuid4())
        now = utc_now()
        token = Token(
            token=hash_token(secret),
            id=new_id(),
            project_id=project_id,
            label=label,
            rate_limit=rate_limit,
            expires_at=now + lifetime,
            created_at=now,
        )
        with write_transaction():
            _project(project_id, field="project_id")
            if is_repeatable and (issued := db.session.get(Token, token.token)):
                return secret, _repeated(issued, token)
            db.session.add(token)
            _flush_secret()
            _audit(actor, "token.issue", token, after=_token_facts(token))
        return secret, token

    def change_token(self, actor: Actor, token_id: str, *, seen: str | None = None, **fields: Any) -> Token:
        """
        Change any of label, rate_limit, expires_at, is_active. Raises NotFound.

        Args:
            seen: `version_of` the token that the caller decided by; another one raises Stale.
        """
        with write_transaction():
            token = _token(token_id)
            _require_seen(token, seen)
            before = _token_facts(token)
            for name, value in fields.items():
                setattr(token, name, value)
            changes = _changes(before, _token_facts(token))
            if changes[1]:
                _audit(actor, "token.change", token, before=changes[0], after=changes[1])
        return token

    def revoke_token(self, actor: Actor, *, token_id: str | None = None, secret: str | None = None) -> None:
        """Revoke by public id or by the secret; revoking twice is fine. Raises NotFound."""
        with write_transaction():
            token = _token(token_id) if token_id is not None else _token_by_secret(secret or "")
            if token.is_active:
                token.is_active = False
                _audit(actor, "token.revoke", token, before={"is_active": True}, after={"is_active": False})


def live_token_count(project_id: str) -> int:
    """How many tokens of a project could still be used."""
    live = select(func.count()).where(Token.project_id == project_id, Token.is_active, Token.expires_at > utc_now())
    return db.session.scalar(live) or 0


def version_of(row: Project | Token) -> str:
    """A short text that changes with whatever an operator can change in the row."""
    facts = _project_facts(row) if isinstance(row, Project) else _token_facts(row)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _require_seen(row: Project | Token, seen: str | None) -> None:
    if seen is not None and seen != version_of(row):
        raise Stale


def _repeated(issued: Token, wanted: Token) -> Token:
    """The token that an equal call has issued a moment ago. Raises Conflict."""
    asked_the_same = (issued.project_id, issued.label, issued.rate_limit) == (
        wanted.project_id,
        wanted.label,
        wanted.rate_limit,
    )
    if not asked_the_same or not issued.is_active or wanted.created_at - issued.created_at > REPEAT_WITHIN:
        raise Conflict("nonce", "This form has issued its token already.")
    return issued


def _project(project_id: str, *, field: str = "id") -> Project:
    project: Project | None = db.session.get(Project, project_id)
    if project is None:
        raise NotFound(field, "project")
    return project


def _token(token_id: str) -> Token:
    token: Token | None = db.session.scalar(select(Token).where(Token.id == token_id))
    if token is None:
        raise NotFound("id", "token")
    return token


def _token_by_secret(secret: str) -> Token:
    token: Token | None = db.session.get(Token, hash_token(secret))
    if token is None:
        raise NotFound("token", "token")
    return token


def _require_free_name(name: str) -> None:
    if db.session.scalar(select(Project.id).where(Project.name == name)):
        raise _name_taken(name)


def _flush_name(name: str) -> None:
    # PostgreSQL lets two transactions look for the name at once; its unique index then decides.
    try:
        db.session.flush()
    except IntegrityError as exc:
        raise _name_taken(name) from exc


def _flush_secret() -> None:
    # PostgreSQL again: two equal calls at the same moment.
    try:
        db.session.flush()
    except IntegrityError as exc:
        raise Conflict("nonce", "This form has issued its token already.") from exc


def _name_taken(name: str) -> Conflict:
    return Conflict("name", f"A project named {name!r} exists already. Choose another name.")


def _project_facts(project: Project) -> dict[str, Any]:
    return {
        "name": project.name,
        "key_hint": project.key_hint,
        "base_url": project.base_url,
        "is_active": project.is_active,
        "stream_usage": project.stream_usage,
    }


def _token_facts(token: Token) -> dict[str, Any]:
    return {
        "project_id": token.project_id,
        "label": token.label,
        "rate_limit": token.rate_limit,
        "expires_at": iso_utc(token.expires_at),
        "is_active": token.is_active,
    }


def iso_utc(moment: datetime) -> str:
    """An aware time as ISO 8601 in UTC with seconds and Z."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _changes(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    changed = [name for name in after if before[name] != after[name]]
    return {name: before[name] for name in changed}, {name: after[name] for name in changed}


def _with_replaced_key(changes: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    # Two keys may end in the same four characters; that the key was replaced must show all the same.
    return changes[0], {**changes[1], "openai_api_key": "replaced"}


def _audit(
    actor: Actor,
    action: str,
    target: Project | Token,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    is_project = isinstance(target, Project)
    db.session.add(
        AuditEntry(
            at=utc_now(),
            actor=actor.name,
            address=actor.address,
            action=action,
            target_type="project" if is_project else "token",
            target_id=target.id,
            target_name=target.name if is_project else target.label,
            before=before,
            after=after,
        )
    )
