"""What tests of operators' changes share: somebody who makes them, and how a change is refused."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from control import projects, tokens
from control.audit import Actor
from llmproxy.keyring import KeyRing
from models import Project, Token

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
RING = KeyRing([NEW, OLD])
KEY = "sk-planted-upstream-key"
ACTOR = Actor("tester", "127.0.0.1")
HOUR = timedelta(hours=1)
UNKNOWN = "00000000-0000-4000-8000-000000000000"

Dump = Callable[[], dict[str, list[dict[str, Any]]]]


def project(session: Session, keyring: KeyRing = RING, **fields: Any) -> Project:
    return projects.create(session, keyring, ACTOR, **{"name": "p", "openai_api_key": KEY} | fields)


def issue(session: Session, owner: Project, **fields: Any) -> tuple[str, Token]:
    return tokens.issue(session, ACTOR, **{"project_id": owner.id, "lifetime": HOUR} | fields)


def actions(dump: Dump) -> list[str]:
    return [row["action"] for row in dump()["audit"]]


def refused(error: type[Exception], call: Callable[[], Any], dump: Dump) -> Exception:
    """What a call raises that must change nothing."""
    before = dump()
    with pytest.raises(error) as raised:
        call()
    assert dump() == before
    return raised.value
