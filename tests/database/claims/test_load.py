"""Claims of several processes at once: sums stay exact, nothing stays held, nobody deadlocks."""

import json
import subprocess
import sys
import threading
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select, update

from database.engine import write_transaction
from llmproxy.admission import hash_token, utc_now
from llmproxy.limits.reservations import UNTOLD, Settlement
from models import Meter, Project, Token, new_id, reservations
from tests.postgres import shared_postgres
from tests.ruled_token import PROJECT

PROCESSES = 3


@pytest.fixture
def tokens(bench) -> list[str]:
    """Hashes of ruled tokens of one project; the first is the bench's own."""
    now = utc_now()
    hashes = [bench.token_hash, *(hash_token(new_id()) for _ in range(4))]
    times = {"created_at": now, "expires_at": now + timedelta(hours=1), "rate_limit": 10**9}
    bench.session.add_all([Token(token_hash=name, project_id=PROJECT, is_ruled=True, **times) for name in hashes[1:]])
    bench.session.execute(update(Token).values(rate_limit=10**9))
    bench.session.commit()
    return hashes


def run(database_url: str, tokens: list[str], during=lambda: None, *, met=lambda _: True, **task) -> Counter:
    """
    What so many processes did together; `during` is called again and again meanwhile.

    They begin anew until `met` is true of it: whether they meet each other is up to the machine.
    """
    done = Counter()
    for _ in range(10):
        done.update(run_once(database_url, tokens, during, **task))
        if met(done):
            break
    return done


def run_once(database_url: str, tokens: list[str], during, **task) -> Counter:
    task = {"parallel": 8, "calls": 15, "concurrency": None, "bounds": [10, 1_000, 50_000], **task}
    command = [sys.executable, "-m", "gevent.monkey", "--module", "tests.database.claims.load"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    outputs = [None] * PROCESSES

    def wait(number):
        told = json.dumps({"url": database_url, "tokens": tokens, "seed": number, **task})
        outputs[number] = processes[number].communicate(told, timeout=100)

    threads = [threading.Thread(target=wait, args=[number]) for number in range(PROCESSES)]
    for thread in threads:
        thread.start()
    while alive := [thread for thread in threads if thread.is_alive()]:
        during()
        alive[0].join(0.01)
    done = Counter()
    for process, (out, errors) in zip(processes, outputs, strict=True):
        assert (process.returncode, errors) == (0, "")
        done.update(json.loads(out))
    # On SQLite, whoever yields within one stops the process as soon as another greenlet begins one.
    assert done["switches within a transaction"] == 0
    return done


def left(bench, columns) -> tuple[int, ...]:
    bench.session.rollback()
    return tuple(int(number or 0) for number in bench.session.execute(select(*columns)).one())


def assert_nothing_is_held(bench) -> None:
    assert left(bench, [func.sum(Meter.reserved), func.sum(Meter.bounds)]) == (0, 0)
    assert left(bench, [func.sum(Token.in_flight)]) == (0,)
    held = select(func.count()).select_from(reservations).where(reservations.c.state == "held")
    assert bench.session.scalar(held) == 0


def test_sums_are_exact_to_the_micro_dollar(bench, tokens, database_url):
    its = bench.add_meter(amount=10**12, period="total")
    mine = [bench.add_meter(token_id=token_id, amount=10**12) for token_id in bench.session.scalars(select(Token.id))]
    requests = bench.add_meter(unit="requests", amount=10**9, period="total")

    done = run(database_url, tokens)

    assert done["admitted"] == PROCESSES * 8 * 15
    assert bench.meter(its).spent == done["cost"]
    assert sum(bench.meter(meter).spent for meter in mine) == done["cost"]
    assert bench.meter(requests).spent == done["admitted"] == left(bench, [func.sum(Token.request_count)])[0]
    assert_nothing_is_held(bench)


def test_a_budget_that_reserves_bounds_is_never_exceeded_and_used_up(bench, tokens, database_url):
    meter = bench.add_meter(amount=2_000_000, reserve="bound", period="total")

    done = run(database_url, tokens)

    assert 2_000_000 - 50_000 * 2 < bench.meter(meter).spent == done["cost"] <= 2_000_000
    assert done["reserved"] + done["too_small"] > 0
    assert_nothing_is_held(bench)


def test_many_calls_at_once_stay_within_ten_times_the_amount(bench, tokens, database_url):
    meter = bench.add_meter(amount=100_000, period="total")

    done = run(database_url, tokens, bounds=[500_000])

    assert bench.meter(meter).spent == done["cost"] <= 1_000_000
    assert done["exhausted"] > 0
    assert_nothing_is_held(bench)


def test_no_more_calls_run_at_a_time_than_may(bench, tokens, database_url):
    running = []

    def look():
        running.append(left(bench, [func.max(Token.in_flight)])[0])

    done = run(database_url, tokens, during=look, concurrency=2, met=lambda done: done["concurrency"])

    assert max(running) <= 2
    assert done["concurrency"] > 0
    assert_nothing_is_held(bench)


def test_edits_and_deletions_beside_it_deadlock_with_nobody(bench, tokens, database_url):
    meter = bench.add_meter(amount=10**12, period="total")
    for token_id in bench.session.scalars(select(Token.id)).all():
        bench.add_meter(token_id=token_id, amount=10**12, unit="tokens")
    doomed = tokens[1:4]
    edits = 0

    def edit():
        nonlocal edits
        edits += 1
        with write_transaction(bench.session):
            if doomed and edits % 5 == 0:
                bench.session.execute(delete(Token).where(Token.token_hash == doomed.pop()))
                return
            # A project, then a token, then meters by their ids, as everybody.
            bench.session.execute(update(Project).values(rules_version=Project.rules_version + 1))
            bench.session.execute(
                update(Token).where(Token.token_hash == tokens[0]).values(rules_version=Token.rules_version + 1)
            )
            for meter_id in bench.session.scalars(select(Meter.id).order_by(Meter.id).with_for_update()).all():
                bench.session.execute(update(Meter).where(Meter.id == meter_id).values(name=f"m{edits}"))

    done = run(database_url, tokens, during=edit, met=lambda done: done["stale"] and done["gone"] and not doomed)

    assert done["stale"] > 0 and done["gone"] > 0
    assert not doomed
    assert bench.meter(meter).spent == done["cost"]
    assert (bench.meter(meter).reserved, bench.meter(meter).bounds) == (0, 0)
    assert_nothing_is_held(bench)


def test_a_reaper_that_errs_and_a_rollup_beside_it_charge_nothing_twice(bench, tokens, database_url):
    meter = bench.add_meter(amount=10**12, period="total")
    mine = [bench.add_meter(token_id=token_id, amount=10**12) for token_id in bench.session.scalars(select(Token.id))]
    done_to = Counter()

    def interfere():
        for request_id, row in bench.rows().items():
            # The running are taken for dead, and the settled have their record read.
            end = {"held": Settlement(request_id, UNTOLD, "assumed"), "settled": Settlement(request_id, UNTOLD, None)}
            if row.state in end:
                bench.store.settle(end[row.state])
                done_to[row.state] += 1

    done = run(database_url, tokens, during=interfere, met=lambda _: min(done_to["held"], done_to["settled"]))

    assert min(done_to["held"], done_to["settled"]) > 0
    assert bench.meter(meter).spent == sum(bench.meter(name).spent for name in mine) == done["cost"]
    assert_nothing_is_held(bench)


@pytest.fixture(autouse=True)
def no_deadlock(request):
    """No test here may let PostgreSQL find a deadlock."""
    is_postgres = request.config.getoption("--database") == "postgresql"
    before = shared_postgres().log().count("deadlock detected") if is_postgres else 0
    yield
    assert not is_postgres or shared_postgres().log().count("deadlock detected") == before
