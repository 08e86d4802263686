"""The trail: no change without its entry, and none by somebody who saw something else."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from control import audit, projects, tokens
from control.audit import version_of
from control.errors import NotFound, Stale
from tests.control.changes import ACTOR, HOUR, RING, UNKNOWN, Dump, issue, project, refused


@pytest.mark.parametrize("unknown", [UNKNOWN, "", "x"])
def test_what_is_not_there_is_not_found(unknown: str, session: Session, dump: Dump) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: projects.change(session, RING, ACTOR, unknown, name="x"),
        lambda: projects.delete(session, ACTOR, unknown, force=True),
        lambda: projects.revoke_tokens(session, ACTOR, unknown),
        lambda: tokens.issue(session, ACTOR, project_id=unknown, lifetime=HOUR),
        lambda: tokens.change(session, ACTOR, unknown, label="x"),
        lambda: tokens.revoke(session, ACTOR, token_id=unknown),
        lambda: tokens.revoke(session, ACTOR, secret=unknown),
    ]
    for call in calls:
        assert "There is no" in str(refused(NotFound, call, dump))


def test_a_change_whose_audit_fails_does_not_happen(
    session: Session, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = project(session)
    _, token = issue(session, owner)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no trail")

    monkeypatch.setattr(audit, "add", fails)
    monkeypatch.setattr(audit, "add_made", fails)
    calls: list[Callable[[], Any]] = [
        lambda: project(session, name="other"),
        lambda: projects.change(session, RING, ACTOR, owner.id, is_active=False),
        lambda: projects.delete(session, ACTOR, owner.id, force=True),
        lambda: projects.revoke_tokens(session, ACTOR, owner.id),
        lambda: issue(session, owner),
        lambda: tokens.change(session, ACTOR, token.id, label="x"),
        lambda: tokens.revoke(session, ACTOR, token_id=token.id),
    ]
    for call in calls:
        refused(RuntimeError, call, dump)


def test_a_change_by_somebody_who_saw_an_older_row_is_stale(session: Session, dump: Dump) -> None:
    owner = project(session)
    _, token = issue(session, owner)
    seen_project, seen_token = version_of(owner), version_of(token)
    projects.change(session, RING, ACTOR, owner.id, seen=seen_project, name="new")
    tokens.change(session, ACTOR, token.id, seen=seen_token, label="new")

    refused(Stale, lambda: projects.change(session, RING, ACTOR, owner.id, seen=seen_project, name="newer"), dump)
    refused(Stale, lambda: tokens.change(session, ACTOR, token.id, seen=seen_token, label="newer"), dump)
