"""Upstream keys under a newer encryption key: all of them, whatever interrupts it or is changed meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from control import keys, projects
from control.errors import KeyNeeded
from control.keys import FIRST_TO_OPEN, Rotation, Seals
from database.engine import open_engine
from database.schema import migrate_to_head
from llmproxy.keyring import KeyRing, SealBroken
from llmproxy.urls import seal_origin
from models import Project
from tests.control.changes import ACTOR, KEY, NEW, OLD, OTHER, RING, Dump, actions, project, refused


def test_rotation_seals_what_an_older_key_had_sealed(session: Session, dump: Dump) -> None:
    before = KeyRing([OLD])
    first, second = project(session, before), project(session, before, name="other")
    third = project(session, name="third")

    assert keys.rotate(session, RING, ACTOR) == Rotation(rotated=2, current=1)
    assert keys.rotate(session, RING, ACTOR) == Rotation(current=3)
    sealed = {row["id"]: row["openai_api_key"] for row in dump()["projects"]}
    assert {KeyRing([NEW]).open(sealed[each.id], row_id=each.id) for each in (first, second, third)} == {KEY}
    assert actions(dump).count("project.rotate_encryption") == 2


def test_a_rotation_tells_which_key_it_cannot_open_and_rotates_the_others(session: Session, dump: Dump) -> None:
    project(session, KeyRing([OLD]))
    lost = project(session, KeyRing([OTHER]), name="lost")
    sealed = lost.openai_api_key

    assert keys.rotate(session, RING, ACTOR) == Rotation(rotated=1, lost=[lost.id])
    assert {row["openai_api_key"] for row in dump()["projects"] if row["id"] == lost.id} == {sealed}


def test_an_interrupted_rotation_finishes_when_run_again(
    session: Session, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "ROTATED_AT_ONCE", 2)
    for number in range(5):
        project(session, KeyRing([OLD]), name=f"p{number}")
    ring = KeyRing([NEW, OLD])
    opened = []

    def open_three(sealed: str, *, row_id: str, origin: str) -> str:
        if len(opened) == 3:
            raise KeyboardInterrupt
        opened.append(row_id)
        return KeyRing.open(ring, sealed, row_id=row_id, origin=origin)

    with monkeypatch.context() as patch:
        patch.setattr(ring, "open", open_three)
        with pytest.raises(KeyboardInterrupt):
            keys.rotate(session, ring, ACTOR)

    assert sum(ring.is_current(row["openai_api_key"]) for row in dump()["projects"]) == 2
    assert keys.rotate(session, ring, ACTOR) == Rotation(rotated=3, current=2)
    assert {KeyRing([NEW]).open(row["openai_api_key"], row_id=row["id"]) for row in dump()["projects"]} == {KEY}


@pytest.mark.postgres
def test_a_key_replaced_while_keys_are_rotated_stays_replaced(
    postgres_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(postgres_server.new_database())
    migrate_to_head(engine, tmp_path)
    ring = KeyRing([NEW, OLD])
    with Session(engine, expire_on_commit=False) as session:
        owner = project(session, KeyRing([OLD]))
    replacing: list[threading.Thread] = []

    def replace() -> None:
        with Session(engine) as session:
            projects.change(session, ring, ACTOR, owner.id, openai_api_key="sk-the-replacement")

    def open_and_let_somebody_replace_it(sealed: str, *, row_id: str, origin: str) -> str:
        replacing.append(threading.Thread(target=replace))
        replacing[0].start()
        replacing[0].join(0.3)  # held up by the rotation's lock; without one it is done by then
        return KeyRing.open(ring, sealed, row_id=row_id, origin=origin)

    with monkeypatch.context() as patch, Session(engine) as session:
        patch.setattr(ring, "open", open_and_let_somebody_replace_it)
        keys.rotate(session, ring, ACTOR)
    replacing[0].join()
    with Session(engine) as session:
        sealed = session.get(Project, owner.id).openai_api_key
    engine.dispose()

    assert ring.open(sealed, row_id=owner.id) == "sk-the-replacement"


ELSEWHERE = "https://other.test/v1"


def unbound(session: Session, **fields: Any) -> Project:
    """A project whose key a node of an older version has sealed."""
    owner = project(session, **fields)
    owner.openai_api_key = RING.seal_unbound(KEY, row_id=owner.id)
    session.commit()
    return owner


def test_a_new_key_is_sealed_for_its_upstream(session: Session) -> None:
    owner = project(session, base_url=ELSEWHERE)

    assert RING.open(owner.openai_api_key, row_id=owner.id, origin="https://other.test:443") == KEY
    with pytest.raises(SealBroken):
        RING.open(owner.openai_api_key, row_id=owner.id)


def test_while_a_seal_of_the_old_form_is_left_new_ones_are_such_as_older_nodes_open(session: Session) -> None:
    old = unbound(session)
    created = project(session, name="second")
    projects.change(session, RING, ACTOR, old.id, openai_api_key="sk-another")

    assert {one.openai_api_key[:3] for one in (old, created)} == {"v1."}
    assert keys.seals(session, RING) == Seals(keys=2, old_form=2)


@pytest.mark.parametrize("forged", ["v1.00000000.AAAA", "v1.", "v1.{key}.AAAA", "v1.{key}.{box}"])
def test_a_seal_of_the_old_form_that_nothing_opens_brings_it_not_back(session: Session, forged: str) -> None:
    old = project(session)
    _, key, box = old.openai_api_key.split(".")
    old.openai_api_key = forged.format(key=key, box=box)
    session.commit()

    assert project(session, name="later").openai_api_key.startswith("v2.")


def test_rotation_binds_what_was_not_bound_and_all_that_comes_after_it(session: Session) -> None:
    old = unbound(session, base_url=ELSEWHERE)

    assert keys.rotate(session, RING, ACTOR) == Rotation(rotated=1)
    later = project(session, name="later")
    assert RING.open(old.openai_api_key, row_id=old.id, origin="https://other.test:443") == KEY
    assert {one.openai_api_key[:3] for one in (old, later)} == {"v2."}
    assert keys.seals(session, RING) == Seals(keys=2)


def test_the_first_seal_of_the_new_form_lets_older_code_go_no_further(session: Session) -> None:
    floor = "SELECT oldest FROM schema_floor"
    old = unbound(session)
    session.execute(text("UPDATE schema_floor SET oldest = '0003'"))
    session.commit()
    project(session, name="second")
    assert session.scalar(text(floor)) == "0003"

    keys.rotate(session, RING, ACTOR)
    assert old.openai_api_key.startswith("v2.") and session.scalar(text(floor)) == FIRST_TO_OPEN


def test_how_keys_are_sealed_is_told_by_their_seals(session: Session) -> None:
    project(session, KeyRing([OLD]))
    project(session, KeyRing([OTHER]), name="lost")
    unbound(session, name="unbound")
    damaged = project(session, name="damaged")
    damaged.openai_api_key = "sk-in-the-clear"
    session.commit()

    assert keys.seals(session, RING) == Seals(keys=4, old_form=1, older_key=1, shut=2)


@pytest.mark.parametrize("seal", [project, unbound])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ELSEWHERE), (ELSEWHERE, None), (ELSEWHERE, "http://other.test/v1"), (ELSEWHERE, "https://other.test:8443"),
        (ELSEWHERE, "https://other.test.evil.test/v1"), (None, "https://api.openai.com/v1"),
    ],
)  # fmt: skip
def test_another_upstream_needs_its_key(
    seal: Any, before: str | None, after: str | None, session: Session, dump: Dump
) -> None:
    owner = seal(session, base_url=before)

    refused(KeyNeeded, lambda: projects.change(session, RING, ACTOR, owner.id, base_url=after), dump)
    changed = projects.change(session, RING, ACTOR, owner.id, base_url=after, openai_api_key="sk-for-it")
    origin = seal_origin(after)
    assert RING.open(changed.openai_api_key, row_id=owner.id, origin=origin) == "sk-for-it"


@pytest.mark.parametrize("after", ["https://other.test", "https://OTHER.test/proxy/v2", "https://other.test:443/v1"])
def test_another_path_of_the_same_upstream_needs_no_key(after: str, session: Session) -> None:
    owner = project(session, base_url=ELSEWHERE)
    projects.change(session, RING, ACTOR, owner.id, base_url=after)

    assert RING.open(owner.openai_api_key, row_id=owner.id, origin=seal_origin(after)) == KEY
