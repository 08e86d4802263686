"""Which running calls are cut: tokens and projects as they stand in the database, on SQLite and PostgreSQL alike."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, create_engine, delete, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from control import cutting
from control.cutting import Cutter
from llmproxy.errors import ProxyError
from llmproxy.live_calls import LiveCalls
from models import Project, Token

HOUR = timedelta(hours=1)
PROJECT = "a-project"


class RunningCall:
    """Notes what it is cut with."""

    def __init__(self, token_id: str | None, project_id: str | None = PROJECT, *, is_session: bool = False) -> None:
        self.token_id = token_id
        self.project_id = project_id
        self.is_session = is_session
        self.cuts: list[str | None] = []

    def cut(self, reason: ProxyError) -> None:
        self.cuts.append(reason.code)


@pytest.fixture(autouse=True)
def rows(session: Session) -> None:
    """A project with two tokens."""
    now = datetime.now(UTC)
    session.add(Project(id=PROJECT, name="a project", openai_api_key="sealed", key_hint="", created_at=now))
    for name in ("one", "another"):
        session.add(Token(token_hash=name, id=name, project_id=PROJECT, expires_at=now + HOUR, created_at=now))
    session.commit()


@pytest.fixture
def call() -> RunningCall:
    return RunningCall("one")


@pytest.fixture
def cut(database: Engine) -> Callable[..., None]:
    """Looks after these calls once."""

    def look(*calls: RunningCall, at_revocation: bool = True, at_expiry: bool = False) -> None:
        live = LiveCalls()
        for one in calls:
            live.join(one)
        Cutter(database, live, at_revocation=at_revocation, at_expiry=at_expiry)()

    return look


def change(session: Session, statement) -> None:
    session.execute(statement)
    session.commit()


REVOKED = update(Token).where(Token.id == "one").values(is_active=False)
EXPIRED = update(Token).where(Token.id == "one").values(expires_at=datetime.now(UTC) - HOUR)
SWITCHED_OFF = update(Project).values(is_active=False)
CLEANED_UP = delete(Token).where(Token.id == "one")


def test_a_call_that_waits_for_its_claim_is_nobodys_and_stays(cut):
    waiting = RunningCall(None, None, is_session=True)
    cut(waiting)

    assert waiting.cuts == []


@pytest.mark.parametrize(("what", "code"), [(REVOKED, "token_revoked"), (SWITCHED_OFF, "project_inactive")])
def test_a_call_that_lost_its_permission_is_cut(session, cut, call, what, code):
    cut(call)
    assert call.cuts == []
    change(session, what)
    cut(call)

    assert call.cuts == [code]


def test_other_tokens_calls_go_on(session, cut, call):
    other = RunningCall("another")
    change(session, REVOKED)
    cut(call, other)

    assert other.cuts == []


def test_calls_of_a_deleted_project_are_cut(session, cut, call):
    change(session, delete(Token))
    change(session, delete(Project))
    cut(call)

    assert call.cuts == ["token_revoked"]


@pytest.mark.parametrize("what", [EXPIRED, CLEANED_UP], ids=["expired", "expired long ago, and deleted"])
@pytest.mark.parametrize(("at_expiry", "cuts"), [(False, []), (True, ["token_expired"])])
def test_calls_of_an_expired_token_are_cut_where_that_is_asked_for(session, cut, call, what, at_expiry, cuts):
    change(session, what)
    cut(call, at_expiry=at_expiry)

    assert call.cuts == cuts


def test_an_expired_token_does_not_hide_that_its_project_was_switched_off(session, cut, call):
    change(session, EXPIRED)
    change(session, SWITCHED_OFF)
    cut(call)

    assert call.cuts == ["project_inactive"]


def test_a_revoked_call_goes_on_where_that_is_asked_for(session, cut, call):
    change(session, REVOKED)
    cut(call, at_revocation=False)
    cut(call, at_revocation=False, at_expiry=True)

    assert call.cuts == []


@pytest.mark.parametrize(("what", "code"), [(REVOKED, "token_revoked"), (EXPIRED, "token_expired")])
def test_a_session_is_cut_whatever_is_asked_for_streams(session, cut, call, what, code):
    websocket = RunningCall("one", is_session=True)
    change(session, what)
    cut(call, websocket, at_revocation=False)

    assert (call.cuts, websocket.cuts) == ([], [code])


def test_more_tokens_than_fit_one_statement_are_all_looked_at(session, cut, call, monkeypatch):
    monkeypatch.setattr(cutting, "BATCH", 1)
    calls = [call, RunningCall("another"), RunningCall("one", is_session=True)]
    change(session, update(Token).values(is_active=False))
    cut(*calls)

    assert [one.cuts for one in calls] == [["token_revoked"]] * 3


def test_nothing_is_cut_while_the_database_does_not_answer(call, tmp_path):
    live = LiveCalls()
    live.join(call)
    engine = create_engine(f"sqlite:///{tmp_path}/nowhere/at-all.db")
    with pytest.raises(DBAPIError):
        Cutter(engine, live, at_revocation=True, at_expiry=True)()

    assert call.cuts == []


def test_nobody_asks_the_database_when_nothing_runs(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/nowhere/at-all.db")

    Cutter(engine, LiveCalls(), at_revocation=True, at_expiry=True)()
