"""GET /manage/usage: who may ask, what may be asked, and what an answer looks like."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
from flask import Flask

from accounting.rollup import Rollup, UsageSums
from models import db
from tests.records import PROJECT, TOKEN, append, older, record, refused

SPAN = "from=2026-11-23T00:00:00Z&to=2026-11-24T00:00:00Z"


@pytest.fixture
def add(app: Flask, tmp_path: Path):
    """Adds records to the sums, by way of a log."""

    def add_records(*records) -> None:
        append(tmp_path / "api_logs.jsonl", records)
        with app.app_context():
            rollup = Rollup(tmp_path / "api_logs.jsonl", UsageSums(db.engine, "node-1"))
            rollup.step()
            rollup.close()

    return add_records


def test_only_the_management_token_opens_it(client):
    response = client.get("/manage/usage", headers={"Authorization": "Bearer another-token"})

    assert response.status_code == 401


def test_a_project_s_usage(operator, add):
    add(record(), record(), refused(project_id=None, token=None))

    response = operator.call("GET", f"/usage?group_by=project&{SPAN}")

    sums = {
        "requests": 2,
        "refusals": 0,
        "errors": 0,
        "client_closed": 0,
        "usage_reported": 2,
        "prompt_tokens": 20,
        "cached_tokens": 8,
        "completion_tokens": 10,
        "reasoning_tokens": 4,
        "total_tokens": 30,
        "cost_usd": 0.00014,
        "cost_assumed_usd": 0,
        "would_refuse": 0,
        "unpriced": 0,
        "audio_seconds": 0,
        "streams": 0,
        "silent_streams": 0,
        "duration_ms": {"p50": 750.0, "p95": 975.0},
        "ttft_ms": {"p50": 150.0, "p95": 195.0},
    }
    assert response.status_code == 200
    assert response.json["data"][0] == {"project_id": PROJECT, "name": None, **sums}
    assert response.json["data"][1]["project_id"] is None
    assert response.json["total"] == sums | {"requests": 3, "refusals": 1}
    assert (response.json["from"], response.json["to"]) == ("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z")
    assert response.json["has_more"] is False


def priced(cost, source="reported", **changes):
    return record(cost_usd=cost, cost_source=source, **changes)


def test_costs_are_added_up_to_the_micro_dollar(operator, add):
    add(priced(0.000001), priced(1.382505), priced(0.1), priced(0.2), priced(0, "none"), priced(None, "absent"))

    total = operator.call("GET", f"/usage?group_by=model&{SPAN}").json["total"]

    assert (total["cost_usd"], total["unpriced"], total["requests"]) == (1.682506, 0, 6)


def test_calls_without_a_price_are_told_apart_from_those_that_cost_nothing(operator, add):
    add(priced(None, "unpriced"), priced(0, "none"), priced(None, None), older(), older(usage_source="absent"))

    total = operator.call("GET", f"/usage?{SPAN}").json["total"]

    # Of those before there were prices, the one that used something.
    assert (total["cost_usd"], total["unpriced"]) == (0, 2)


def test_a_call_counts_under_the_model_that_it_asked_for_where_the_response_named_none(operator, add):
    spoken = {"metadata": {"characters": 3}, "usage_source": "absent", "requested_model": "tts-1"}
    add(priced(0.015, "computed", **spoken), priced(0, "none", **spoken | {"upstream_status": 404}))

    rows = operator.call("GET", f"/usage?group_by=model&{SPAN}").json["data"]

    assert [(row["model"], row["cost_usd"]) for row in rows] == [(None, 0), ("tts-1", 0.015)]


def csv_of(operator, query, **headers):
    response = operator.call("GET", f"/usage?{query}&{SPAN}", headers={"Accept": "text/csv"} | headers)
    assert response.content_type == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text)))


def test_usage_comes_as_csv_for_whoever_accepts_that(operator, add):
    add(priced(0.000001), priced(1.25, metadata={"model": "=HYPERLINK(1)", "prompt_tokens": 5}))

    rows = csv_of(operator, "group_by=model")

    assert [(row["model"], row["cost_usd"], row["prompt_tokens"]) for row in rows] == [
        ("'=HYPERLINK(1)", "1.25", "5"),
        ("gpt-4o", "0.000001", "10"),
    ]
    assert {"requests", "unpriced", "duration_ms_p50", "ttft_ms_p95"} < set(rows[0])


def test_hours_come_as_csv_too(operator, add):
    add(priced(0.5))

    rows = csv_of(operator, "group_by=hour")

    assert [(row["hour"], row["cost_usd"]) for row in rows if row["requests"] != "0"] == [
        ("2026-11-23T10:00:00Z", "0.5")
    ]


def test_a_table_without_rows_has_its_head(operator):
    response = operator.call("GET", f"/usage?group_by=project&{SPAN}", headers={"Accept": "text/csv"})

    assert response.text.startswith("project_id,name,requests,")
    assert response.text.count("\n") == 1


@pytest.mark.parametrize("accepts", ["*/*", "application/json", "text/html", "text/csv;q=0.5, application/json", ""])
def test_whoever_does_not_ask_for_csv_gets_json(operator, accepts):
    assert operator.call("GET", "/usage", headers={"Accept": accepts}).json["group_by"] == "hour"


@pytest.mark.parametrize(
    ("group", "first"),
    [
        ("hour", {"hour": "2026-11-23T00:00:00Z"}),
        ("day", {"day": "2026-11-23T00:00:00Z"}),
        ("token", {"token_id": TOKEN, "name": None}),
        ("model", {"model": "gpt-4o"}),
    ],
)
def test_every_group_names_itself(operator, add, group, first):
    add(record())

    row = operator.call("GET", f"/usage?group_by={group}&{SPAN}").json["data"][0]

    assert {name: row[name] for name in first} == first


def test_without_parameters_it_tells_the_last_day_by_hour(operator, add):
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    add(record(timestamp=f"{hour_ago:%Y-%m-%dT%H:%M:%S.000Z}"))

    answer = operator.call("GET", "/usage").json

    assert (len(answer["data"]), answer["total"]["requests"]) == (25, 1)


@pytest.mark.parametrize(
    ("filters", "requests"),
    [
        (f"project_id={PROJECT}", 1),
        (f"token_id={TOKEN}", 1),
        ("model=gpt-4o", 1),
        ("project_id=nobody", 0),
        ("model=", 0),
    ],
)
def test_filters_leave_the_others_out(operator, add, filters, requests):
    add(record(), record(project_id="other", token="another", metadata={"model": "o4-mini"}))

    assert operator.call("GET", f"/usage?{filters}&{SPAN}").json["total"]["requests"] == requests


def test_a_limit_cuts_the_list_and_says_so(operator, add):
    add(record(project_id="a"), record(project_id="b"), record(project_id="b"))

    answer = operator.call("GET", f"/usage?group_by=project&limit=1&{SPAN}").json

    assert [row["project_id"] for row in answer["data"]] == ["b"]
    assert (answer["has_more"], answer["total"]["requests"]) == (True, 3)


@pytest.mark.parametrize("group", ["project", "token", "model"])
def test_pages_together_have_every_row_once_the_busiest_first(operator, add, group):
    busy = [("c", 3), ("a.b", 2), ("b", 2), ("'d", 1), ("é", 1)]
    add(*(_call_of(who) for who, calls in busy for _ in range(calls)), _call_of(None))

    rows, after = [], None
    while after is not None or not rows:
        page = operator.call(
            "GET", f"/usage?group_by={group}&limit=2&{SPAN}{'&' + urlencode({'after': after}) if after else ''}"
        ).json
        assert page["total"]["requests"] == 10 and page["has_more"] is (page["next"] is not None)
        rows, after = rows + page["data"], page["next"]

    name = "model" if group == "model" else f"{group}_id"
    assert [row["requests"] for row in rows] == [3, 2, 2, 1, 1, 1]
    assert {row[name] for row in rows} == {who for who, _ in busy} | {None}


def _call_of(who):
    """A call in whose record a project, a token and a model go by the same name."""
    metadata = record()["metadata"] | {"model": who}
    return record(project_id=who, token=who, metadata=metadata)


def test_a_table_leads_to_its_next_page(operator, add):
    add(record(project_id="a"), record(project_id="b"), record(project_id="b"))

    first = operator.call("GET", f"/usage?group_by=project&limit=1&{SPAN}", headers={"Accept": "text/csv"})
    address = re.fullmatch(r'<(\?.*)>; rel="next"', first.headers["Link"])[1]
    second = operator.call("GET", f"/usage{address}", headers={"Accept": "text/csv"})

    assert [row["project_id"] for row in csv.DictReader(io.StringIO(second.text))] == ["a"]
    assert "Link" not in second.headers


@pytest.mark.parametrize("zone", ["+01:00", "%2B01:00"])
def test_a_time_may_have_any_zone(operator, zone):
    answer = operator.call("GET", f"/usage?from=2026-11-23T00:00:00{zone}&to=2026-11-23T12:00:00{zone}").json

    assert (answer["from"], answer["to"]) == ("2026-11-22T23:00:00Z", "2026-11-23T11:00:00Z")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("from=2026-11-23T00:00:00", "from"),
        ("from=0001-01-01T00:00:00%2B14:00", "from"),
        ("to=9999-12-31T23:59:59-14:00", "to"),
        ("to=", "to"),
        ("from=2026-11-24T00:00:00Z&to=2026-11-24T00:00:00Z", "from"),
        ("from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("group_by=week", "group_by"),
        ("limit=0", "limit"),
        ("limit=ten", "limit"),
        ("group_by=token&after=", "after"),
        ("group_by=token&after=1", "after"),
        ("group_by=token&after=-1.a", "after"),
        ("group_by=token&after=\u0661.a", "after"),
        (f"group_by=token&after={'9' * 19}.a", "after"),
        ("group_by=day&after=1.a", "after"),
        ("project=x", "project"),
    ],
)
def test_a_bad_value_is_named(operator, query, field):
    response = operator.call("GET", f"/usage?{query}")

    assert (response.status_code, response.json["error"]["param"]) == (400, field)
    assert response.json["error"]["message"].startswith(field)


def days_of(operator, zone: str, begin: str, end: str) -> dict[str, int]:
    answer = operator.call("GET", f"/usage?group_by=day&tz={zone}&from={begin}&to={end}").json
    return {row["day"]: row["requests"] for row in answer["data"]}


def test_days_of_a_zone_begin_at_its_midnight(operator, add):
    add(*(record(timestamp=f"2026-11-23T{hour}:30:00.000Z") for hour in ("22", "23")))

    assert days_of(operator, "Europe/Berlin", "2026-11-22T23:00:00Z", "2026-11-24T23:00:00Z") == {
        "2026-11-23T00:00:00+01:00": 1,
        "2026-11-24T00:00:00+01:00": 1,
    }


def test_a_day_on_which_clocks_are_changed_is_as_long_as_it_was(operator, add):
    # On 2026-10-25 Berlin has 25 hours, from 22:00 UTC of the day before on.
    add(*(record(timestamp=f"2026-10-{24 + (hour // 24)}T{hour % 24:02}:30:00.000Z") for hour in range(21, 49)))

    assert days_of(operator, "Europe/Berlin", "2026-10-24T20:00:00Z", "2026-10-26T23:00:00Z") == {
        "2026-10-24T00:00:00+02:00": 1,
        "2026-10-25T00:00:00+02:00": 25,
        "2026-10-26T00:00:00+01:00": 2,
    }


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Nowhere/Land", "../../etc/passwd", "Europe", ""])
def test_a_zone_whose_days_cannot_be_told_is_refused(operator, zone):
    answer = operator.call("GET", f"/usage?group_by=day&tz={zone}")

    assert answer.status_code == 400 and answer.json["error"]["param"] == "tz"


def test_a_zone_is_for_days_alone(operator):
    answer = operator.call("GET", "/usage?group_by=hour&tz=Europe/Berlin")

    assert answer.status_code == 400 and answer.json["error"]["param"] == "tz"
