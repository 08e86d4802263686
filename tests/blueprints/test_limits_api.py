"""Limits through the management API: what is sent, what comes back, and what is refused unchanged."""

from typing import Any

import pytest

from tests.blueprints.conftest import Operator

DAILY = {"unit": "usd", "period": "day", "amount": "2.00"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def token(operator: Operator) -> dict[str, Any]:
    return operator.issue_token(operator.create_project())


def meters(operator: Operator, query: str = "") -> list[dict[str, Any]]:
    response = operator.call("GET", f"/meters{query}")
    assert response.status_code == 200, response.json
    data: list[dict[str, Any]] = response.json["data"]
    return data


def refusal(operator: Operator, method: str, path: str, body: Any) -> tuple[int, str, str]:
    before = operator.tables() | {"meters": operator.rows("meters")}
    response = operator.call(method, path, body)
    assert operator.tables() | {"meters": operator.rows("meters")} == before
    return response.status_code, response.json["error"]["param"], response.json["error"]["message"]


def test_a_budget_is_a_meter_in_short(operator: Operator) -> None:
    issued = operator.issue_token(
        operator.create_project(),
        budget={"usd": "2.00", "per": "day", "zone": "Europe/Amsterdam", "reserve": "bound"},
    )

    [meter] = meters(operator)
    resets_at = meter.pop("resets_at")
    assert resets_at.endswith("Z")
    assert meter == {
        "id": meter["id"], "project_id": issued["project_id"], "token_id": issued["id"], "name": "USD per day",
        "unit": "usd", "period": "day", "zone": "Europe/Amsterdam", "reserve": "bound", "models": None,
        "amount": "2.00", "spent": "0.00", "reserved": "0.00", "remaining": "2.00",
    }  # fmt: skip


@pytest.mark.parametrize("unit", ["tokens", "requests"])
def test_counts_are_whole_numbers(operator: Operator, unit: str) -> None:
    operator.issue_token(operator.create_project(), budget={unit: 1000, "per": "minute"})

    [meter] = meters(operator)
    assert (meter["unit"], meter["amount"], meter["remaining"]) == (unit, 1000, 1000)


def test_meters_and_rules_come_with_their_token_and_project(operator: Operator) -> None:
    project_id = operator.create_project(meters=[DAILY], rules={"concurrency": 8}, default_tier="flex")
    issued = operator.issue_token(
        project_id, meters=[DAILY | {"models": ["gpt-5", "o3*"]}], rules={"endpoints": ["chat"]}
    )

    project = operator.call("GET", f"/projects/{project_id}").json
    token = operator.call("GET", f"/tokens/{issued['id']}").json
    assert (project["rules"], project["default_tier"]) == ({"concurrency": 8}, "flex")
    assert [meter["token_id"] for meter in project["meters"]] == [None]
    assert token["rules"] == {"endpoints": ["chat"]}
    assert [meter["models"] for meter in token["meters"]] == [["gpt-5", "o3*"]]


def test_many_tokens_are_answered_as_a_list(operator: Operator) -> None:
    body = {"project_id": operator.create_project(), "duration_hours": 1, "label": "student", "count": 3}

    response = operator.call("POST", "/tokens", body | {"budget": {"usd": "2", "per": "day"}})

    assert response.status_code == 201
    assert [row["label"] for row in response.json["data"]] == ["student 1", "student 2", "student 3"]
    assert {meter["token_id"] for meter in meters(operator)} == {row["id"] for row in response.json["data"]}


def test_a_change_of_a_token_may_name_all_of_its_meters(operator: Operator, token: dict[str, Any]) -> None:
    path = f"/tokens/{token['id']}"
    [made] = operator.call("PATCH", path, {"meters": [DAILY]}).json["meters"]

    [kept] = operator.call("PATCH", path, {"meters": [{"id": made["id"], "amount": "3.50"}]}).json["meters"]

    assert (kept["id"], kept["amount"]) == (made["id"], "3.50")
    twice = {"meters": [{"id": made["id"], "amount": amount} for amount in ("1.00", "2.00")]}
    assert refusal(operator, "PATCH", path, twice) == (409, "meters", "A meter stands in the list twice.")
    assert [meter["amount"] for meter in meters(operator)] == ["3.50"]
    assert operator.call("PATCH", path, {"meters": []}).json["meters"] == []


def test_a_meter_has_a_life_of_its_own(operator: Operator, token: dict[str, Any]) -> None:
    created = operator.call("POST", "/meters", {"token_id": token["id"], **DAILY})
    path = f"/meters/{created.json['id']}"

    assert created.status_code == 201
    assert operator.call("GET", path).json == created.json
    assert operator.call("PATCH", path, {"name": "small", "amount": "0.25"}).json["remaining"] == "0.25"
    assert operator.call("POST", f"{path}/reset").status_code == 200
    assert operator.call("DELETE", path).status_code == 204
    assert operator.call("GET", path).status_code == 404


def test_meters_are_found_by_owner_and_page_by_page(operator: Operator, token: dict[str, Any]) -> None:
    for owner in ({"token_id": token["id"]}, {"project_id": token["project_id"]}):
        operator.call("POST", "/meters", owner | DAILY)

    assert len(meters(operator, f"?project_id={token['project_id']}")) == 2
    assert [meter["token_id"] for meter in meters(operator, f"?token_id={token['id']}")] == [token["id"]]
    first = operator.call("GET", "/meters?limit=1").json
    second = operator.call("GET", f"/meters?limit=1&after={first['next']}").json
    assert (first["has_more"], second["has_more"], second["next"]) == (True, False, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"amount": 2}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "1e3"}, "amount"),
        ({"amount": "1.0000001"}, "amount"),
        ({"amount": "1000000001"}, "amount"),
        ({"unit": "tokens"}, "amount"),
        ({"unit": "euro"}, "unit"),
        ({"period": "year"}, "period"),
        ({"period": "hour"}, "period"),
        ({"zone": "Mars/Base"}, "zone"),
        ({"unit": "tokens", "amount": 5, "period": "hour", "zone": "Europe/Amsterdam"}, "zone"),
        ({"reserve": "most"}, "reserve"),
        ({"models": []}, "models"),
        ({"models": ["a b"]}, "models"),
        ({"models": ["m" * 150] * 3}, "models"),
        ({"name": "x" * 65}, "name"),
        ({"spent": "0.00"}, "spent"),
    ],
)
def test_a_bad_meter_is_refused_by_field(
    operator: Operator, token: dict[str, Any], fields: dict[str, Any], param: str
) -> None:
    body = {"token_id": token["id"], **DAILY, **fields}

    status, told, _ = refusal(operator, "POST", "/meters", body)

    assert (status, told) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"rules": {"modles": ["gpt-5"]}}, "rules.modles"),
        ({"rules": {"limits": {"n": 0}}}, "rules.limits.n"),
        ({"rules": ["gpt-5"]}, "rules"),
        ({"meters": [{"unit": "usd", "period": "day"}]}, "amount"),
        ({"meters": {}}, "meters"),
        ({"meters": [5]}, "meters"),
        ({"meters": [DAILY] * 21}, "meters"),
    ],
)
def test_bad_limits_of_a_token_are_refused(
    operator: Operator, token: dict[str, Any], body: dict[str, Any], param: str
) -> None:
    status, told, _ = refusal(operator, "PATCH", f"/tokens/{token['id']}", body)

    assert (status, told) == (400, param)


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PATCH", "/tokens/{id}", {"rules": []}, "rules must be an object."),
        ("PATCH", "/tokens/{id}", {"meters": {}}, "meters must be a list."),
        ("PATCH", "/tokens/{id}", {"meters": [5]}, "meters must be a list of JSON objects."),
        ("PATCH", "/tokens/{id}", {"meters": [DAILY] * 21}, "meters must be 20 at most."),
        ("POST", "/meters", DAILY, "project_id must be sent, or token_id, and not both."),
        (
            "POST",
            "/meters",
            {"token_id": "{id}", **DAILY, "amount": 12.5},
            'amount must be dollars in a text such as "12.50", with at most 6 decimals.',
        ),
        ("POST", "/meters", {"token_id": "{id}", **DAILY, "models": "gpt-5"}, "models must be a list."),
        ("POST", "/meters", {"token_id": "{id}", **DAILY, "models": []}, "models must be a list of 1 to 20 names."),
        ("POST", "/tokens", {"project_id": "p", "duration_hours": 1, "budget": 5}, "budget must be a JSON object."),
        ("DELETE", "/tokens", {}, "token must be sent, or id, and not both."),
    ],
)
def test_a_refusal_is_a_sentence_that_begins_with_its_field(
    operator: Operator, token: dict[str, Any], method: str, path: str, body: dict[str, Any], words: str
) -> None:
    sent = {name: token["id"] if value == "{id}" else value for name, value in body.items()}

    status, _, told = refusal(operator, method, path.format(id=token["id"]), sent)

    assert (status, told) == (400, words)


@pytest.mark.parametrize(
    ("budget", "param"),
    [
        ({"per": "day"}, "budget"),
        ({"usd": "1", "tokens": 5, "per": "day"}, "budget"),
        ({"usd": "1"}, "per"),
        ({"usd": "1", "per": "minute"}, "per"),
    ],
)
def test_a_budget_has_one_amount_per_period(operator: Operator, budget: dict[str, Any], param: str) -> None:
    body = {"project_id": operator.create_project(), "duration_hours": 1, "budget": budget}

    status, told, _ = refusal(operator, "POST", "/tokens", body)

    assert (status, told) == (400, param)


def test_a_meter_has_one_owner(operator: Operator, token: dict[str, Any]) -> None:
    for owner in ({}, {"token_id": token["id"], "project_id": token["project_id"]}):
        assert refusal(operator, "POST", "/meters", owner | DAILY)[:2] == (400, "project_id")
    assert refusal(operator, "POST", "/meters", {"token_id": UNKNOWN} | DAILY)[:2] == (404, "token_id")


def test_dollars_are_no_amount_of_tokens(operator: Operator) -> None:
    operator.issue_token(operator.create_project(), budget={"tokens": 1000, "per": "day"})
    [meter] = meters(operator)

    status, param, message = refusal(operator, "PATCH", f"/meters/{meter['id']}", {"amount": "1.00"})

    assert (status, param) == (409, "amount")
    assert "counts tokens" in message


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_nothing_but_the_label_of_a_token_that_is_over_is_changed(operator: Operator, end: str) -> None:
    token = operator.issue_token(operator.create_project(), meters=[DAILY])
    path, [meter] = f"/tokens/{token['id']}", meters(operator)
    if end == "revoked":
        operator.call("DELETE", path)
    else:
        operator.call("PATCH", path, {"expires_at": "2001-01-01T00:00:00Z"})

    changes = {"rate_limit": 5, "rules": {"concurrency": 2}, "meters": []}
    asked = [("PATCH", path, {name: value}, name) for name, value in changes.items()]
    asked.append(("POST", "/meters", DAILY | {"token_id": token["id"]}, "token_id"))
    asked.append(("PATCH", f"/meters/{meter['id']}", {"amount": "3.00"}, "id"))
    asked.append(("POST", f"/meters/{meter['id']}/reset", None, "id"))
    for method, where, body, field in asked:
        status, param, message = refusal(operator, method, where, body)
        assert (status, param) == (409, field), where
        assert f"{end}, and does not come back: issue a new one." in message

    assert operator.call("PATCH", path, {"label": "to be tidied up", "rate_limit": None}).status_code == 200
    assert operator.call("DELETE", f"/meters/{meter['id']}").status_code == 204
