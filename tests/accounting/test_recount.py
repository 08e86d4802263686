"""`recount`: what the files say goes into the sums, and what no file says any more stays there."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, func, select, update

from accounting import recount as recount_module
from accounting.names import MAX_MODELS_OF_ONE_PROJECT
from accounting.recount import recount
from accounting.rollup import Rollup, UsageSums
from accounting.views import CALLS, RECOUNT, VIEWS
from models import usage_keys, usage_sums
from tests.accounting.test_rollup import (
    catch_up,
    counted_by_hand,
    made_up,
    mixed_records,
    models_in,
    requests_by_cell,
    sums_of,
)
from tests.records import append, older, record


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api_logs.jsonl"


@pytest.fixture
def rollup(database: Engine, log: Path):
    made = Rollup(log, UsageSums(database, "node-1"))
    yield made
    made.close()


@pytest.fixture
def run(database, rollup, log):
    """Catches up and recounts, as the command does."""

    def catch_up_and_recount(**options):
        catch_up(rollup)
        return recount(log, database, rollup.sums, **options)

    return catch_up_and_recount


def spoil(engine: Engine, view=CALLS, by: int = -1) -> None:
    """Change the requests of every row of a view; the other views with it, as a double count would."""
    with engine.begin() as connection:
        connection.execute(update(usage_sums).values(requests=usage_sums.c.requests + by))


def all_rows(engine: Engine) -> dict:
    statement = select(usage_sums).where(usage_sums.c.requests != 0)
    with engine.connect() as connection:
        return {tuple(row[:3]): tuple(row[3:]) for row in connection.execute(statement)}


def test_a_recount_of_right_sums_changes_nothing(database, log, run, rollup):
    append(log, mixed_records(200))
    catch_up(rollup)
    before = all_rows(database)

    done = run()

    assert all_rows(database) == before
    assert done.kept == [] and done.records == sum(counted_by_hand(log).values()) > 200


def test_hours_that_lack_records_are_put_right(database, log, run, rollup):
    append(log, mixed_records(100))
    catch_up(rollup)
    with database.begin() as connection:
        connection.execute(usage_sums.delete())

    run()

    assert requests_by_cell(database) == counted_by_hand(log)
    assert [sums_of(database, view) for view in VIEWS] == [sums_of(database)] * len(VIEWS)


def test_records_older_than_prices_stay_without_a_cost_and_are_told_of(database, log, run, rollup):
    append(log, [older(), record(), older(), older(usage_source="absent", metadata=None)])
    catch_up(rollup)
    # As the older version left it.
    with database.begin() as connection:
        connection.execute(update(usage_sums).values(cost=0, unpriced=0))

    done = run()

    with database.connect() as connection:
        sums = select(func.sum(usage_sums.c.cost), func.sum(usage_sums.c.unpriced)).where(
            usage_sums.c.view == CALLS.id
        )
        assert tuple(connection.execute(sums).one()) == (70, 2)
    assert (done.records, done.before_prices) == (4, 2)


def test_hours_whose_files_are_gone_keep_their_sums(database, log, run, rollup):
    early, late = "2026-11-20T05:30:00.000Z", "2026-11-23T05:30:00.000Z"
    append(log, [record(timestamp=early) for _ in range(3)])
    catch_up(rollup)
    log.rename(log.with_name("api_logs.jsonl.1"))
    append(log, [record(timestamp=early), record(timestamp=late), record(timestamp=late)])
    catch_up(rollup)
    log.with_name("api_logs.jsonl.1").unlink()

    done = run()

    assert sums_of(database)["requests"] == 6
    assert (done.replaced, done.kept) == (
        [datetime(2026, 11, 23, 5, tzinfo=UTC)],
        [datetime(2026, 11, 20, 5, tzinfo=UTC)],
    )


def test_sums_that_are_too_large_go_down_where_the_operator_says_so(database, log, run, rollup):
    append(log, mixed_records(100))
    catch_up(rollup)
    spoil(database, by=5)

    assert len(run().kept) > 0
    done = run(replace_from=datetime(2026, 11, 1, tzinfo=UTC))

    assert done.kept == []
    assert requests_by_cell(database) == counted_by_hand(log)


def test_records_that_arrive_during_a_recount_count_once(database, log, run, rollup, monkeypatch):
    append(log, mixed_records(100))
    catch_up(rollup)
    clear = recount_module._Recounting.clear
    monkeypatch.setattr(
        recount_module._Recounting,
        "clear",
        lambda self: (append(log, mixed_records(10, seed=3)), clear(self))[1],
    )

    run()
    monkeypatch.undo()
    catch_up(rollup)

    assert requests_by_cell(database) == counted_by_hand(log)


def test_a_recount_that_was_killed_leaves_nothing_that_a_second_one_does_not_put_right(
    database, log, run, rollup, monkeypatch
):
    append(log, mixed_records(100))
    catch_up(rollup)
    spoil(database)
    settle = recount_module._Recounting.settle
    left = iter(range(5))

    def settle_five(self, hour):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return settle(self, hour)

    monkeypatch.setattr(recount_module._Recounting, "settle", settle_five)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.undo()
    run()

    assert requests_by_cell(database) == counted_by_hand(log)
    with database.connect() as connection:
        gathered = connection.scalars(select(usage_sums.c.key_id).where(usage_sums.c.view == RECOUNT.id)).all()
    assert gathered == []


def test_another_node_s_sums_are_left_alone(database, log, run, rollup, tmp_path):
    other_log = tmp_path / "other" / "api_logs.jsonl"
    other_log.parent.mkdir()
    append(other_log, mixed_records(30, seed=4))
    other = Rollup(other_log, UsageSums(database, "node-2"))
    catch_up(other)
    other.close()
    append(log, mixed_records(30))
    catch_up(rollup)
    with database.begin() as connection:
        mine = select(usage_keys.c.id).where(usage_keys.c.node_id == "node-1")
        connection.execute(usage_sums.delete().where(usage_sums.c.key_id.in_(mine)))

    run()

    assert requests_by_cell(database) == counted_by_hand(log, other_log)


def test_a_recount_of_hours_without_sums_adds_no_more_names_than_counting_does(database, log, rollup, monkeypatch):
    # Many portions, each of which asks anew what the tables know.
    monkeypatch.setattr(recount_module, "_CHUNK_BYTES", 16 << 10)
    for first in range(0, 400, 50):
        append(log, made_up("p", range(first, first + 50)))
    catch_up(rollup)
    with database.begin() as connection:
        connection.execute(delete(usage_sums))
        connection.execute(delete(usage_keys))

    recount(log, database, UsageSums(database, "node-1"))

    assert len(models_in(database)) == MAX_MODELS_OF_ONE_PROJECT + 1
