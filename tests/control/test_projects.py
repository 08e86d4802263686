"""Projects: their names, what goes with one that is deleted, and forms that are sent twice."""

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from control import projects, tokens
from control.errors import Conflict
from tests.control.changes import ACTOR, HOUR, RING, Dump, actions, issue, project, refused


def test_a_taken_name_is_a_conflict_that_names_it(session: Session, dump: Dump) -> None:
    project(session)
    other = project(session, name="other")

    for call in (
        lambda: project(session),
        lambda: projects.change(session, RING, ACTOR, other.id, name="p", is_active=False),
    ):
        conflict = refused(Conflict, call, dump)
        assert isinstance(conflict, Conflict)
        assert (conflict.field, "'p'" in str(conflict)) == ("name", True)


def test_a_project_may_keep_its_own_name(session: Session, dump: Dump) -> None:
    owner = project(session)
    projects.change(session, RING, ACTOR, owner.id, name="p", stream_usage="ask")

    assert dump()["projects"][0]["stream_usage"] == "ask"


def test_a_project_is_deleted_with_as_many_tokens_as_reckoned_with(session: Session, dump: Dump) -> None:
    owner = project(session)
    issue(session, owner)

    refused(Conflict, lambda: projects.delete(session, ACTOR, owner.id, force=True, live_tokens=0), dump)
    projects.delete(session, ACTOR, owner.id, force=True, live_tokens=1)
    assert (dump()["projects"], dump()["tokens"]) == ([], [])


def test_only_unexpired_active_tokens_count_as_live(session: Session, clock: list[datetime], dump: Dump) -> None:
    owner = project(session)
    issue(session, owner)
    _, revoked = issue(session, owner)
    tokens.revoke(session, ACTOR, token_id=revoked.id)

    assert projects.live_token_count(session, owner.id) == 1
    clock[0] += HOUR
    assert projects.live_token_count(session, owner.id) == 0
    projects.delete(session, ACTOR, owner.id, force=False)
    assert dump()["projects"] == []


def test_the_kill_switch_counts_what_it_revoked(session: Session, dump: Dump) -> None:
    owner, other = project(session), project(session, name="other")
    for each in (owner, owner, other):
        issue(session, each)

    assert projects.revoke_tokens(session, ACTOR, owner.id) == 2
    assert projects.revoke_tokens(session, ACTOR, owner.id) == 0
    assert actions(dump).count("project.revoke_tokens") == 1
    assert sorted(bool(row["is_active"]) for row in dump()["tokens"]) == [False, False, True]


def test_a_project_form_sent_twice_makes_one_project(session: Session, dump: Dump) -> None:
    chosen = str(uuid.uuid4())
    first = project(session, project_id=chosen)

    assert project(session, project_id=chosen).id == first.id == chosen
    assert actions(dump) == ["project.create"]
    refused(Conflict, lambda: project(session, project_id=chosen, name="other"), dump)
