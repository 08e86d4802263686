"""Clean-up on each kind of database: what goes, what stays, in small batches, by one process of all."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.orm import Session

from accounting.rollup import Rollup, UsageSums
from accounting.views import PROJECT_DAYS, VIEWS
from config import Settings
from control import cleanup
from control.cleanup import Cleanup
from database import lease
from models import (
    AuditEntry,
    Project,
    Token,
    call_index,
    log_segments,
    reservations,
    seen_objects,
    usage_keys,
    usage_sums,
)
from server import background
from tests.accounting.test_rollup import catch_up, sums_of
from tests.records import append, record

NOW = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
RETENTION = Settings(
    token_retention_days=30, usage_retention_days=90, audit_retention_days=60, request_index_days=36_000
)


def clean(engine: Engine, **changes: float) -> list[tuple[str, int]]:
    return list(Cleanup(engine, replace(RETENTION, **changes)).batches(NOW))


def add_token(session: Session, name: str, expires_at: datetime) -> None:
    if session.get(Project, "p") is None:
        session.add(Project(id="p", name="p", openai_api_key="sealed", key_hint="", created_at=NOW))
    session.add(Token(token_hash=name, id=name, project_id="p", expires_at=expires_at, created_at=NOW))
    session.commit()


def token_count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count(Token.id)))


def add_audit(session: Session, at: datetime) -> None:
    session.add(AuditEntry(at=at, actor="a", action="b", target_type="token", target_id="c"))
    session.commit()


def test_tokens_go_a_grace_after_they_expired(session, database):
    for name, age in (("gone", 30 * DAY + SECOND), ("kept", 30 * DAY), ("alive", -DAY)):
        add_token(session, name, NOW - age)

    assert clean(database) == [("expired tokens", 1)]
    assert set(session.scalars(select(Token.id))) == {"kept", "alive"}


def test_calls_leave_the_index_after_their_retention(database, tmp_path):
    log = tmp_path / "api_logs.jsonl"
    rollup = Rollup(log, UsageSums(database, "node"))
    ages = (20 * DAY + SECOND, 20 * DAY - SECOND, SECOND)
    append(log, [record(timestamp=(NOW - age).isoformat()) for age in ages])
    catch_up(rollup)
    rollup.close()

    assert clean(database, request_index_days=20) == [("calls in the index", 1)]
    with database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(call_index)) == 2


def test_files_of_the_log_leave_the_index_after_all_their_calls(database):
    def call(segment: int, age: timedelta, lasts: timedelta = SECOND) -> dict[str, int]:
        at, duration_ms = int((NOW - age).timestamp() * 1000), int(lasts.total_seconds() * 1000)
        numbers = {"at": at, "segment": segment, "place": 0, "duration_ms": duration_ms}
        return numbers | dict.fromkeys(("key_id", "status", "ending"), 0)

    def files_left() -> list[int]:
        clean(database, request_index_days=20)
        with database.connect() as connection:
            return list(connection.scalars(select(log_segments.c.id).order_by(log_segments.c.id)))

    files = [(1, "one"), (2, "one"), (3, "two"), (4, "one")]
    # The second file's call began before the retention and ended after it: the first may hold such calls, too.
    calls = [call(1, 21 * DAY), call(2, 20 * DAY + SECOND, DAY), call(3, 21 * DAY), call(4, SECOND)]
    with database.begin() as connection:
        connection.execute(
            insert(log_segments), [{"id": id, "node_id": node, "segment": str(id)} for id, node in files]
        )
        connection.execute(insert(call_index), calls)
    before = files_left()
    with database.begin() as connection:
        connection.execute(insert(call_index), call(2, 20 * DAY + 5 * SECOND))

    assert (before, files_left()) == ([1, 2, 3, 4], [2, 3, 4])


def test_audit_entries_go_after_their_retention(session, database):
    for age in (60 * DAY + SECOND, 60 * DAY, SECOND):
        add_audit(session, NOW - age)

    assert clean(database) == [("audit entries", 1)]
    assert session.scalar(select(func.count(AuditEntry.id))) == 2


def add_reservation(session: Session, request_id: str, state: str, age: timedelta) -> None:
    at = int((NOW - age).timestamp() * 1_000_000)
    whose = {"project_id": "p", "token_id": "t", "node": "n", "worker": "w"}
    row = {"request_id": request_id, "state": state, "at": at, "holds": [], "estimate": 0}
    session.execute(insert(reservations).values(**whose, **row))
    session.commit()


def test_reservations_whose_record_never_came_go_after_a_week(session, database):
    add_reservation(session, "gone", "assumed", 7 * DAY + SECOND)
    add_reservation(session, "kept", "settled", 7 * DAY)
    add_reservation(session, "running", "held", 70 * DAY)

    assert clean(database) == [("reservations", 1)]
    assert set(session.scalars(select(reservations.c.request_id))) == {"kept", "running"}


def test_nothing_is_deleted_in_batches_larger_than_told(session, database, monkeypatch):
    monkeypatch.setattr(cleanup, "BATCH", 2)
    for number in range(5):
        add_token(session, str(number), NOW - 31 * DAY)
        add_audit(session, NOW - 61 * DAY)

    assert clean(database) == [
        *(("expired tokens", count) for count in (2, 2, 1)),
        *(("audit entries", count) for count in (2, 2, 1)),
    ]


@pytest.fixture
def rollup(database: Engine, tmp_path: Path):
    made = Rollup(tmp_path / "api_logs.jsonl", UsageSums(database, "node-1"))
    yield made
    made.close()


def calls_at(*moments: datetime) -> list[dict]:
    return [
        record(timestamp=f"{moment:%Y-%m-%dT%H:%M:%SZ}", metadata={"model": f"m{moment:%m%d}"}) for moment in moments
    ]


def test_sums_of_usage_go_by_whole_days_from_every_view_and_their_keys_with_them(database, rollup, tmp_path):
    first_kept = (NOW - 90 * DAY).replace(hour=0, minute=0)
    for moment in (first_kept - SECOND, first_kept, NOW):
        append(tmp_path / "api_logs.jsonl", calls_at(moment))
        catch_up(rollup)

    deleted = clean(database)

    assert {what for what, count in deleted if count} == {"sums of usage", "keys of usage"}
    assert [sums_of(database, view)["requests"] for view in VIEWS] == [2] * len(VIEWS)
    with database.connect() as connection:
        models = set(connection.scalars(select(usage_keys.c.model).where(usage_keys.c.view == PROJECT_DAYS.id)))
    assert models == {f"m{first_kept:%m%d}", f"m{NOW:%m%d}"}


def test_a_rollup_whose_keys_were_deleted_makes_new_ones(database, rollup, tmp_path):
    old = NOW - 100 * DAY
    append(tmp_path / "api_logs.jsonl", calls_at(old))
    catch_up(rollup)
    clean(database)
    append(tmp_path / "api_logs.jsonl", calls_at(old, NOW))

    # It knew the numbers of the keys that are gone.
    catch_up(rollup)

    assert sums_of(database, PROJECT_DAYS)["requests"] == 2


def test_the_number_of_a_deleted_key_is_never_another_s(database, rollup, tmp_path):
    log, old = tmp_path / "api_logs.jsonl", NOW - 100 * DAY
    append(log, calls_at(old))
    catch_up(rollup)
    clean(database)
    append(log, [record(project_id="another", timestamp=f"{NOW:%Y-%m-%dT%H:%M:%SZ}")])
    catch_up(rollup)
    append(log, calls_at(old))

    # It knew the numbers of the keys that are gone, and those of the other project's.
    catch_up(rollup)

    with database.connect() as connection:
        of_another = usage_keys.c.view == PROJECT_DAYS.id, usage_keys.c.project_id == "another"
        ids = select(usage_keys.c.id).where(*of_another)
        counted = connection.scalars(select(usage_sums.c.requests).where(usage_sums.c.key_id.in_(ids))).all()
    assert counted == [1]


def test_an_object_is_kept_in_mind_for_30_days_after_it_was_last_read(database, rollup, tmp_path):
    for name, days in (("batch_1", 31), ("batch_2", 31), ("batch_2", 29)):
        stamp = f"{NOW - days * DAY:%Y-%m-%dT%H:%M:%SZ}"
        append(
            tmp_path / "api_logs.jsonl", [record(timestamp=stamp, usage_of=name, usage_source="stored", method="GET")]
        )
        catch_up(rollup)

    assert ("objects seen", 1) in clean(database)
    with database.connect() as connection:
        assert list(connection.scalars(select(seen_objects.c.object_id))) == ["batch_2"]


# One of all


def test_a_lease_is_held_by_one_until_it_ends(database):
    ten = timedelta(minutes=10)

    assert lease.hold(database, "cleanup", "one", NOW, ten)
    assert not lease.hold(database, "cleanup", "two", NOW + ten - SECOND, ten)
    assert lease.hold(database, "cleanup", "one", NOW + ten - SECOND, ten)
    assert not lease.hold(database, "cleanup", "two", NOW + ten, ten)
    assert lease.hold(database, "cleanup", "two", NOW + 2 * ten, ten)
    assert lease.hold(database, "another", "one", NOW, ten)


def test_a_lease_given_by_a_clock_that_was_ahead_is_not_waited_for(database):
    assert lease.hold(database, "cleanup", "one", NOW + 9 * DAY, DAY)

    assert lease.hold(database, "cleanup", "two", NOW, DAY)


def test_of_two_workers_one_cleans_up(session, database, monkeypatch):
    monkeypatch.setattr(background, "utc_now", lambda: NOW)
    first, second = (background._Cleaner(database, RETENTION) for _ in range(2))
    first()
    add_token(session, "gone", NOW - 31 * DAY)

    second()
    assert token_count(database) == 1
    first()
    assert token_count(database) == 0
