"""An object's usage counts once: over batches, nodes, deadlocks and recounts."""

import threading

import pytest
from sqlalchemy import Engine, func, select

from accounting.recount import recount
from accounting.rollup import Rollup, UsageSums
from models import seen_objects
from tests.accounting.test_rollup import catch_up, sums_of
from tests.records import append, record


def sight(name: str = "batch_1", source: str = "stored", **changes) -> dict:
    """A record of a call that saw an object with 15 tokens."""
    return record(
        **{"method": "GET", "endpoint": f"/v1/batches/{name}", "usage_source": source, "usage_of": name} | changes
    )


def made(name: str = "batch_1", **changes) -> dict:
    return sight(name, "reported", method="POST", **changes)


@pytest.fixture
def node(database, tmp_path):
    """Opens rollups of nodes, each with a log of its own."""
    opened = []

    def open_node(name: str) -> Rollup:
        (tmp_path / name).mkdir(exist_ok=True)
        opened.append(Rollup(tmp_path / name / "api_logs.jsonl", UsageSums(database, name)))
        return opened[-1]

    yield open_node
    for each in opened:
        each.close()


def counted(database: Engine, *nodes: Rollup, **options) -> tuple[int, int]:
    """Requests and tokens, once the nodes have added up."""
    for each in nodes:
        catch_up(each, **options)
    sums = sums_of(database)
    return sums["requests"], sums["total_tokens"]


@pytest.mark.parametrize("batch", [1, 2, 250])
@pytest.mark.parametrize(
    ("calls", "tokens"),
    [
        ([sight(), sight(), sight()], 15),
        ([made(), sight(), sight()], 15),
        ([sight(), made(), sight()], 15),
        ([made(), made(), sight()], 30),
        ([sight(), sight("batch_2"), sight(project_id="another")], 45),
    ],
)
def test_one_record_of_an_object_counts(database, node, batch, calls, tokens):
    one = node("node-1")
    append(one.reader.path, calls)

    assert counted(database, one, max_records=batch) == (3, tokens)


def test_two_nodes_count_an_object_once(database, node):
    nodes = node("node-1"), node("node-2")
    for each in nodes:
        append(each.reader.path, [sight()])

    assert counted(database, *nodes) == (2, 15)


def test_two_nodes_that_see_the_same_objects_at_once_in_any_order_count_each_once(database, node):
    names = [f"batch_{number}" for number in range(200)]
    nodes = node("node-1"), node("node-2")
    append(nodes[0].reader.path, map(sight, names))
    append(nodes[1].reader.path, map(sight, reversed(names)))

    errors: list[BaseException] = []
    begin = threading.Barrier(2)

    def work(mine: Rollup) -> None:
        begin.wait()
        try:
            catch_up(mine, max_records=40)
        except BaseException as exc:
            errors.append(exc)

    workers = [threading.Thread(target=work, args=(each,)) for each in nodes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert errors == []
    assert counted(database, *nodes) == (400, 200 * 15)


def test_what_could_not_be_saved_is_not_taken_for_seen(database, node, monkeypatch):
    one = node("node-1")
    append(one.reader.path, [sight()])

    def fail(*_):
        raise OSError("the disk is on fire")

    with monkeypatch.context() as broken:
        broken.setattr(UsageSums, "_save_position", fail)
        with pytest.raises(OSError, match="on fire"):
            one.step()

    assert counted(database, one) == (1, 15)


def test_a_recount_gives_an_object_to_the_record_that_had_it(database, node):
    nodes = node("node-1"), node("node-2")
    for each in nodes:
        append(each.reader.path, [sight(), sight(), made("resp_1"), sight("resp_1")])
    before = counted(database, *nodes)

    for each in nodes:
        recount(each.reader.path, database, each.sums)

    assert counted(database, *nodes) == before == (8, 45)


def test_calls_that_keep_no_object_in_mind_write_nothing(database, node):
    one = node("node-1")
    append(one.reader.path, [record(), record(usage_source="stored", method="GET")])

    assert counted(database, one) == (2, 15)
    with database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(seen_objects)) == 0


@pytest.mark.parametrize(
    ("method", "endpoint", "status_code", "tokens"),
    [
        ("POST", "/v1/responses", 200, 15),
        ("POST", "/v1/chat/completions", 200, 15),
        ("POST", "/v1/threads/t/runs", 200, 15),
        ("GET", "/v1/realtime", 101, 15),
        ("GET", "/v1/responses/resp_1", 200, 0),
        ("GET", "/v1/batches/batch_1", 200, 0),
        ("POST", "/v1/chat/completions/chatcmpl-1", 200, 0),
        ("POST", "/v1/chat/completions/chatcmpl%2D1/", 200, 0),
        ("POST", "/v1/responses/resp_1/cancel", 200, 0),
        ("POST", "/v1/threads/t/runs/run_1", 200, 0),
    ],
)
def test_of_older_records_those_that_read_something_are_known_by_their_path(
    database, node, method, endpoint, status_code, tokens
):
    one = node("node-1")
    append(one.reader.path, [record(method=method, endpoint=endpoint, status_code=status_code)])

    assert counted(database, one) == (1, tokens)
