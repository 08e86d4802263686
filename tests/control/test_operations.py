"""What operators may do: each as one transaction with its line in the audit trail."""

import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, text

from control import operations
from control.operations import REPEAT_WITHIN, Actor, Conflict, NotFound, Operations, Rotation, Stale, version_of
from database.engine import init_app
from database.schema import migrate_to_head
from llmproxy.admission import hash_token
from llmproxy.keyring import KeyRing
from models import Project, Token, db

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
KEY = "sk-planted-upstream-key"
ACTOR = Actor("tester", "127.0.0.1")
HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
UNKNOWN = "00000000-0000-4000-8000-000000000000"

Dump = Callable[[], dict[str, list[dict[str, Any]]]]


@pytest.fixture
def dump(database: Engine) -> Dump:
    """Everything in the tables, as another connection sees it."""

    def everything() -> dict[str, list[dict[str, Any]]]:
        with database.connect() as connection:
            return {
                table: [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY id"))]
                for table in ("projects", "tokens", "audit")
            }

    return everything


@pytest.fixture
def doing(database: Engine) -> Operations:
    return Operations(KeyRing([NEW, OLD]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time, to be moved."""
    time = [NOW]
    monkeypatch.setattr(operations, "utc_now", lambda: time[0])
    return time


def project(doing: Operations, **fields: Any) -> Project:
    return doing.create_project(ACTOR, **{"name": "p", "openai_api_key": KEY} | fields)


def issue(doing: Operations, owner: Project, **fields: Any) -> tuple[str, Token]:
    return doing.issue_token(ACTOR, **{"project_id": owner.id, "lifetime": HOUR} | fields)


def actions(dump: Dump) -> list[str]:
    return [row["action"] for row in dump()["audit"]]


def refused(error: type[Exception], call: Callable[[], Any], dump: Dump) -> Exception:
    """What a call raises that must change nothing."""
    before = dump()
    with pytest.raises(error) as raised:
        call()
    assert dump() == before
    return raised.value


def test_a_key_is_sealed_for_its_row_and_a_token_kept_as_its_hash(doing: Operations, dump: Dump) -> None:
    owner = project(doing)
    secret, token = issue(doing, owner)

    rows = dump()
    assert KeyRing([NEW]).open(rows["projects"][0]["openai_api_key"], row_id=owner.id) == KEY
    assert rows["tokens"][0]["token"] == hash_token(secret)
    assert KEY not in str(rows)
    assert secret not in str(rows)
    assert token.id in str(rows["audit"])


@pytest.mark.parametrize("unknown", [UNKNOWN, "", "x"])
def test_what_is_not_there_is_not_found(unknown: str, doing: Operations, dump: Dump) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: doing.change_project(ACTOR, unknown, name="x"),
        lambda: doing.delete_project(ACTOR, unknown, force=True),
        lambda: doing.revoke_project_tokens(ACTOR, unknown),
        lambda: doing.issue_token(ACTOR, project_id=unknown, lifetime=HOUR),
        lambda: doing.change_token(ACTOR, unknown, label="x"),
        lambda: doing.revoke_token(ACTOR, token_id=unknown),
        lambda: doing.revoke_token(ACTOR, secret=unknown),
    ]
    for call in calls:
        assert "There is no" in str(refused(NotFound, call, dump))


def test_a_change_whose_audit_fails_does_not_happen(
    doing: Operations, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = project(doing)
    _, token = issue(doing, owner)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no trail")

    monkeypatch.setattr(operations, "_audit", fails)
    calls: list[Callable[[], Any]] = [
        lambda: project(doing, name="other"),
        lambda: doing.change_project(ACTOR, owner.id, is_active=False),
        lambda: doing.delete_project(ACTOR, owner.id, force=True),
        lambda: doing.revoke_project_tokens(ACTOR, owner.id),
        lambda: issue(doing, owner),
        lambda: doing.change_token(ACTOR, token.id, label="x"),
        lambda: doing.revoke_token(ACTOR, token_id=token.id),
    ]
    for call in calls:
        refused(RuntimeError, call, dump)


def test_a_taken_name_is_a_conflict_that_names_it(doing: Operations, dump: Dump) -> None:
    project(doing)
    other = project(doing, name="other")

    for call in (lambda: project(doing), lambda: doing.change_project(ACTOR, other.id, name="p", is_active=False)):
        conflict = refused(Conflict, call, dump)
        assert isinstance(conflict, Conflict)
        assert (conflict.field, "'p'" in str(conflict)) == ("name", True)


def test_a_project_may_keep_its_own_name(doing: Operations, dump: Dump) -> None:
    owner = project(doing)
    doing.change_project(ACTOR, owner.id, name="p", stream_usage="ask")

    assert dump()["projects"][0]["stream_usage"] == "ask"


# What others may have changed meanwhile


def test_a_change_by_somebody_who_saw_an_older_row_is_stale(doing: Operations, dump: Dump) -> None:
    owner = project(doing)
    _, token = issue(doing, owner)
    seen_project, seen_token = version_of(owner), version_of(token)
    doing.change_project(ACTOR, owner.id, seen=seen_project, name="new")
    doing.change_token(ACTOR, token.id, seen=seen_token, label="new")

    refused(Stale, lambda: doing.change_project(ACTOR, owner.id, seen=seen_project, name="newer"), dump)
    refused(Stale, lambda: doing.change_token(ACTOR, token.id, seen=seen_token, label="newer"), dump)


def test_a_project_is_deleted_with_as_many_tokens_as_reckoned_with(doing: Operations, dump: Dump) -> None:
    owner = project(doing)
    issue(doing, owner)

    refused(Conflict, lambda: doing.delete_project(ACTOR, owner.id, force=True, live_tokens=0), dump)
    doing.delete_project(ACTOR, owner.id, force=True, live_tokens=1)
    assert (dump()["projects"], dump()["tokens"]) == ([], [])


def test_only_unexpired_active_tokens_count_as_live(doing: Operations, clock: list[datetime], dump: Dump) -> None:
    owner = project(doing)
    issue(doing, owner)
    _, revoked = issue(doing, owner)
    doing.revoke_token(ACTOR, token_id=revoked.id)

    assert operations.live_token_count(owner.id) == 1
    clock[0] += HOUR
    assert operations.live_token_count(owner.id) == 0
    doing.delete_project(ACTOR, owner.id, force=False)
    assert dump()["projects"] == []


def test_the_kill_switch_counts_what_it_revoked(doing: Operations, dump: Dump) -> None:
    owner, other = project(doing), project(doing, name="other")
    for each in (owner, owner, other):
        issue(doing, each)

    assert doing.revoke_project_tokens(ACTOR, owner.id) == 2
    assert doing.revoke_project_tokens(ACTOR, owner.id) == 0
    assert actions(dump).count("project.revoke_tokens") == 1
    assert sorted(bool(row["is_active"]) for row in dump()["tokens"]) == [False, False, True]


# Forms that are sent twice


def test_a_project_form_sent_twice_makes_one_project(doing: Operations, dump: Dump) -> None:
    chosen = str(uuid.uuid4())
    first = project(doing, project_id=chosen)

    assert project(doing, project_id=chosen).id == first.id == chosen
    assert actions(dump) == ["project.create"]
    refused(Conflict, lambda: project(doing, project_id=chosen, name="other"), dump)


def test_a_token_form_sent_twice_issues_one_token(doing: Operations, clock: list[datetime], dump: Dump) -> None:
    owner = project(doing)
    secret = str(uuid.uuid4())
    _, first = issue(doing, owner, secret=secret)
    clock[0] += REPEAT_WITHIN

    assert issue(doing, owner, secret=secret) == (secret, first)
    assert actions(dump) == ["project.create", "token.issue"]


@pytest.mark.parametrize("change", ["late", "label", "limit", "revoked"])
def test_another_form_with_the_same_secret_issues_nothing(
    change: str, doing: Operations, clock: list[datetime], dump: Dump
) -> None:
    owner = project(doing)
    secret = str(uuid.uuid4())
    _, token = issue(doing, owner, secret=secret)
    fields: dict[str, Any] = {"label": {"label": "x"}, "limit": {"rate_limit": 5}}.get(change, {})
    if change == "late":
        clock[0] += REPEAT_WITHIN + timedelta(seconds=1)
    if change == "revoked":
        doing.revoke_token(ACTOR, token_id=token.id)

    refused(Conflict, lambda: issue(doing, owner, secret=secret, **fields), dump)


# Encryption keys


def test_rotation_seals_what_an_older_key_had_sealed(database: Engine, dump: Dump) -> None:
    before = Operations(KeyRing([OLD]))
    first, second = project(before), project(before, name="other")
    after = Operations(KeyRing([NEW, OLD]))
    third = project(after, name="third")

    assert after.rotate_keys(ACTOR) == Rotation(rotated=2, current=1)
    assert after.rotate_keys(ACTOR) == Rotation(current=3)
    sealed = {row["id"]: row["openai_api_key"] for row in dump()["projects"]}
    assert {KeyRing([NEW]).open(sealed[each.id], row_id=each.id) for each in (first, second, third)} == {KEY}
    assert actions(dump).count("project.rotate_encryption") == 2


def test_a_rotation_tells_which_key_it_cannot_open_and_rotates_the_others(database: Engine, dump: Dump) -> None:
    project(Operations(KeyRing([OLD])))
    lost = project(Operations(KeyRing([OTHER])), name="lost")
    sealed = lost.openai_api_key

    assert Operations(KeyRing([NEW, OLD])).rotate_keys(ACTOR) == Rotation(rotated=1, lost=[lost.id])
    assert {row["openai_api_key"] for row in dump()["projects"] if row["id"] == lost.id} == {sealed}


def test_an_interrupted_rotation_finishes_when_run_again(
    database: Engine, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "ROTATED_AT_ONCE", 2)
    before = Operations(KeyRing([OLD]))
    for number in range(5):
        project(before, name=f"p{number}")
    ring = KeyRing([NEW, OLD])
    opened = []

    def open_three(sealed: str, *, row_id: str) -> str:
        if len(opened) == 3:
            raise KeyboardInterrupt
        opened.append(row_id)
        return KeyRing.open(ring, sealed, row_id=row_id)

    with monkeypatch.context() as patch:
        patch.setattr(ring, "open", open_three)
        with pytest.raises(KeyboardInterrupt):
            Operations(ring).rotate_keys(ACTOR)

    assert sum(ring.is_current(row["openai_api_key"]) for row in dump()["projects"]) == 2
    assert Operations(ring).rotate_keys(ACTOR) == Rotation(rotated=3, current=2)
    assert {KeyRing([NEW]).open(row["openai_api_key"], row_id=row["id"]) for row in dump()["projects"]} == {KEY}


@pytest.mark.postgres
def test_a_key_replaced_while_keys_are_rotated_stays_replaced(
    postgres_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Flask("rotating")
    migrate_to_head(init_app(app, postgres_server.new_database()), tmp_path)
    ring = KeyRing([NEW, OLD])
    with app.app_context():
        owner = project(Operations(KeyRing([OLD])))
        db.session.remove()
    replacing: list[threading.Thread] = []

    def replace() -> None:
        with app.app_context():
            Operations(ring).change_project(ACTOR, owner.id, openai_api_key="sk-the-replacement")

    def open_and_let_somebody_replace_it(sealed: str, *, row_id: str) -> str:
        replacing.append(threading.Thread(target=replace))
        replacing[0].start()
        replacing[0].join(0.3)  # held up by the rotation's lock; without one it is done by then
        return KeyRing.open(ring, sealed, row_id=row_id)

    with app.app_context():
        with monkeypatch.context() as patch:
            patch.setattr(ring, "open", open_and_let_somebody_replace_it)
            Operations(ring).rotate_keys(ACTOR)
        replacing[0].join()
        db.session.expire_all()
        sealed = db.session.get(Project, owner.id).openai_api_key
        db.session.remove()
        db.engine.dispose()

    assert ring.open(sealed, row_id=owner.id) == "sk-the-replacement"
