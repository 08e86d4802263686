"""The sums of usage: what a record counts as, and that each counts exactly once, whatever is killed."""

import calendar
import json
import os
import random
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from accounting.fold import fold
from accounting.names import MAX_MODELS, MAX_MODELS_OF_ONE_PROJECT, OTHER_MODELS
from accounting.rollup import Rollup, UsageSums, node_id
from accounting.views import CALLS, VIEWS
from database.engine import _listen_on_sqlite
from llmproxy.api_log.reader import LogReader, ReaderBusy
from llmproxy.endpoints import endpoint_class
from models import COUNTS, DIMENSIONS, usage_keys, usage_sums
from tests.records import append, older, read, record, refused


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api_logs.jsonl"


@pytest.fixture
def rollup(database: Engine, log: Path):
    made = Rollup(log, UsageSums(database, "node-1"))
    yield made
    made.close()


def catch_up(rollup: Rollup, **options: int) -> int:
    added = 0
    while step := rollup.step(**options):
        added += step
    return added


def sums_of(engine: Engine, view=CALLS, names=COUNTS) -> Counter:
    """The counts that the tables hold in a view."""
    statement = select(*(func.sum(usage_sums.c[name]) for name in names)).where(usage_sums.c.view == view.id)
    with engine.connect() as connection:
        row = connection.execute(statement).one()
    return Counter({name: int(number or 0) for name, number in zip(names, row, strict=True)})


def requests_by_cell(engine: Engine) -> Counter:
    columns = [usage_keys.c[name] for name in DIMENSIONS]
    statement = (
        select(usage_sums.c.hour, *columns, func.sum(usage_sums.c.requests))
        .join(usage_keys, usage_keys.c.id == usage_sums.c.key_id)
        .where(usage_sums.c.view == CALLS.id)
        .group_by(usage_sums.c.hour, *columns)
    )
    with engine.connect() as connection:
        return Counter({tuple(cell): int(count) for *cell, count in connection.execute(statement)})


def counted_by_hand(*paths: Path) -> Counter:
    """Requests by cell, from the lines of the log."""
    found: Counter = Counter()
    for path in paths:
        for line in path.read_bytes().splitlines():
            call = json.loads(line)
            hour = calendar.timegm(time.strptime(call["timestamp"][:13], "%Y-%m-%dT%H"))
            code = (call["error"] or {}).get("code", "") if call["outcome"] == "refused" else ""
            model = (call["metadata"] or {}).get("model", "")
            chat = "chat" if call["endpoint"].startswith("/v1/chat") else "embeddings"
            cell = hour // 3600, call["project_id"] or "", call["token"] or "", model, chat, code
            found[cell] += call.get("count", 1)
    return found


def mixed_records(count: int, seed: int = 1) -> list[dict]:
    draw = random.Random(seed)
    tokens = [str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(20)]
    made = []
    for _ in range(count):
        stamp = f"2026-11-{draw.randrange(20, 24)}T{draw.randrange(24):02}:{draw.randrange(60):02}:00.000Z"
        who = {"timestamp": stamp, "token": draw.choice(tokens)}
        kind = draw.random()
        if kind < 0.05:
            made.append(refused("invalid_api_key", timestamp=stamp, token=None, project_id=None, count=17))
        elif kind < 0.1:
            made.append(refused("invalid_api_key", timestamp=stamp, token=None, project_id=None))
        elif kind < 0.2:
            made.append(refused(**who))
        else:
            endpoint = draw.choice(["/v1/chat/completions", "/v1/embeddings"])
            made.append(record(endpoint=endpoint, **who))
    return made


def sums_in(call: dict) -> dict:
    """What a record adds to the sums."""
    [sums] = fold([read(call)]).rows.values()
    return sums


@pytest.mark.parametrize(
    ("call", "counted"),
    [
        (record(), {"requests", "usage_reported"}),
        (record(status_code=400, usage_source="absent"), {"requests", "errors"}),
        (record(outcome="upstream_failed", usage_source="absent"), {"requests", "errors"}),
        (record(outcome="upstream_timeout", status_code=504), {"requests", "errors", "usage_reported"}),
        (record(outcome="client_closed", status_code=499), {"requests", "client_closed", "usage_reported"}),
        (record(failed_inside=True), {"requests", "errors", "usage_reported"}),
        (record(failed_inside=True, outcome="client_closed"), {"requests", "errors", "usage_reported"}),
        (record(error={"code": None, "type": "server_error"}), {"requests", "errors", "usage_reported"}),
        (record(error={"code": "x"}, method="GET", usage_source="stored"), {"requests"}),
        (record(stream=True), {"requests", "usage_reported", "streams"}),
        (record(stream=True, usage_source="absent"), {"requests", "streams", "silent_streams"}),
        (record(stream=True, usage_source="absent", endpoint="/v1/responses"), {"requests"}),
        (record(stream=True, usage_source="absent", outcome="client_closed"), {"requests", "client_closed"}),
        (refused(), {"requests", "refusals"}),
        (refused("token_revoked", upstream_status=200), {"requests", "refusals"}),
    ],
)
def test_a_record_counts_as_one_thing(call, counted):
    sums = sums_in(call)

    ones = {name for name in COUNTS if sums.get(name) == 1}
    assert ones == counted


@pytest.mark.parametrize(
    ("call", "cost", "unpriced"),
    [
        (record(cost_usd=1.382505), 1_382_505, 0),
        (record(cost_usd=None, cost_source="unpriced"), 0, 1),
        (record(cost_usd=None, cost_source="absent"), 0, 0),
        (record(cost_usd=0, cost_source="none"), 0, 0),
        (record(cost_usd=None, cost_source=None), 0, 0),
        (older(), 0, 1),
        (older(usage_source="absent"), 0, 0),
        (record(cost_usd=-5), 0, 0),
        (record(cost_usd=1e30), 10**12, 0),
        (record(cost_usd="12"), 0, 0),
    ],
)
def test_costs_are_whole_micro_dollars_and_within_reason(call, cost, unpriced):
    sums = sums_in(call)

    assert (sums.get("cost", 0), sums.get("unpriced", 0)) == (cost, unpriced)


def test_what_nobody_told_is_kept_apart_within_the_costs():
    sums = sums_in(record(cost_usd=0.29, cost_source="assumed", usage_source="absent"))

    assert (sums["cost"], sums["cost_assumed"]) == (290_000, 290_000)


def test_what_a_call_used_before_it_was_cut_counts():
    sums = sums_in(record(outcome="refused", error={"code": "token_revoked", "type": "x"}))

    assert (sums["refusals"], sums.get("errors", 0), sums["prompt_tokens"]) == (1, 0, 10)


def test_a_line_that_stands_for_a_second_s_refusals_counts_as_all_of_them():
    sums = sums_in(refused(count=523))

    assert (sums["requests"], sums["refusals"]) == (523, 523)


@pytest.mark.parametrize("count", [0, -5, 1.5, "7", True, None, 10**10])
def test_a_count_that_is_none_counts_as_one(count):
    sums = sums_in(refused(count=count))

    assert (sums["requests"], sums["refusals"]) == (1, 1)


def test_tokens_are_those_that_the_upstream_told():
    sums = sums_in(record())

    assert {name: sums.get(name, 0) for name in COUNTS} == {
        "requests": 1,
        "refusals": 0,
        "errors": 0,
        "client_closed": 0,
        "usage_reported": 1,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "reasoning_tokens": 2,
        "cost": 70,
        "unpriced": 0,
        "total_tokens": 15,
        "audio_seconds": 0,
        "streams": 0,
        "silent_streams": 0,
        "cost_assumed": 0,
        "would_refuse": 0,
    }


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/responses/resp_1/cancel", "responses"),
        ("/v1/models", "models"),
        ("/v1/realtime", "realtime"),
        ("/v1/chatter", "other"),
        ("/v1/", "other"),
        ("/v1", "other"),
        ("", "other"),
        (None, "other"),
    ],
)
def test_an_endpoint_belongs_to_a_class(endpoint, name):
    assert endpoint_class(endpoint) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": "text"},
        {"metadata": {"prompt_tokens": "12", "completion_tokens": -1, "model": 7, "prompt_tokens_details": []}},
        {"metadata": {"prompt_tokens": 2**200, "model": "m" * 1000}},
        {"token": 12, "project_id": ["x"]},
        {"token": "t\0", "project_id": "p" * 1000},
        {"duration_ms": "long", "ttft_ms": None, "status_code": "200"},
        {"outcome": "refused", "error": "no"},
        {"outcome": None, "endpoint": None, "error": {"code": 1}},
        {"timestamp": "2026-11-23T10:15:30"},
        {"timestamp": "yesterday, at tenZ"},
        {"timestamp": None},
    ],
)
def test_a_record_that_holds_nonsense_does_no_harm(rollup, log, database, changes):
    append(log, [record(**changes), record()])

    assert catch_up(rollup) == 2
    assert sums_of(database)["requests"] in (1, 2)


def test_every_view_has_the_same_sums(rollup, log, database):
    append(log, mixed_records(300))

    catch_up(rollup, max_records=70)

    assert [sums_of(database, view) for view in VIEWS] == [sums_of(database)] * len(VIEWS)
    assert sums_of(database)["requests"] == sum(counted_by_hand(log).values()) > 300


def test_the_tables_hold_what_the_file_holds(rollup, log, database):
    append(log, mixed_records(300))
    catch_up(rollup, max_records=70)
    append(log, mixed_records(50, seed=2))
    catch_up(rollup)

    assert requests_by_cell(database) == counted_by_hand(log)


def test_refusals_of_nobody_s_token_add_up_in_one_row(rollup, log, database):
    for _ in range(3):
        append(log, [refused("invalid_api_key", token=None, project_id=None)])
        catch_up(rollup)

    assert list(requests_by_cell(database).values()) == [3]


def made_up(project: str, numbers: range) -> list[dict]:
    return [record(project_id=project, metadata={"model": f"{project}-{number}"}) for number in numbers]


def models_in(engine: Engine) -> Counter:
    """Requests by model."""
    found: Counter = Counter()
    for cell, count in requests_by_cell(engine).items():
        found[cell[3]] += count
    return found


def test_a_project_whose_upstream_makes_up_models_has_its_share_of_the_names_alone(rollup, log, database):
    append(log, made_up("p", range(MAX_MODELS_OF_ONE_PROJECT + 30)) + made_up("q", range(1)))

    catch_up(rollup)

    by_model = models_in(database)
    assert (len(by_model), by_model[OTHER_MODELS], by_model["q-0"]) == (MAX_MODELS_OF_ONE_PROJECT + 2, 30, 1)


def test_all_projects_together_have_so_many_names_over_any_number_of_restarts(log, database):
    calls = [call for number in range(15) for call in made_up(f"p{number}", range(MAX_MODELS_OF_ONE_PROJECT))]
    append(log, calls)
    # Made before anything is counted, as workers are, of which one after the other has its turn.
    for rollup in [Rollup(log, UsageSums(database, "node-1")) for _ in range(6)]:
        rollup.step(max_records=MAX_MODELS_OF_ONE_PROJECT * 5 // 2)
        rollup.close()

    by_model = models_in(database)
    assert (len(by_model), by_model.total()) == (MAX_MODELS + 1, len(calls))


def test_a_known_name_costs_no_project_its_share(rollup, log, database):
    append(log, made_up("p", range(MAX_MODELS_OF_ONE_PROJECT)))
    append(
        log,
        [record(project_id="q", metadata={"model": "gpt-4o"}), record(project_id="p", metadata={"model": "gpt-4o"})],
    )

    catch_up(rollup)

    assert models_in(database)["gpt-4o"] == 2


def test_two_nodes_on_one_database_keep_a_position_each(database, tmp_path):
    for node in ("node-1", "node-2"):
        (tmp_path / node).mkdir()
        append(tmp_path / node / "api_logs.jsonl", mixed_records(40, seed=len(node)))
    rollups = [Rollup(tmp_path / node / "api_logs.jsonl", UsageSums(database, node)) for node in ("node-1", "node-2")]

    for _ in range(2):
        for rollup in rollups:
            catch_up(rollup, max_records=15)

    assert requests_by_cell(database) == counted_by_hand(*(rollup.reader.path for rollup in rollups))
    for rollup in rollups:
        rollup.close()


def test_a_node_keeps_its_name(tmp_path):
    assert node_id(tmp_path) == node_id(tmp_path)
    assert uuid.UUID(node_id(tmp_path))


def test_a_commit_that_fails_leaves_the_batch_for_the_next_time(rollup, log, database):
    append(log, mixed_records(30))

    def fail(connection):
        raise OperationalError("COMMIT", {}, Exception("the disk is on fire"))

    event.listen(database, "commit", fail)
    with pytest.raises(OperationalError):
        rollup.step()
    event.remove(database, "commit", fail)

    assert catch_up(rollup) == 30
    assert requests_by_cell(database) == counted_by_hand(log)


def test_a_commit_that_took_place_although_its_answer_was_lost_is_not_repeated(rollup, log, database, monkeypatch):
    append(log, mixed_records(30))
    save = UsageSums.save

    def save_and_fail(self, position):
        save(self, position)
        raise OperationalError("COMMIT", {}, Exception("the connection broke"))

    monkeypatch.setattr(UsageSums, "save", save_and_fail)
    with pytest.raises(OperationalError):
        rollup.step()
    monkeypatch.undo()

    assert catch_up(rollup) == 0
    assert requests_by_cell(database) == counted_by_hand(log)


def in_child(work) -> int:
    """The process id of a copy of this process that does `work` and nothing else."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    finally:
        os._exit(0)


def a_rollup_of_its_own(url: str, log: Path) -> Rollup:
    """With a connection that no other process has."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    if engine.dialect.name == "sqlite":
        _listen_on_sqlite(engine)
    return Rollup(log, UsageSums(engine, "node-1"))


@pytest.mark.parametrize("point", ["before the sums", "between sums and position", "after the commit"])
def test_a_process_killed_at_the_worst_moment_counts_nothing_twice(
    rollup, log, database, database_url, monkeypatch, point
):
    append(log, mixed_records(100))
    database.dispose()  # a child must not inherit a connection

    def die(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        where = {
            "before the sums": (UsageSums, "add"),
            "between sums and position": (UsageSums, "_save_position"),
            "after the commit": (LogReader, "advance"),
        }
        monkeypatch.setattr(*where[point], die)
        a_rollup_of_its_own(database_url, log).step(max_records=40)

    _, status = os.waitpid(in_child(work), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL

    assert catch_up(rollup) == (60 if point == "after the commit" else 100)
    assert requests_by_cell(database) == counted_by_hand(log)


def test_a_process_killed_again_and_again_counts_every_record_once(rollup, log, database, database_url):
    draw = random.Random(7)
    database.dispose()  # a child must not inherit a connection

    def work():
        mine = a_rollup_of_its_own(database_url, log)
        while True:
            mine.step(max_records=draw.randrange(1, 20))

    for _ in range(20):
        append(log, mixed_records(60, seed=draw.randrange(1000)))
        pid = in_child(work)
        # The one place where a clock must be waited for: what is killed shall be anywhere in its work.
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    catch_up(rollup)
    assert requests_by_cell(database) == counted_by_hand(log)
    assert [sums_of(database, view)["requests"] for view in VIEWS] == [sum(counted_by_hand(log).values())] * len(
        VIEWS
    )


def test_another_process_takes_over_when_the_one_that_adds_is_killed(rollup, log, database, database_url):
    append(log, mixed_records(10))
    database.dispose()  # a child must not inherit a connection
    told, tell = os.pipe()

    def work():
        mine = a_rollup_of_its_own(database_url, log)
        mine.step(max_records=4)
        os.write(tell, b"!")
        signal.pause()

    pid = in_child(work)
    os.read(told, 1)
    with pytest.raises(ReaderBusy):
        rollup.step()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for end in (told, tell):
        os.close(end)

    assert catch_up(rollup) == 6
    assert requests_by_cell(database) == counted_by_hand(log)
