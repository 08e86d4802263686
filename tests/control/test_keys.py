"""Upstream keys under a newer encryption key: all of them, whatever interrupts it or is changed meanwhile."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from control import keys, projects
from control.keys import Rotation
from database.engine import open_engine
from database.schema import migrate_to_head
from llmproxy.keyring import KeyRing
from models import Project
from tests.control.changes import ACTOR, KEY, NEW, OLD, OTHER, RING, Dump, actions, project


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

    def open_three(sealed: str, *, row_id: str) -> str:
        if len(opened) == 3:
            raise KeyboardInterrupt
        opened.append(row_id)
        return KeyRing.open(ring, sealed, row_id=row_id)

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

    def open_and_let_somebody_replace_it(sealed: str, *, row_id: str) -> str:
        replacing.append(threading.Thread(target=replace))
        replacing[0].start()
        replacing[0].join(0.3)  # held up by the rotation's lock; without one it is done by then
        return KeyRing.open(ring, sealed, row_id=row_id)

    with monkeypatch.context() as patch, Session(engine) as session:
        patch.setattr(ring, "open", open_and_let_somebody_replace_it)
        keys.rotate(session, ring, ACTOR)
    replacing[0].join()
    with Session(engine) as session:
        sealed = session.get(Project, owner.id).openai_api_key
    engine.dispose()

    assert ring.open(sealed, row_id=owner.id) == "sk-the-replacement"
