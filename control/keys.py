"""The upstream keys of projects: sealed for their row, told by a hint, and sealed anew under a newer key."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select

from control import audit
from control.audit import Actor
from database.engine import Session, write_transaction
from llmproxy.keyring import KeyRing, SealBroken
from models import Project

HINT_LENGTH = 4
LENGTH_WORTH_A_HINT = 12  # of a shorter key, four characters would give too much away
ROTATED_AT_ONCE = 50


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


def seal(keyring: KeyRing, project: Project, openai_api_key: str) -> None:
    """Give the project this key, and its hint."""
    project.openai_api_key = keyring.seal(openai_api_key, row_id=project.id)
    project.key_hint = openai_api_key[-HINT_LENGTH:] if len(openai_api_key) >= LENGTH_WORTH_A_HINT else ""


def rotate(session: Session, keyring: KeyRing, actor: Actor) -> Rotation:
    """
    Seal every upstream key anew under the current encryption key.

    A few at a time, so that claims and other changes go on meanwhile. Interrupted, it has done what it has done,
    and the next run does the rest. What cannot be opened is left as it is.
    """
    rotation = Rotation()
    # Locked, for PostgreSQL would let an operator replace a key between the look at it and its sealing.
    some = select(Project).order_by(Project.id).limit(ROTATED_AT_ONCE).with_for_update(key_share=True)
    last_id = ""
    while True:
        with write_transaction(session):
            projects = session.scalars(some.where(Project.id > last_id)).all()
            for project in projects:
                _rotate(session, keyring, actor, project, rotation)
        if not projects:
            return rotation
        last_id = projects[-1].id


def _rotate(session: Session, keyring: KeyRing, actor: Actor, project: Project, rotation: Rotation) -> None:
    if keyring.is_current(project.openai_api_key):
        rotation.current += 1
        return
    try:
        plain = keyring.open(project.openai_api_key, row_id=project.id)
    except SealBroken:
        rotation.lost.append(project.id)
        return
    project.openai_api_key = keyring.seal(plain, row_id=project.id)
    audit.add(session, actor, "rotate_encryption", project)
    rotation.rotated += 1
