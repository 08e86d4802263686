"""`flask db-copy`: everything arrives, on the other kind of database too, or nothing does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.orm import Session

from accounting.rollup import Rollup, UsageSums
from control import projects, tokens
from control.audit import Actor
from database import copy as database_copy
from database import schema
from database.copy import CopyRefused, copy
from database.engine import background_transaction, open_engine
from llmproxy.keyring import KeyRing
from models import AuditEntry, Meter, Project, Token, alerts, new_id, reservations
from tests.accounting.test_rollup import catch_up, mixed_records
from tests.databases import POSTGRESQL, SQLITE, execute
from tests.records import append, record

KEYRING = KeyRing([b"k" * 32])
ACTOR = Actor("tester")


@pytest.fixture
def full(database: Engine, session: Session, tmp_path: Path) -> Engine:
    """A database with something of everything."""
    for number in range(3):
        owner = projects.create(session, KEYRING, ACTOR, name=f"Müller {number}", openai_api_key=f"sk-{number}")
        for label in ("ä ö 😀", None):
            _, token = tokens.issue(session, ACTOR, project_id=owner.id, lifetime=timedelta(hours=1), label=label)
    tokens.rotate(session, ACTOR, token.id, grace=timedelta(hours=1))
    used = {"request_count": 7, "window_started_at": datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)}
    session.execute(update(Token).where(Token.label.is_(None)).values(**used))
    _add_limits(session, owner.id)
    session.commit()
    append(tmp_path / "api_logs.jsonl", [*mixed_records(200), record(usage_of="batch_1")])
    rollup = Rollup(tmp_path / "api_logs.jsonl", UsageSums(database, "node-1"))
    catch_up(rollup)
    rollup.close()
    return database


def _add_limits(session: Session, project_id: str) -> None:
    session.execute(update(Project).values(is_ruled=True, rules={"models": ["gpt-5"], "limits": {"n": 1}}))
    meter = Meter(project_id=project_id, name="a day", unit="usd", period="day", amount=2**60, period_end=2**62)
    session.add(meter)
    session.flush()
    whose = {"project_id": project_id, "token_id": new_id(), "node": new_id(), "worker": "w", "at": 2**50}
    told = {
        "kind": "budget.threshold",
        "subject": meter.id,
        "period_end": 2**62,
        "threshold": 80,
        "body": '{"ä": "😀"}',
    }
    session.execute(insert(alerts).values(id=new_id(), at=2**50, state="waiting", **told))
    held = {"state": "held", "holds": [[meter.id, 1, 2**59, 3]], "estimate": 3}
    session.execute(insert(reservations).values(request_id=new_id(), **whose, **held))


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def target_url(request, tmp_path: Path) -> str:
    """An empty database of each kind in turn, whatever the run has chosen for the source."""
    if request.param == SQLITE:
        return f"sqlite:///{tmp_path}/target.db"
    return request.getfixturevalue("postgres_server").new_database()


def rows_of(engine: Engine) -> dict[str, set]:
    tables = database_copy._tables()
    with engine.connect() as connection:
        return {table.name: {repr(row) for row in connection.execute(select(table))} for table in tables}


def in_target(url: str, look):
    engine = open_engine(url)
    try:
        return look(engine)
    finally:
        engine.dispose()


def test_everything_arrives(full, database_url, target_url, tmp_path):
    done = copy(database_url, target_url, tmp_path, KEYRING)

    left = rows_of(full)
    assert in_target(target_url, rows_of) == left
    assert {table.name: table.rows for table in done.tables} == {name: len(rows) for name, rows in left.items()}
    assert set(left) == {
        *("projects", "tokens", "retired_secrets", "audit", "meters", "reservations", "alerts"),
        *("usage_keys", "usage_sums", "seen_objects", "reader_positions", "call_index", "log_segments"),
    }
    assert all(left.values()) and done.keys_opened == 3


def test_the_copy_lets_no_older_code_go_on_than_the_original(full, database_url, target_url, tmp_path):
    with background_transaction(full) as connection:
        schema.raise_floor(connection, schema.HEAD)

    copy(database_url, target_url, tmp_path, KEYRING)

    assert execute(target_url, "SELECT oldest FROM schema_floor") == [{"oldest": schema.HEAD}]


def test_a_target_that_a_newer_version_has_made_its_own_is_refused(full, database_url, target_url, tmp_path):
    in_target(target_url, lambda engine: schema.migrate_to_head(engine, tmp_path))
    execute(target_url, "UPDATE alembic_version SET version_num = '9999'")
    execute(target_url, "UPDATE schema_floor SET oldest = '9999'")

    with pytest.raises(CopyRefused, match=r"the target cannot be used: .* upgrade this node"):
        copy(database_url, target_url, tmp_path, KEYRING)


def test_the_copy_is_worked_with_as_the_original_was(full, session, database_url, target_url, tmp_path):
    copy(database_url, target_url, tmp_path, KEYRING)
    entries = session.scalar(select(func.count(AuditEntry.id)))

    def work(engine: Engine) -> tuple[int, int]:
        with Session(engine) as session:
            projects.create(session, KEYRING, ACTOR, name="after", openai_api_key="sk-after")
        append(tmp_path / "api_logs.jsonl", mixed_records(30, seed=9))
        rollup = Rollup(tmp_path / "api_logs.jsonl", UsageSums(engine, "node-1"))
        added = catch_up(rollup)
        rollup.close()
        with engine.connect() as connection:
            return added, connection.scalar(select(func.max(AuditEntry.id)))

    assert in_target(target_url, work) == (30, entries + 1)


def test_a_target_with_data_is_refused_and_left_as_it_is(full, session, database_url, target_url, tmp_path):
    copy(database_url, target_url, tmp_path, KEYRING)
    before = in_target(target_url, rows_of)
    projects.create(session, KEYRING, ACTOR, name="late", openai_api_key="sk-late")

    with pytest.raises(CopyRefused, match=r"holds data already, in .*projects"):
        copy(database_url, target_url, tmp_path, KEYRING)

    assert in_target(target_url, rows_of) == before


@pytest.mark.parametrize("fault", ["a row less", "a value changed"])
def test_what_does_not_arrive_as_it_left_is_found_and_nothing_stays(
    full, database_url, target_url, tmp_path, fault, monkeypatch
):
    set_sequence = database_copy._set_sequence

    def spoil(target, table):
        set_sequence(target, table)
        if table.name == "tokens" and fault == "a row less":
            target.execute(table.delete().where(table.c.request_count == 7))
        if table.name == "tokens" and fault == "a value changed":
            target.execute(table.update().values(request_count=8))

    monkeypatch.setattr(database_copy, "_set_sequence", spoil)
    with pytest.raises(CopyRefused, match="tokens: "):
        copy(database_url, target_url, tmp_path, KEYRING)

    assert not any(in_target(target_url, rows_of).values())


def test_keys_that_do_not_open_stop_the_copy(full, database_url, target_url, tmp_path):
    with pytest.raises(CopyRefused, match="ENCRYPTION_KEY"):
        copy(database_url, target_url, tmp_path, KeyRing([b"x" * 32]))

    assert not any(in_target(target_url, rows_of).values())


@pytest.mark.parametrize("source", ["nothing", "empty"])
def test_a_source_that_is_no_database_of_ours_is_refused(source, target_url, tmp_path):
    if source == "empty":
        (tmp_path / "source.db").touch()

    with pytest.raises(CopyRefused, match="the source is"):
        copy(f"sqlite:///{tmp_path}/source.db", target_url, tmp_path, KEYRING)

    assert (tmp_path / "source.db").exists() is (source == "empty")


def test_a_source_of_an_older_schema_is_refused(full, database_url, target_url, tmp_path):
    with full.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")

    with pytest.raises(CopyRefused, match="of schema 0001"):
        copy(database_url, target_url, tmp_path, KEYRING)
