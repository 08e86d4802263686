"""
The audit trail: what there is to tell of a project or a token, and who changed it.

An entry is added to the session of its change, whose transaction keeps both or neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from control.errors import Stale
from control.sign_ins import Failures
from database.engine import Session
from llmproxy.admission import utc_now
from llmproxy.times import iso_utc
from models import AuditEntry, Project, Token

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: a name for the audit trail, and the address the request came from."""

    name: str
    address: str | None = None


def facts(row: Project | Token) -> Facts:
    """Whatever an operator can change in the row; of a key, its hint alone; rules, if there are any."""
    rare = ("rules", "default_tier") if isinstance(row, Project) else ("rules",)
    told = {name: getattr(row, name) for name in rare if getattr(row, name) is not None}
    if isinstance(row, Project):
        usual = ("name", "key_hint", "base_url", "is_active", "stream_usage")
        return {name: getattr(row, name) for name in usual} | told
    told |= {name: getattr(row, name) for name in ("project_id", "label", "rate_limit")}
    return told | {"expires_at": iso_utc(row.expires_at), "is_active": row.is_active}


def kind_of(row: Project | Token) -> str:
    """What the trail calls such a row."""
    return "project" if isinstance(row, Project) else "token"


def version_of(row: Project | Token) -> str:
    """A short text that changes with the row's facts."""
    return hashlib.sha256(json.dumps(facts(row), sort_keys=True).encode()).hexdigest()[:16]


def require_seen(row: Project | Token, seen: str | None) -> None:
    """Raise Stale where `seen` is the version of other facts; None has seen any."""
    if seen is not None and seen != version_of(row):
        raise Stale


def add(
    session: Session,
    actor: Actor,
    what: str,
    row: Project | Token,
    *,
    before: Facts | None = None,
    after: Facts | None = None,
) -> None:
    """
    Add an entry.

    Args:
        what: Was done to the row, in the word that follows "project." or "token.".
    """
    session.add(AuditEntry(**_entry(actor, what, row, before, after)))


def add_made(session: Session, actor: Actor, what: str, made: Iterable[tuple[Project | Token, Facts]]) -> None:
    """Add an entry for each of what was made, by one statement."""
    session.execute(insert(AuditEntry), [_entry(actor, what, row, None, after) for row, after in made])


def _entry(
    actor: Actor, what: str, row: Project | Token, before: Facts | None, after: Facts | None
) -> dict[str, Any]:
    kind, name = kind_of(row), row.name if isinstance(row, Project) else row.label
    return {
        "at": utc_now(),
        "actor": actor.name,
        "address": actor.address,
        "action": f"{kind}.{what}",
        "target_type": kind,
        "target_id": row.id,
        "target_name": name,
        "before": before,
        "after": after,
    }


def add_change(session: Session, actor: Actor, row: Project | Token, before: Facts, **more: str) -> None:
    """
    Add an entry about what became of the row's facts, if anything did.

    Args:
        before: The facts before the change.
        more: To tell besides.
    """
    after = facts(row)
    changed = [name for name in {**before, **after} if after.get(name) != before.get(name)]
    if changed or more:
        told = {name: before.get(name) for name in changed}
        add(session, actor, "change", row, before=told, after={name: after.get(name) for name in changed} | more)


def add_failed_sign_ins(connection: Connection, failures: Failures) -> None:
    """Add an entry about sign-ins that failed, all those of a while in one."""
    connection.execute(
        insert(AuditEntry).values(
            at=utc_now(),
            actor="somebody",
            address=failures.address,
            action="sign_in.fail",
            target_type="sign_in",
            target_id=failures.realm,
            target_name=failures.realm,
            after={"failures": failures.failures},
        )
    )
