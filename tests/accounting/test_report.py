"""Reports: the same numbers by whichever way they are asked for, rounded to whole hours, in UTC."""

import random
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from accounting.fold import fold, in_every_view
from accounting.report import (
    EVERYBODY,
    Filters,
    Percentiles,
    refusals_by_reason,
    series,
    top,
    totals,
    whole_hours,
    would_refuse_by_reason,
)
from accounting.rollup import UsageSums
from models import Project, Token
from tests.records import PROJECT, TOKEN, read, record, refused

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
END = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture
def add(database: Engine):
    """Adds records to the sums."""
    sums = UsageSums(database, "node-1")

    def add_records(*records) -> None:
        with sums.transaction() as connection:
            sums.add(connection, in_every_view(fold(map(read, records)).rows))

    return add_records


def at(moment: str, **changes):
    return record(timestamp=f"{moment}Z", **changes)


def test_nothing_is_nothing(session, database):
    usage = totals(session, EVERYBODY, BEGIN, END)

    assert (usage.requests, usage.total_tokens, usage.duration_ms) == (0, 0, Percentiles(None, None))
    assert (
        top(session, "token", EVERYBODY, BEGIN, END, limit=3),
        refusals_by_reason(session, EVERYBODY, BEGIN, END),
    ) == ([], {})


def test_a_total_adds_everything_up(session, add):
    add(record(), record(status_code=500), record(outcome="client_closed", status_code=499), refused())

    usage = totals(session, EVERYBODY, BEGIN, END)

    assert (usage.requests, usage.refusals, usage.errors, usage.client_closed) == (4, 1, 1, 1)
    assert (usage.usage_reported, usage.prompt_tokens, usage.cached_tokens) == (3, 30, 12)
    assert (usage.completion_tokens, usage.reasoning_tokens, usage.total_tokens) == (15, 6, 45)


def test_a_span_holds_its_first_hour_and_not_the_one_after_its_last(session, add):
    add(at("2026-11-23T09:59:59.999"), at("2026-11-23T10:00:00.000"), at("2026-11-23T11:59:59.999"))
    add(at("2026-11-23T12:00:00.000"))

    ten, twelve = datetime(2026, 11, 23, 10, tzinfo=UTC), datetime(2026, 11, 23, 12, tzinfo=UTC)

    assert totals(session, EVERYBODY, ten, twelve).requests == 2


def test_a_span_is_widened_to_whole_hours():
    assert whole_hours(datetime(2026, 11, 23, 10, 59, tzinfo=UTC), datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)) == (
        datetime(2026, 11, 23, 10, tzinfo=UTC),
        datetime(2026, 11, 23, 13, tzinfo=UTC),
    )


def test_a_series_has_every_step_with_zeros_where_nothing_was(session, add):
    add(at("2026-11-20T00:10:00.000"), at("2026-11-20T02:10:00.000"), at("2026-11-20T02:20:00.000"))

    by_hour = series(session, EVERYBODY, BEGIN, BEGIN + timedelta(hours=4), step="hour")
    by_day = series(session, EVERYBODY, BEGIN, BEGIN + timedelta(days=2), step="day")

    assert [period.usage.requests for period in by_hour] == [1, 0, 2, 0]
    assert by_hour[2].start == datetime(2026, 11, 20, 2, tzinfo=UTC)
    assert [(period.start.day, period.usage.requests) for period in by_day] == [(20, 3), (21, 0)]


def test_a_day_that_the_span_cuts_counts_only_what_is_in_the_span(session, add):
    add(*(at(f"2026-11-{day}T{hour:02}:00:00.000") for day in (20, 21, 22) for hour in range(24)))

    begin, end = datetime(2026, 11, 20, 5, tzinfo=UTC), datetime(2026, 11, 22, 3, tzinfo=UTC)

    assert [period.usage.requests for period in series(session, EVERYBODY, begin, end, step="day")] == [19, 24, 3]


def test_the_busiest_come_first_and_bear_their_names(session, add):
    quiet, busy, nameless = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
    fields = {"openai_api_key": "sealed", "key_hint": "", "created_at": BEGIN}
    session.add(Project(id=busy, name="The busy one", **fields))
    session.add(
        Token(token_hash="0" * 64, id=TOKEN, project_id=busy, label="Ann's", expires_at=END, created_at=BEGIN)
    )
    session.commit()
    add(*(record(project_id=project) for project in [busy] * 3 + [nameless] * 2 + [quiet]))

    projects = top(session, "project", EVERYBODY, BEGIN, END, limit=2)
    tokens = top(session, "token", EVERYBODY, BEGIN, END, limit=2)
    models = top(session, "model", EVERYBODY, BEGIN, END, limit=2)

    assert [(each.key, each.name, each.usage.requests) for each in projects] == [
        (busy, "The busy one", 3),
        (nameless, None, 2),
    ]
    assert [(each.key, each.name, each.usage.requests) for each in tokens] == [(TOKEN, "Ann's", 6)]
    assert [(each.key, each.name, each.usage.requests) for each in models] == [("gpt-4o", "gpt-4o", 6)]


def test_refusals_have_reasons(session, add):
    add(refused(), refused(), refused("token_expired"), refused(None), record())

    assert refusals_by_reason(session, EVERYBODY, BEGIN, END) == {
        "rate_limit_exceeded": 2,
        "none": 1,
        "token_expired": 1,
    }


def test_what_rules_would_refuse_has_reasons_apart_from_refusals(session, add):
    add(record(would_refuse="model_not_allowed"), record(would_refuse="model_not_allowed"), record())
    add(record(would_refuse="ambiguous_body", token="another"), refused("token_expired"))

    assert would_refuse_by_reason(session, EVERYBODY, BEGIN, END) == {"model_not_allowed": 2, "ambiguous_body": 1}
    assert would_refuse_by_reason(session, Filters(token_id=TOKEN), BEGIN, END) == {"model_not_allowed": 2}
    assert refusals_by_reason(session, EVERYBODY, BEGIN, END) == {"token_expired": 1}


@pytest.mark.parametrize("filters", [Filters(PROJECT), Filters(token_id=TOKEN), Filters(model="gpt-4o")])
def test_a_filter_leaves_the_others_out(session, add, filters):
    other = {"project_id": "other", "token": "another", "metadata": {"model": "o4-mini"}}
    add(record(), record(), record(**other))

    assert totals(session, filters, BEGIN, END).requests == 2
    assert sum(period.usage.requests for period in series(session, filters, BEGIN, END, step="hour")) == 2
    assert [consumer.usage.requests for consumer in top(session, "token", filters, BEGIN, END, limit=9)] == [2]


def test_every_way_of_asking_gives_the_same_sums(session, add):
    draw = random.Random(5)
    calls = [
        at(
            f"2026-11-{draw.randrange(20, 24)}T{draw.randrange(24):02}:30:00.000",
            project_id=draw.choice(("a", "b", "c")),
            token=draw.choice(("t", "u", "v")),
            metadata={"model": draw.choice(("m", "n")), "prompt_tokens": 1},
        )
        for _ in range(400)
    ]
    add(*calls)
    begin, end = datetime(2026, 11, 20, 7, tzinfo=UTC), datetime(2026, 11, 23, 19, tzinfo=UTC)
    span = (f"{begin:%Y-%m-%dT%H}", f"{end:%Y-%m-%dT%H}")

    for filters in (EVERYBODY, Filters("a"), Filters(token_id="t"), Filters(model="m"), Filters("a", "t", "m")):
        wanted = {"project_id": filters.project_id, "token": filters.token_id}
        expected = sum(
            span[0] <= call["timestamp"] < span[1]
            and all(call[name] == value for name, value in wanted.items() if value)
            and filters.model in (None, call["metadata"]["model"])
            for call in calls
        )
        assert totals(session, filters, begin, end).requests == expected
        for step in ("hour", "day"):
            assert (
                sum(period.usage.requests for period in series(session, filters, begin, end, step=step)) == expected
            )
        for by in ("project", "token", "model"):
            assert sum(each.usage.requests for each in top(session, by, filters, begin, end, limit=9)) == expected


@pytest.mark.parametrize(
    ("durations", "p50", "p95"),
    [
        ([150.0] * 10, 150.0, 195.0),
        ([10.0] * 50 + [300.0] * 50, 20.0, 470.0),
        ([700_000.0], 600_000.0, 600_000.0),
        ([0.0], 10.0, 19.0),
    ],
)
def test_percentiles_lie_within_the_bucket(session, add, durations, p50, p95):
    add(*(record(duration_ms=each) for each in durations))

    assert totals(session, EVERYBODY, BEGIN, END).duration_ms == Percentiles(p50, p95)


def test_how_quickly_the_proxy_refuses_is_not_how_quickly_it_forwards(session, add):
    add(record(duration_ms=700.0), *(refused(duration_ms=1.0) for _ in range(99)))

    assert totals(session, EVERYBODY, BEGIN, END).duration_ms.p50 == 750.0
