"""
What operators may do with tokens, each as one transaction with its line in the audit trail; see `control.projects`.

A `secret` is what the caller holds and is kept nowhere, a `token_id` the public id.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from control import audit, limits, projects
from control.audit import Actor
from control.errors import Conflict, NotFound
from database import schema
from database.engine import Session, write_transaction
from llmproxy.admission import hash_token, utc_now, without_prefix
from llmproxy.times import iso_utc
from models import Token, new_id, retired_secrets

FIRST_TO_ROTATE = "0009"  # older code refuses secrets that were replaced
_TIDY = ("label",)  # what may still be changed of a token that is over
# A form that was sent twice gets its first answer again for so long; later, it has been used up.
REPEAT_WITHIN = timedelta(minutes=1)


def find(session: Session, token_id: str) -> Token:
    """The token of this public id. Raises NotFound."""
    token: Token | None = session.scalar(select(Token).where(Token.id == token_id))
    if token is None:
        raise NotFound("id", "token")
    return token


def has_secret(token_hash: str, *still: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether a token has the secret with this hash, or had it and `still` holds of the replaced one."""
    retired = select(retired_secrets.c.token_id).where(retired_secrets.c.token_hash == token_hash, *still)
    return or_(Token.token_hash == token_hash, Token.id.in_(retired))


def find_by_hash(session: Session, token_hash: str, now: datetime) -> Token | None:
    """The token of a secret with this hash, also of one that was replaced and still works at `now`."""
    token: Token | None = session.scalar(select(Token).where(has_secret(token_hash, retired_secrets.c.until > now)))
    return token


def issue(
    session: Session,
    actor: Actor,
    *,
    project_id: str,
    lifetime: timedelta | datetime,
    label: str | None = None,
    rate_limit: int | None = None,
    secret: str | None = None,
    rules: dict[str, Any] | None = None,
    meters: Sequence[dict[str, Any]] = (),
) -> tuple[str, Token]:
    """
    A new token: its secret and its row. Raises NotFound for the project.

    Args:
        lifetime: How long it lives, or until when.
        rate_limit: Requests per hour; None for what RATE_LIMIT_PER_HOUR says at the time.
        secret: An unguessable UUID to use, so that the same call again within REPEAT_WITHIN gives the same token.
            Raises Conflict when it is another call, or comes later.
        rules, meters: As `limits.given` takes them.
    """
    limited = limits.given(rules, meters)
    is_repeatable = secret is not None
    secret = secret or str(uuid.uuid4())
    columns = {"project_id": project_id, "label": label, "rate_limit": rate_limit} | limits.columns(limited)
    token = _new(secret, lifetime=lifetime, **columns)
    with write_transaction(session):
        projects.find(session, project_id, field="project_id")
        if is_repeatable and (issued := session.get(Token, token.token_hash)):
            return secret, _repeated(session, issued, token, limited)
        try:
            _add(session, actor, [token], limited)
        except IntegrityError as exc:
            # PostgreSQL lets two equal calls come this far at the same moment.
            raise _form_used_up() from exc
    return secret, token


def issue_many(
    session: Session, actor: Actor, *, count: int, project_id: str, label: str | None = None, **fields: Any
) -> list[tuple[str, Token]]:
    """
    So many new tokens with numbered labels, all or none; the rest as for `issue`. Raises NotFound for the project.
    """
    secrets = [str(uuid.uuid4()) for _ in range(count)]
    limited = limits.given(fields.pop("rules", None), fields.pop("meters", ()))
    fields |= limits.columns(limited)
    width = len(str(count))
    issued = [
        _new(secret, project_id=project_id, label=f"{label} {number:0{width}}" if label else None, **fields)
        for number, secret in enumerate(secrets, 1)
    ]
    with write_transaction(session):
        projects.find(session, project_id, field="project_id")
        _add(session, actor, issued, limited)
    return list(zip(secrets, issued, strict=True))


def change(session: Session, actor: Actor, token_id: str, *, seen: str | None = None, **fields: Any) -> Token:
    """
    Change a token. Raises NotFound, and Conflict for more than a new label of one that has expired or was revoked.

    Args:
        seen: `audit.version_of` the token that the caller decided by; another one raises Stale.
        fields: Any of label, rate_limit, expires_at, is_active, and of rules, meters (see `limits.apply`).
    """
    limited = {name: fields.pop(name) for name in limits.FIELDS if name in fields}
    with write_transaction(session):
        token = find(session, token_id)
        if limited:
            limits.lock(session, token_id=token_id)
        audit.require_seen(token, seen)
        before = audit.facts(token)
        if changed := next(
            (name for name in fields if name not in _TIDY and fields[name] != getattr(token, name)), None
        ):
            limits.require_life(token, changed)
        if limited:
            limits.require_life(token, next(iter(limited)))
        for name, value in fields.items():
            setattr(token, name, value)
        limits.apply(session, actor, token, limited)
        audit.add_change(session, actor, token, before)
    return token


def rotate(
    session: Session, actor: Actor, token_id: str, *, grace: timedelta, secret: str | None = None
) -> tuple[str, Token, datetime]:
    """
    A new secret for a token, whose limits and history go on: the secret, the row, and when the old one ends.

    Secrets that were replaced earlier end then, too, if not before. Raises NotFound, and Conflict for a token that is
    revoked or expired.

    Args:
        grace: For how long the old secret still works.
        secret: An unguessable UUID to use, so that the same call again changes nothing.
    """
    secret = secret or str(uuid.uuid4())
    until = utc_now() + grace
    with write_transaction(session):
        token = find(session, token_id)
        if token.token_hash == hash_token(secret):
            return secret, token, retired_until(session, token_id) or until
        limits.require_life(token, "id")
        earlier = retired_secrets.c.token_id == token_id
        session.execute(update(retired_secrets).where(earlier, retired_secrets.c.until > until).values(until=until))
        old = {"token_hash": token.token_hash, "token_id": token_id, "until": until}
        session.execute(insert(retired_secrets).values(old))
        token.token_hash = hash_token(secret)
        schema.raise_floor(session, FIRST_TO_ROTATE)
        audit.add(session, actor, "rotate", token, after={"old_secret_until": iso_utc(until)})
    return secret, token, until


def retired_until(session: Session, token_id: str) -> datetime | None:
    """Until when the last of a token's replaced secrets works; None where none does any more."""
    column = retired_secrets.c.until
    of_token = select(func.max(column)).where(retired_secrets.c.token_id == token_id, column > utc_now())
    until: datetime | None = session.scalar(of_token)
    return until


def revoke(session: Session, actor: Actor, *, token_id: str | None = None, secret: str | None = None) -> None:
    """Revoke by public id or by a secret that works; revoking twice is fine. Raises NotFound."""
    with write_transaction(session):
        token = find(session, token_id) if token_id is not None else _working_by(session, secret or "")
        if token.is_active:
            _revoke(session, actor, token)


def revoke_all(session: Session, actor: Actor, token_ids: Iterable[str]) -> int:
    """Revoke those of the tokens that are not revoked yet, all or none; how many they were."""
    with write_transaction(session):
        active = (
            select(Token).where(Token.id.in_(set(token_ids)), Token.is_active).order_by(Token.id).with_for_update()
        )
        found = list(session.scalars(active))
        for token in found:
            _revoke(session, actor, token)
    return len(found)


def extend_all(session: Session, actor: Actor, token_ids: Iterable[str], until: datetime) -> int:
    """
    Let those of the tokens that are alive live until then at least, all or none; how many they are.

    Those that expire later keep their time, so the same call again changes nothing. Raises Conflict for a time that
    has passed.
    """
    now = utc_now()
    if until <= now:
        raise Conflict("expires_at", "That time has passed.")
    with write_transaction(session):
        alive = select(Token).where(Token.id.in_(set(token_ids)), Token.is_active, Token.expires_at > now)
        found = list(session.scalars(alive.order_by(Token.id).with_for_update()))
        for token in found:
            before = audit.facts(token)
            token.expires_at = max(token.expires_at, until)
            audit.add_change(session, actor, token, before)
    return len(found)


def _revoke(session: Session, actor: Actor, token: Token) -> None:
    token.is_active = False
    audit.add(session, actor, "revoke", token, before={"is_active": True}, after={"is_active": False})


def _working_by(session: Session, secret: str) -> Token:
    # One that was replaced and has ended opens nothing: whoever found it must not end what its holder has moved to.
    token = find_by_hash(session, hash_token(without_prefix(secret)), utc_now())
    if token is None:
        raise NotFound("token", "token")
    return token


def _new(secret: str, *, lifetime: timedelta | datetime, **columns: Any) -> Token:
    now = utc_now()
    expires_at = lifetime if isinstance(lifetime, datetime) else now + lifetime
    return Token(token_hash=hash_token(secret), id=new_id(), expires_at=expires_at, created_at=now, **columns)


def _add(session: Session, actor: Actor, issued: list[Token], limited: Mapping[str, Any]) -> None:
    session.add_all(issued)
    session.flush()
    audit.add_made(session, actor, "issue", [(token, audit.facts(token)) for token in issued])
    limits.give(session, actor, issued, limited)


def _repeated(session: Session, issued: Token, wanted: Token, limited: Mapping[str, Any]) -> Token:
    """The token that an equal call has issued a moment ago. Raises Conflict."""
    asked_the_same = all(
        getattr(issued, name) == getattr(wanted, name) for name in ("project_id", "label", "rate_limit")
    ) and limits.are_as_asked(session, issued, limited)
    if not asked_the_same or not issued.is_active or wanted.created_at - issued.created_at > REPEAT_WITHIN:
        raise _form_used_up()
    return issued


def _form_used_up() -> Conflict:
    return Conflict("nonce", "This form has issued its token already.")
