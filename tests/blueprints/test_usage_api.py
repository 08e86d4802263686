"""GET /manage/usage: who may ask, what may be asked, and what an answer looks like."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

from accounting.rollup import Rollup, UsageSums
from models import db
from tests.records import PROJECT, TOKEN, append, record, refused

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
        "duration_ms": {"p50": 750.0, "p95": 975.0},
        "ttft_ms": {"p50": 150.0, "p95": 195.0},
    }
    assert response.status_code == 200
    assert response.json["data"][0] == {"project_id": PROJECT, "name": None, **sums}
    assert response.json["data"][1]["project_id"] is None
    assert response.json["total"] == sums | {"requests": 3, "refusals": 1}
    assert (response.json["from"], response.json["to"]) == ("2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z")
    assert response.json["has_more"] is False


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
        ("project=x", "project"),
    ],
)
def test_a_bad_value_is_named(operator, query, field):
    response = operator.call("GET", f"/usage?{query}")

    assert (response.status_code, response.json["error"]["param"]) == (400, field)
    assert response.json["error"]["message"].startswith(field)
