"""The database underneath: the claim, transactions, migrations, outages."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from database import schema
from database.claims import open_token_store
from database.engine import background_transaction, is_reachable, open_engine, write_transaction
from database.schema import migrate_to_head
from llmproxy.admission import StoreUnavailable, hash_token
from llmproxy.headers import origin_of
from models import AuditEntry, Project, Token, db, usage_keys, usage_sums
from tests.databases import database_of
from tests.servers import wait_for

NOW = datetime(2026, 11, 23, 10, 15, 30, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROJECT = "f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11"
TOKEN = hash_token("a secret")


@pytest.fixture
def store(database: Engine, database_url: str):
    """What admits requests; five an hour where a token has no limit of its own."""
    made = open_token_store(database_url, default_limit=5)
    yield made
    made.close()


@pytest.fixture
def add_token(session: Session):
    """Adds a token and its project; columns may be changed."""

    def add(**columns) -> None:
        if session.get(Project, PROJECT) is None:
            fields = {"openai_api_key": "sealed", "key_hint": "", "created_at": NOW}
            session.add(Project(id=PROJECT, name="a project", base_url="https://upstream.test", **fields))
        complete = {"token_hash": TOKEN, "id": "public-id", "project_id": PROJECT, "expires_at": NOW + HOUR}
        session.add(Token(**complete | {"created_at": NOW} | columns))
        session.commit()

    return add


def change(session: Session, table, **values) -> None:
    session.execute(update(table).values(**values))
    session.commit()


def test_a_claim_counts_and_tells_all_that_a_request_needs(store, add_token):
    add_token()

    claim = store.claim(TOKEN, NOW)
    state = store.state(TOKEN)

    assert (claim.token_id, claim.project_id, claim.sealed_key) == ("public-id", PROJECT, "sealed")
    assert (claim.base_url, claim.stream_usage) == ("https://upstream.test", "as-sent")
    assert (state.request_count, state.window_started_at, state.expires_at) == (1, NOW, NOW + HOUR)
    assert (state.is_active, state.project_is_active, state.rate_limit) == (True, True, 5)


def test_an_unknown_token_has_no_state(store, add_token):
    add_token()

    assert (store.claim(hash_token("another"), NOW), store.state(hash_token("another"))) == (None, None)


@pytest.mark.parametrize(
    ("table", "values"),
    [(Token, {"is_active": False}), (Project, {"is_active": False}), (Token, {"expires_at": NOW})],
)
def test_what_an_operator_takes_back_holds_for_the_next_claim(session, store, add_token, table, values):
    add_token()
    assert store.claim(TOKEN, NOW)

    change(session, table, **values)

    assert store.claim(TOKEN, NOW) is None
    assert store.state(TOKEN).request_count == 1


@pytest.mark.parametrize(("own_limit", "allowed"), [(None, 5), (2, 2), (7, 7)])
def test_a_token_s_own_limit_comes_before_the_setting(store, add_token, own_limit, allowed):
    add_token(rate_limit=own_limit)

    passed = [store.claim(TOKEN, NOW) is not None for _ in range(9)]

    assert passed == [True] * allowed + [False] * (9 - allowed)


@pytest.mark.parametrize(
    ("later", "passes", "count"),
    [(HOUR - timedelta(microseconds=1), False, 5), (HOUR, True, 1), (3 * HOUR, True, 1)],
)
def test_a_window_ends_after_an_hour_to_the_microsecond(store, add_token, later, passes, count):
    add_token(expires_at=NOW + 9 * HOUR)
    for _ in range(5):
        store.claim(TOKEN, NOW)

    claim = store.claim(TOKEN, NOW + later)

    assert ((claim is not None), store.state(TOKEN).request_count) == (passes, count)
    assert store.state(TOKEN).window_started_at == (NOW + later if passes else NOW)


@pytest.mark.parametrize(("left", "passes"), [(timedelta(microseconds=1), True), (timedelta(0), False)])
def test_a_token_dies_at_the_moment_it_expires(store, add_token, left, passes):
    add_token(expires_at=NOW + left)

    assert (store.claim(TOKEN, NOW) is not None) is passes


def test_parallel_claims_pass_exactly_as_often_as_allowed(database, database_url, add_token):
    add_token(rate_limit=40)
    stores = [open_token_store(database_url, default_limit=5) for _ in range(8)]
    ready = threading.Barrier(8)

    def claim_often(store) -> int:
        ready.wait()
        return sum(store.claim(TOKEN, NOW) is not None for _ in range(10))

    with ThreadPoolExecutor(8) as threads:
        passed = sum(threads.map(claim_often, stores))

    assert (passed, stores[0].state(TOKEN).request_count) == (40, 40)
    for store in stores:
        store.close()


@pytest.mark.parametrize("jump", [-3 * HOUR, -timedelta(minutes=5), HOUR / 2])
def test_a_clock_that_jumps_within_a_window_lets_no_request_more_pass(store, add_token, jump):
    add_token(expires_at=NOW + 9 * HOUR)
    passed = [store.claim(TOKEN, NOW) is not None for _ in range(3)]

    passed += [store.claim(TOKEN, NOW + jump) is not None for _ in range(5)]

    assert passed.count(True) == 5


def test_a_clock_set_forward_and_back_opens_one_window_and_no_third(store, add_token):
    add_token(expires_at=NOW + 99 * HOUR)
    for _ in range(9):
        store.claim(TOKEN, NOW)
    ahead = [store.claim(TOKEN, NOW + 24 * HOUR) is not None for _ in range(9)]

    back = [store.claim(TOKEN, NOW + minutes * timedelta(minutes=10)) is not None for minutes in range(12)]

    assert (ahead.count(True), back.count(True)) == (5, 0)
    assert store.claim(TOKEN, NOW + 25 * HOUR)


@pytest.mark.postgres
def test_claims_on_postgresql_write_beside_the_old_row_and_touch_no_index(session, postgres_server, tmp_path):
    url = postgres_server.new_database()
    engine = open_engine(url)
    migrate_to_head(engine, tmp_path)
    with Session(engine) as session:
        times = {"created_at": NOW, "expires_at": NOW + HOUR}
        session.add(Project(id=PROJECT, name="p", openai_api_key="sealed", key_hint="", created_at=NOW))
        session.add_all([Token(token_hash=f"{n:064}", project_id=PROJECT, **times) for n in range(200)])
        session.commit()
    store = open_token_store(url, default_limit=10_000, pool_size=1)
    for number in range(3000):
        store.claim(f"{number % 5:064}", NOW)
    store.close()

    look = """
        SELECT n_tup_upd, n_tup_hot_upd, pg_relation_size(relid) / 8192
        FROM pg_stat_user_tables WHERE relname = 'tokens'
    """
    with psycopg.connect(url, autocommit=True) as connection:

        def told():
            # A connection tells what it counted when it ends.
            found = connection.execute(look).fetchone()
            return found if found[0] >= 3000 else None

        updates, hot, pages = wait_for(told)
    engine.dispose()
    assert (updates, hot >= 2990, pages < 40) == (3000, True, True)


def test_a_write_transaction_that_raises_leaves_nothing(session, add_token):
    add_token()

    def change_and_fail():
        with write_transaction(session):
            session.execute(update(Token).values(label="half done"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()

    assert session.get(Token, TOKEN).label is None


def test_a_background_transaction_leaves_the_connection_as_it_was(database):
    def settings_of_connection():
        with database.connect() as connection:
            if database.dialect.name != "sqlite":
                return None
            return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "busy_timeout")]

    before = settings_of_connection()
    with background_transaction(database) as connection:
        connection.exec_driver_sql("SELECT 1")
    with pytest.raises(ZeroDivisionError), background_transaction(database):
        raise ZeroDivisionError

    assert settings_of_connection() == before


def test_foreign_keys_hold(session, add_token):
    add_token()

    with pytest.raises(IntegrityError):
        add_token(token_hash="0" * 64, id="another", project_id="nobody's")
    session.rollback()


def test_the_audit_trail_keeps_zones_and_json(session):
    with write_transaction(session):
        entry = AuditEntry(at=NOW, actor="a", action="b", target_type="token", target_id="c", after={"n": [1, None]})
        session.add(entry)
    session.expire_all()

    kept = session.get(AuditEntry, entry.id)

    assert (kept.at, kept.after) == (NOW, {"n": [1, None]})


# Migrations

NEW_IN_0008 = ("total_tokens", "audio_seconds", "streams", "silent_streams")
NEWER = (*NEW_IN_0008, "cost_assumed", "would_refuse")


def test_the_migrations_lead_to_the_models(database):
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, db.metadata)

    assert differences == []
    assert schema.version(database) == schema.HEAD


def test_the_migrations_lead_back_to_nothing_and_here_again(database):
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    config.attributes["engine"] = database

    command.downgrade(config, "base")
    assert inspect(database).get_table_names() == ["alembic_version"]
    schema.upgrade(database)

    assert set(inspect(database).get_table_names()) == {"alembic_version", *db.metadata.tables}


@pytest.mark.parametrize(
    "base_url",
    [
        None, "https://h", "https://h/", "https://h:1/v1", "https://h/v1/", "https://h/openai", "https://h/openai//",
        "https://h/openai/v1/", "https://h/v1beta", "https://h/v1/v1", "https://h//v1", "https://h/av1", "HTTPS://H//",
    ],
)  # fmt: skip
def test_calls_go_where_they_went_once_base_urls_stand_for_themselves(tmp_path, base_url):
    engine = open_engine(database_of(tmp_path, empty=True))
    schema.upgrade(engine, "0003")
    with engine.begin() as connection:
        row = {"id": PROJECT, "name": "p", "openai_api_key": "sealed", "key_hint": "hint", "base_url": base_url}
        row |= {"is_active": True, "stream_usage": "as-sent", "created_at": NOW}
        names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO projects ({names}) VALUES ({places})"), row)

    schema.upgrade(engine, "0004")
    with engine.connect() as connection:
        found = connection.scalar(text("SELECT base_url FROM projects"))
    engine.dispose()

    assert (found is None) == (base_url is None)
    if found is not None:
        assert origin_of(found).base_path == path_in_0003(base_url) == path_in_0003(found)


def path_in_0003(base_url: str) -> str:
    """Where code of before revision 0004 sends what came to /v1."""
    return urlsplit(base_url).path.rstrip("/").removesuffix("/v1") + "/v1"


def test_totals_that_were_shown_before_they_were_summed_stay(tmp_path):
    engine = open_engine(database_of(tmp_path, empty=True))
    schema.upgrade(engine, "0007")
    key = {"id": 1, "view": 1, "node_id": "n", "project_id": "p", "token_id": "t", "model": "m", "endpoint": "chat"}
    with engine.begin() as connection:
        connection.execute(usage_keys.insert().values(refusal="", **key))
        columns = [column.name for column in usage_sums.columns if column.name not in NEWER]
        values = dict.fromkeys(columns, 1) | {"prompt_tokens": 20, "completion_tokens": 9}
        names, places = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        connection.execute(text(f"INSERT INTO usage_sums ({names}) VALUES ({places})"), values)

    schema.upgrade(engine, "0008")
    with engine.connect() as connection:
        [row] = connection.execute(text(f"SELECT {', '.join(NEW_IN_0008)} FROM usage_sums")).all()
    engine.dispose()

    assert tuple(row) == (29, 0, 0, 0)


def test_several_processes_that_start_at_once_migrate_once(tmp_path):
    url = database_of(tmp_path, empty=True)
    engines = [open_engine(url) for number in range(3)]

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda engine: migrate_to_head(engine, tmp_path), engines))

    for engine in engines:
        assert schema.version(engine) == schema.HEAD
        engine.dispose()


# Outages


@pytest.mark.sqlite
def test_a_busy_sqlite_is_waited_for_and_then_said_to_be_unavailable(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/test.db"
    migrate_to_head(open_engine(url), tmp_path)
    store = open_token_store(url, default_limit=5)
    monkeypatch.setattr("database.claims.sqlite.BUSY_TIMEOUT_S", 0.02)
    writer = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
        store.claim(TOKEN, NOW)
    writer.execute("ROLLBACK")

    assert store.claim(TOKEN, NOW) is None
    writer.close()
    store.close()


@pytest.mark.sqlite
def test_a_database_that_is_gone_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailable):
        open_token_store(f"sqlite:///{tmp_path}/nothing.db", default_limit=5).claim(TOKEN, NOW)

    assert not Path(tmp_path / "nothing.db").exists()


@pytest.mark.postgres
def test_a_postgresql_that_was_restarted_is_used_again(postgres_server, tmp_path):
    url = postgres_server.new_database()
    engine = open_engine(url)
    migrate_to_head(engine, tmp_path)
    store = open_token_store(url, default_limit=5)
    assert store.claim(TOKEN, NOW) is None

    postgres_server.stop()
    try:
        with pytest.raises(StoreUnavailable):
            store.claim(TOKEN, NOW)
        assert not is_reachable(engine)
        with pytest.raises(DBAPIError), background_transaction(engine) as connection:
            connection.execute(text("SELECT 1"))
    finally:
        postgres_server.start()

    assert store.claim(TOKEN, NOW) is None
    assert is_reachable(engine)
    engine.dispose()
