"""The index of requests: which records it leads to, by time and by duration."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accounting import index, names
from accounting.rollup import Rollup, UsageSums
from accounting.views import hour_of
from llmproxy.api_log.latest import Filter
from llmproxy.errors import Outcome
from models import call_index, usage_sums
from tests.accounting.test_rollup import catch_up
from tests.records import PROJECT, append, record, refused

NODE = "node-1"
FAILED_INSIDE = {"failed_inside": True, "error": {"code": "server_error", "type": None}}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "api_logs.jsonl"


@pytest.fixture
def indexed(database: Engine, log: Path):
    """Adds records to the log, and has them indexed."""

    def add(*records: dict[str, Any]) -> None:
        append(log, records)
        rollup = Rollup(log, UsageSums(database, NODE))
        catch_up(rollup)
        rollup.close()

    return add


@pytest.fixture
def browse(session: Session, log: Path):
    """The ids of the records that pass a filter, and where to go on."""

    def ask(*, slowest: bool = False, limit: int = 50, after: str | None = None, node: str = NODE, **wanted: Any):
        found = index.browse(session, log, node, Filter(**wanted), slowest=slowest, limit=limit, after=after)
        return [each.request_id for _, each in found.records], found.next

    return ask


def at(minute: int, **changes: Any) -> dict[str, Any]:
    return record(timestamp=f"2026-11-23T10:{minute:02}:00.000Z", **changes)


def moment(minute: int) -> datetime:
    return datetime(2026, 11, 23, 10, minute, tzinfo=UTC)


def test_records_of_a_range_come_the_latest_first(indexed, browse):
    indexed(at(2, request_id="two"), at(1, request_id="one"), at(3, request_id="three"), at(4, request_id="four"))

    assert browse(begin=moment(2), end=moment(4)) == (["three", "two"], None)


def test_the_slowest_come_first_page_after_page(indexed, browse):
    indexed(*(at(number, request_id=str(number), duration_ms=number % 4 * 1000) for number in range(8)))

    pages, after = [], None
    while True:
        ids, after = browse(slowest=True, limit=3, after=after)
        pages.append(ids)
        if after is None:
            break

    assert pages == [["7", "3", "6"], ["2", "5", "1"], ["4", "0"]]


CALLS = {
    "well": record(),
    "refused": refused(),
    "expired": refused("token_expired", status_code=401),
    "turned down": record(status_code=404, upstream_status=404, metadata=None, requested_model="gpt-9"),
    "timed out": record(status_code=504, outcome="upstream_timeout", upstream_status=None),
    "hung up": record(status_code=499, outcome="client_closed"),
    "inside": record(**FAILED_INSIDE),
    "elsewhere": record(project_id="another", token="another"),
    "mini": record(metadata={"model": "gpt-4o-mini"}, client_address="192.0.2.7"),
    "nobody's": refused("invalid_api_key", status_code=401, token=None, project_id=None),
}


def test_the_slowest_of_all_are_found_whatever_the_newest_part_holds(indexed, browse, monkeypatch):
    monkeypatch.setattr(index, "PART", 3)
    took = (70, 10, 90, 30, 20, 60)
    indexed(*(at(number, request_id=str(ms), duration_ms=float(ms)) for number, ms in enumerate(took)))

    ids, after = browse(slowest=True, limit=2)
    assert ids == ["90", "70"]
    assert browse(slowest=True, limit=2, after=after)[0] == ["60", "30"]
    assert browse(slowest=True, limit=9)[0] == ["90", "70", "60", "30", "20", "10"]
    assert browse(slowest=True, limit=2, begin=moment(1), end=moment(5))[0] == ["90", "30"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"failed": True}, {"refused", "expired", "nobody's", "turned down", "timed out", "inside"}),
        ({"status": "4"}, {"refused", "expired", "nobody's", "turned down", "hung up"}),
        ({"status": "404"}, {"turned down"}),
        ({"outcome": "refused"}, {"refused", "expired", "nobody's"}),
        ({"outcome": "refused", "code": "token_expired"}, {"expired"}),
        ({"outcome": "complete", "project_id": PROJECT}, {"well", "turned down", "inside", "mini"}),
        ({"project_id": "another"}, {"elsewhere"}),
        ({"token_id": "another"}, {"elsewhere"}),
        ({"token_id": "nobody"}, set()),
        ({"project_id": ""}, {"nobody's"}),
        ({"token_id": ""}, {"nobody's"}),
        ({"billed_model": "gpt-4o"}, {"well", "timed out", "hung up", "inside", "elsewhere"}),
        ({"billed_model": ""}, {"refused", "expired", "nobody's", "turned down"}),
        ({"model": "gpt-4o-m"}, {"mini"}),
        ({"model": "gpt-9"}, {"turned down"}),
        ({"client_address": "192.0.2.7"}, {"mini"}),
    ],
)
def test_records_are_found_by_what_they_say(indexed, browse, wanted, found):
    indexed(*(each | {"request_id": name} for name, each in CALLS.items()))

    assert set(browse(**wanted)[0]) == found


def test_what_is_counted_under_other_models_is_found_there(indexed, browse, monkeypatch):
    monkeypatch.setattr(names, "MAX_MODELS_OF_ONE_PROJECT", 1)
    indexed(at(1, request_id="first"), at(2, request_id="one too many", metadata={"model": "gpt-4o-mini"}))

    assert browse(billed_model=names.OTHER_MODELS) == (["one too many"], None)


@pytest.fixture
def rare(indexed, database: Engine) -> list[str]:
    """Ids of the calls of a rare model, the latest first, among an hourly one of another."""

    def hourly(hour: int, **changes: Any) -> dict[str, Any]:
        return record(timestamp=f"2026-11-{20 + hour // 24}T{hour % 24:02}:30:00.000Z", **changes)

    o4 = {"metadata": {"model": "o4"}, "duration_ms": 5.0}
    indexed(
        *(hourly(hour) for hour in range(48)),
        *(hourly(hour, request_id=f"rare {hour}", **o4) for hour in (1, 20, 21, 47)),
    )
    return ["rare 47", "rare 21", "rare 20", "rare 1"]


@pytest.mark.parametrize("most_hours", [100, 3], ids=["in its hours", "on the way back"])
def test_a_rare_model_is_found_page_after_page(rare, browse, monkeypatch, most_hours: int):
    monkeypatch.setattr(index, "MOST_HOURS", most_hours)

    first, after = browse(billed_model="o4", limit=2)
    assert (first, browse(billed_model="o4", limit=9, after=after)) == (rare[:2], (rare[2:], None))
    late = {"begin": datetime(2026, 11, 20, 20, 45, tzinfo=UTC), "end": datetime(2026, 11, 21, 23, 15, tzinfo=UTC)}
    assert browse(billed_model="o4", **late) == (["rare 21"], None)
    assert set(browse(billed_model="o4", slowest=True)[0]) == set(rare)
    assert browse(billed_model="o4", status="404") == browse(billed_model="of nobody") == ([], None)


def test_a_rare_model_is_found_where_its_sums_are_gone_before_the_index(rare, browse, database: Engine):
    with database.begin() as connection:
        connection.execute(usage_sums.delete().where(usage_sums.c.hour < hour_of(datetime(2026, 11, 21, tzinfo=UTC))))

    assert browse(billed_model="o4") == (rare, None)


def test_every_outcome_has_its_number():
    assert set(get_args(Outcome)) < set(index.ENDINGS)


def test_a_node_is_shown_what_stands_in_its_own_log(indexed, browse):
    indexed(record())

    assert browse(node="another node") == ([], None)


def test_a_record_that_is_counted_again_is_indexed_once(database: Engine, indexed, log: Path):
    records = [record() for _ in range(5)]
    indexed(*records)
    # Whoever edits a log has it read again.
    text = log.read_bytes()
    log.write_bytes(text[:-2] + b" }\n")
    indexed(record())

    with database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(call_index)) == 6


def test_what_stands_in_files_that_are_gone_is_counted_and_not_shown(session, indexed, log: Path):
    indexed(record(), record())
    log.unlink()

    found = index.browse(session, log, NODE, Filter(), slowest=False, limit=9, after=None)
    assert (found.records, found.next, found.gone) == ([], None, 2)


def test_a_search_that_the_index_cannot_answer_ends_and_tells_where_to_go_on(indexed, browse, monkeypatch):
    monkeypatch.setattr(index, "MOST_READ", 4)
    rare = at(0, request_id="rare", client_address="192.0.2.7")
    indexed(rare, *(at(number) for number in range(1, 9)))

    seen, after, steps = [], None, 0
    while after or not steps:
        ids, after = browse(limit=2, after=after, client_address="192.0.2.7")
        seen, steps = seen + ids, steps + 1

    assert seen == ["rare"] and steps == 3


def test_the_slowest_of_a_model_are_looked_for_among_few_calls_at_a_time(indexed, browse, monkeypatch):
    monkeypatch.setattr(index, "MOST_SLOWEST", 4)
    # Calls that failed may have asked for any model: which one, their records alone tell.
    others = [at(number, request_id=str(number), metadata=None, duration_ms=900.0) for number in range(1, 9)]
    indexed(at(0, request_id="rare", metadata={"model": "rare-1"}, duration_ms=5.0), *others)

    seen, after, steps = [], None, 0
    while after or not steps:
        ids, after = browse(slowest=True, limit=2, after=after, model="rare")
        seen, steps = seen + ids, steps + 1

    assert seen == ["rare"] and steps == 3
