"""
What operators may do with tokens, each as one transaction with its line in the audit trail; see `control.projects`.

A `secret` is what the caller holds and is kept nowhere, a `token_id` the public id.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from control import audit, projects
from control.audit import Actor
from control.errors import Conflict, NotFound
from database import schema
from database.engine import Session, write_transaction
from llmproxy.admission import hash_token, utc_now, without_prefix
from llmproxy.times import iso_utc
from models import Token, new_id, retired_secrets

FIRST_TO_ROTATE = "0009"  # older code refuses secrets that were replaced
# A form that was sent twice gets its first answer again for so long; later, it has been used up.
REPEAT_WITHIN = timedelta(minutes=1)


def find(session: Session, token_id: str) -> Token:
    """The token of this public id. Raises NotFound."""
    token: Token | None = session.scalar(select(Token).where(Token.id == token_id))
    if token is None:
        raise NotFound("id", "token")
    return token


def issue(
    session: Session,
    actor: Actor,
    *,
    project_id: str,
    lifetime: timedelta,
    label: str | None = None,
    rate_limit: int | None = None,
    secret: str | None = None,
) -> tuple[str, Token]:
    """
    A new token: its secret and its row. Raises NotFound for the project.

    Args:
        rate_limit: Requests per hour; None for what RATE_LIMIT_PER_HOUR says at the time.
        secret: An unguessable UUID to use, so that the same call again within REPEAT_WITHIN gives the same token.
            Raises Conflict when it is another call, or comes later.
    """
    is_repeatable = secret is not None
    secret = secret or str(uuid.uuid4())
    now = utc_now()
    token = Token(
        token_hash=hash_token(secret),
        id=new_id(),
        project_id=project_id,
        label=label,
        rate_limit=rate_limit,
        expires_at=now + lifetime,
        created_at=now,
    )
    with write_transaction(session):
        projects.find(session, project_id, field="project_id")
        if is_repeatable and (issued := session.get(Token, token.token_hash)):
            return secret, _repeated(issued, token)
        session.add(token)
        try:
            session.flush()
        except IntegrityError as exc:
            # PostgreSQL lets two equal calls come this far at the same moment.
            raise _form_used_up() from exc
        audit.add(session, actor, "issue", token, after=audit.facts(token))
    return secret, token


def change(session: Session, actor: Actor, token_id: str, *, seen: str | None = None, **fields: Any) -> Token:
    """
    Change a token. Raises NotFound, and Conflict for a new expiry of one that has expired or was revoked.

    Args:
        seen: `audit.version_of` the token that the caller decided by; another one raises Stale.
        fields: Any of label, rate_limit, expires_at, is_active.
    """
    with write_transaction(session):
        token = find(session, token_id)
        audit.require_seen(token, seen)
        before = audit.facts(token)
        if fields.get("expires_at", token.expires_at) != token.expires_at:
            _require_life(token, "expires_at")
        for name, value in fields.items():
            setattr(token, name, value)
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
        _require_life(token, "id")
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
    """Revoke by public id or by the secret; revoking twice is fine. Raises NotFound."""
    with write_transaction(session):
        token = find(session, token_id) if token_id is not None else _find_by_secret(session, secret or "")
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


def _revoke(session: Session, actor: Actor, token: Token) -> None:
    token.is_active = False
    audit.add(session, actor, "revoke", token, before={"is_active": True}, after={"is_active": False})


def _find_by_secret(session: Session, secret: str) -> Token:
    token_hash = hash_token(without_prefix(secret))
    retired = select(retired_secrets.c.token_id).where(retired_secrets.c.token_hash == token_hash)
    token: Token | None = session.scalar(
        select(Token).where(or_(Token.token_hash == token_hash, Token.id.in_(retired)))
    )
    if token is None:
        raise NotFound("token", "token")
    return token


def _repeated(issued: Token, wanted: Token) -> Token:
    """The token that an equal call has issued a moment ago. Raises Conflict."""
    asked_the_same = all(
        getattr(issued, name) == getattr(wanted, name) for name in ("project_id", "label", "rate_limit")
    )
    if not asked_the_same or not issued.is_active or wanted.created_at - issued.created_at > REPEAT_WITHIN:
        raise _form_used_up()
    return issued


def _form_used_up() -> Conflict:
    return Conflict("nonce", "This form has issued its token already.")


def _require_life(token: Token, field: str) -> None:
    # Its holder was told that it is over, and may have thrown it away: where, nobody knows.
    if not token.is_active or token.expires_at <= utc_now():
        state = "was revoked" if not token.is_active else "has expired"
        raise Conflict(field, f"The token {state}, and does not come back: issue a new one.")
