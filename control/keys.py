"""
The upstream keys of projects: sealed for their row and upstream, told by a hint, and sealed anew under a newer key.

Nodes of an older version open the old form of a seal alone. So while any row has it, new ones are made in it;
`rotate` changes all of them, and is run when no such node is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import func, select

from control import audit
from control.audit import Actor
from database import schema
from database.engine import Session, write_transaction
from llmproxy.keyring import BOUND, SEAL_NAME_LENGTH, UNBOUND, KeyRing, SealBroken
from llmproxy.urls import seal_origin
from models import Project

HINT_LENGTH = 4
LENGTH_WORTH_A_HINT = 12  # of a shorter key, four characters would give too much away
ROTATED_AT_ONCE = 50
# The revision whose code was the first to open the new form.
FIRST_TO_OPEN = "0007"


@dataclass(slots=True)
class Rotation:
    """
    What became of the upstream keys.

    Attributes:
        rotated: Sealed anew.
        current: Were sealed under the current encryption key and for their upstream already.
        lost: Ids of projects whose key no key of the ring opens.
    """

    rotated: int = 0
    current: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seals:
    """How many upstream keys there are; those in the old form, under an older key, and that no key of ours opens."""

    keys: int = 0
    old_form: int = 0
    older_key: int = 0
    shut: int = 0


def seals(session: Session, keyring: KeyRing) -> Seals:
    """How the upstream keys are sealed, by what their seals say."""
    start = func.substr(Project.openai_api_key, 1, SEAL_NAME_LENGTH)
    keys = old_form = older_key = shut = 0
    for name, count in session.execute(select(start, func.count()).group_by(start)):
        keys += count
        form, _, key = name.partition(".")
        if form not in (BOUND, UNBOUND) or not keyring.has(key):
            shut += count
            continue
        old_form += count if form == UNBOUND else 0
        older_key += count if not keyring.is_current_key(key) else 0
    return Seals(keys, old_form, older_key, shut)


def seal(session: Session, keyring: KeyRing, project: Project, openai_api_key: str) -> None:
    """Give the project this key, for the upstream that it has, and its hint."""
    in_old_form = select(Project).where(Project.openai_api_key.startswith(f"{UNBOUND}."))
    # A seal that nothing opens is none: whoever writes to the database alone must not bring the old form back by one.
    if all(_opened(keyring, each) is None for each in session.scalars(in_old_form)):
        _bind(session, keyring, project, openai_api_key)
    else:
        project.openai_api_key = keyring.seal_unbound(openai_api_key, row_id=project.id)
    project.key_hint = openai_api_key[-HINT_LENGTH:] if len(openai_api_key) >= LENGTH_WORTH_A_HINT else ""


def sharing(session: Session, keyring: KeyRing, project: Project) -> list[str]:
    """Names of other projects with the same upstream key, by opening those with the same hint. Keeps nothing."""
    alike = select(Project).where(Project.key_hint == project.key_hint, Project.id != project.id)
    own = _opened(keyring, project)
    others = session.scalars(alike.order_by(Project.name))
    return [other.name for other in others if own is not None and _opened(keyring, other) == own]


def _opened(keyring: KeyRing, project: Project) -> str | None:
    """The project's key; None where no key of the ring opens it."""
    try:
        return keyring.open(project.openai_api_key, row_id=project.id, origin=seal_origin(project.base_url))
    except SealBroken:
        return None


def rotate(session: Session, keyring: KeyRing, actor: Actor) -> Rotation:
    """
    Seal every upstream key anew, under the current encryption key and for its upstream.

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
        plain = keyring.open(project.openai_api_key, row_id=project.id, origin=seal_origin(project.base_url))
    except SealBroken:
        rotation.lost.append(project.id)
        return
    _bind(session, keyring, project, plain)
    audit.add(session, actor, "rotate_encryption", project)
    rotation.rotated += 1


def _bind(session: Session, keyring: KeyRing, project: Project, plain: str) -> None:
    project.openai_api_key = keyring.seal(plain, row_id=project.id, origin=seal_origin(project.base_url))
    schema.raise_floor(session, FIRST_TO_OPEN)
