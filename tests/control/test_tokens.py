"""Tokens: what is kept of them, and forms that are sent twice."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from control import tokens
from control.errors import Conflict
from control.tokens import REPEAT_WITHIN
from llmproxy.admission import hash_token
from llmproxy.keyring import KeyRing
from tests.control.changes import ACTOR, KEY, NEW, Dump, actions, issue, project, refused


def test_a_key_is_sealed_for_its_row_and_a_token_kept_as_its_hash(session: Session, dump: Dump) -> None:
    owner = project(session)
    secret, token = issue(session, owner)

    rows = dump()
    assert KeyRing([NEW]).open(rows["projects"][0]["openai_api_key"], row_id=owner.id) == KEY
    assert rows["tokens"][0]["token"] == hash_token(secret)
    assert KEY not in str(rows)
    assert secret not in str(rows)
    assert token.id in str(rows["audit"])


def test_a_token_form_sent_twice_issues_one_token(session: Session, clock: list[datetime], dump: Dump) -> None:
    owner = project(session)
    secret = str(uuid.uuid4())
    _, first = issue(session, owner, secret=secret)
    clock[0] += REPEAT_WITHIN

    assert issue(session, owner, secret=secret) == (secret, first)
    assert actions(dump) == ["project.create", "token.issue"]


@pytest.mark.parametrize("change", ["late", "label", "limit", "revoked"])
def test_another_form_with_the_same_secret_issues_nothing(
    change: str, session: Session, clock: list[datetime], dump: Dump
) -> None:
    owner = project(session)
    secret = str(uuid.uuid4())
    _, token = issue(session, owner, secret=secret)
    fields: dict[str, Any] = {"label": {"label": "x"}, "limit": {"rate_limit": 5}}.get(change, {})
    if change == "late":
        clock[0] += REPEAT_WITHIN + timedelta(seconds=1)
    if change == "revoked":
        tokens.revoke(session, ACTOR, token_id=token.id)

    refused(Conflict, lambda: issue(session, owner, secret=secret, **fields), dump)
