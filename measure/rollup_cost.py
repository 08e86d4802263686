"""
What the sums of usage cost: records per second into the tables, and how long the questions to them take.

    python -m measure.rollup_cost [--records 1000000] [--tokens 10000] [--batch 250] [--database postgresql://…]

Writes a log of calls spread evenly over 30 days, with tokens and hours drawn evenly, which is the worst case: hardly
two records share a cell. Real traffic is lumpier, and cheaper. Without --database, SQLite in a temporary directory.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from flask import Flask

import config
from accounting.report import EVERYBODY, Filters, refusals_by_reason, series, top, totals
from accounting.rollup import BATCH_RECORDS, Rollup, UsageSums, node_id
from app import create_app
from database.engine import checkpoint
from database.schema import migrate_to_head
from llmproxy.api_log.record import CallRecord
from models import db
from services import Services

DAYS = 30
PROJECTS = 100
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o4-mini", "text-embedding-3-small")
BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=DAYS)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=BATCH_RECORDS)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)
        environ = {"DATA_DIR": directory, "MANAGEMENT_TOKEN": "management-token"}
        if options.database:
            environ["DATABASE_URL"] = options.database
        settings = config.load(environ, embedded=True)
        app = create_app(settings)
        migrate_to_head(Services.of(app).engine, data_dir)
        tokens = _write_log(settings.log_path, options.records, options.tokens)
        with app.app_context():
            _measure_rollup(settings, options.records, options.batch)
            _settle_tables()
            _measure_report(*random.Random(3).choice(tokens))
            _measure_api(app, *random.Random(3).choice(tokens))
            db.engine.dispose()


def _write_log(path: Path, records: int, tokens: int) -> list[tuple[str, str]]:
    """A log of so many calls; its (project, token) pairs."""
    draw = random.Random(1)
    projects = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(PROJECTS)]
    owners = [(draw.choice(projects), str(uuid.UUID(int=draw.getrandbits(128)))) for _ in range(tokens)]
    with path.open("wb") as file:
        for number in range(records):
            file.write(_record(number / records, draw, *draw.choice(owners)).to_line())
    print(f"{records:,} records of {tokens:,} tokens over {DAYS} days: {path.stat().st_size / 1e6:.0f} MB")
    return owners


def _record(progress: float, draw: random.Random, project: str, token: str) -> CallRecord:
    refused = draw.random() < 0.02
    duration_ms = round(draw.lognormvariate(7, 1), 3)
    prompt, completion = draw.randrange(10, 4000), draw.randrange(1, 800)
    # A token keeps to one model for the most part.
    model = MODELS[int(token[0], 16) % len(MODELS)] if draw.random() < 0.8 else draw.choice(MODELS)
    metadata = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
        "model": model,
    }
    return CallRecord(
        timestamp=(BEGIN + (END - BEGIN) * progress).timestamp(),
        request_id=str(uuid.UUID(int=draw.getrandbits(128))),
        token_id=token,
        project_id=project,
        endpoint="/v1/chat/completions",
        method="POST",
        status_code=429 if refused else 200,
        duration_ms=duration_ms,
        metadata=None if refused else metadata,
        outcome="refused" if refused else "complete",
        stream=False,
        ttft_ms=None if refused else round(duration_ms / 3, 3),
        upstream_status=None if refused else 200,
        upstream_request_id=None,
        bytes_in=1000,
        bytes_out=2000,
        usage_source="absent" if refused else "reported",
        error={"code": "rate_limit_exceeded", "type": "requests"} if refused else None,
        cost=0 if refused else prompt * 3,
        cost_source="none" if refused else "reported",
    )


def _measure_rollup(settings: config.Settings, records: int, batch: int) -> None:
    synced_s = 0.0

    def sync(fd: int) -> None:
        nonlocal synced_s
        started = time.perf_counter()
        os.fsync(fd)
        synced_s += time.perf_counter() - started

    rollup = Rollup(settings.log_path, UsageSums(db.engine, node_id(settings.data_dir)), fsync=sync)
    steps: list[float] = []
    stop = threading.Event()
    checkpoints = threading.Thread(target=_make_checkpoints, args=(settings.database_url, stop))
    checkpoints.start()
    started, cpu = time.perf_counter(), time.process_time()
    while True:
        step, synced_before = time.perf_counter(), synced_s
        if not rollup.step(max_records=batch):
            break
        # A worker syncs in a thread; the rest is what its requests wait for.
        steps.append((time.perf_counter() - step - (synced_s - synced_before)) * 1000)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    rollup.close()
    stop.set()
    checkpoints.join()
    steps.sort()
    print(f"into the tables: {records / wall:,.0f} records/s, {cpu / records * 1e6:.0f} µs of CPU each")
    print(f"of that, waiting for the disk: {synced_s / wall:.0%}")
    p99 = steps[len(steps) * 99 // 100]
    print(f"a batch of {batch}: median {statistics.median(steps):.1f} ms, p99 {p99:.1f}, longest {steps[-1]:.1f}")
    database = settings.data_dir / "llm-proxy.db"
    if database.exists():
        print(f"tables: {database.stat().st_size / 1e6:.0f} MB")


def _make_checkpoints(database_url: str, stop: threading.Event) -> None:
    """As the background work of a server does."""
    while database_url.startswith("sqlite") and not stop.wait(1.0):
        checkpoint(database_url)


def _settle_tables() -> None:
    """What PostgreSQL does by itself within minutes: without it, it plans blindly."""
    if db.engine.dialect.name == "postgresql":
        with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE usage_sums")
            connection.exec_driver_sql("VACUUM ANALYZE usage_keys")


def _measure_report(project: str, token: str) -> None:
    of_project, of_token = Filters(project_id=project), Filters(token_id=token)
    day = (END - timedelta(hours=36), END - timedelta(hours=12))
    month = (BEGIN + timedelta(hours=5), END - timedelta(hours=7))
    questions: list[tuple[str, Callable[[datetime, datetime], object]]] = [
        ("totals", lambda b, e: totals(db.session, EVERYBODY, b, e)),
        ("by hour", lambda b, e: series(db.session, EVERYBODY, b, e, step="hour")),
        ("by day", lambda b, e: series(db.session, EVERYBODY, b, e, step="day")),
        ("by project", lambda b, e: top(db.session, "project", EVERYBODY, b, e, limit=100)),
        ("by model", lambda b, e: top(db.session, "model", EVERYBODY, b, e, limit=100)),
        ("by token", lambda b, e: top(db.session, "token", EVERYBODY, b, e, limit=100)),
        ("reasons of refusals", lambda b, e: refusals_by_reason(db.session, EVERYBODY, b, e)),
        ("one model by project", lambda b, e: top(db.session, "project", Filters(model=MODELS[0]), b, e, limit=100)),
        ("one project by hour", lambda b, e: series(db.session, of_project, b, e, step="hour")),
        ("one project by token", lambda b, e: top(db.session, "token", of_project, b, e, limit=100)),
        ("one project by model", lambda b, e: top(db.session, "model", of_project, b, e, limit=100)),
        ("one token by hour", lambda b, e: series(db.session, of_token, b, e, step="hour")),
        ("one token by model", lambda b, e: top(db.session, "model", of_token, b, e, limit=100)),
        ("the five of the overview", _overview),
    ]
    print(f"{'question, ms':26}{'a day':>10}{'30 days':>10}")
    for name, ask in questions:
        print(f"{name:26}{_best_ms(partial(ask, *day)):>10.1f}{_best_ms(partial(ask, *month)):>10.1f}")


def _overview(begin: datetime, end: datetime) -> None:
    """What the admin's first page asks."""
    totals(db.session, EVERYBODY, begin, end)
    series(db.session, EVERYBODY, begin, end, step="hour")
    top(db.session, "project", EVERYBODY, begin, end, limit=10)
    top(db.session, "model", EVERYBODY, begin, end, limit=10)
    refusals_by_reason(db.session, EVERYBODY, begin, end)


def _best_ms(ask: Callable[[], object]) -> float:
    def once() -> float:
        started = time.perf_counter()
        ask()
        return (time.perf_counter() - started) * 1000

    return min(once() for _ in range(5))


def _measure_api(app: Flask, project: str, token: str) -> None:
    client = app.test_client()
    headers = {"Authorization": "Bearer management-token"}
    span = f"from={BEGIN:%Y-%m-%dT%H:%M:%SZ}&to={END - timedelta(hours=7):%Y-%m-%dT%H:%M:%SZ}"
    print("GET /manage/usage over 30 days, ms")
    for group in ("hour", "day", "project", "token", "model"):
        for name, query in (("all", ""), ("project", f"&project_id={project}"), ("token", f"&token_id={token}")):
            url = f"/manage/usage?group_by={group}&{span}{query}"
            assert client.get(url, headers=headers).status_code == 200
            print(f"  by {group:8} of {name:8}{_best_ms(partial(client.get, url, headers=headers)):>8.1f}")


if __name__ == "__main__":
    main()
