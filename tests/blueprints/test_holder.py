"""`/self`: what a token's holder may know of it, and who gets to know nothing."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update
from werkzeug.test import TestResponse

from blueprints import holder
from llmproxy.admission import utc_now
from llmproxy.times import microseconds
from models import Meter, Token, db
from tests.blueprints.conftest import Operator

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def issued(operator: Operator) -> dict[str, Any]:
    project_id = operator.create_project(meters=[{"unit": "tokens", "period": "month", "amount": 1000}])
    return operator.issue_token(project_id, label="mine", budget={"usd": "2.00", "per": "day"})


def ask(client: FlaskClient, secret: str) -> TestResponse:
    return client.get("/self", headers={"Authorization": f"Bearer {secret}"})


def change(app: Flask, table: type, **values: Any) -> None:
    with app.app_context():
        db.session.execute(update(table).values(**values))
        db.session.commit()


def test_a_holder_sees_what_operators_see_of_its_limits(
    app: Flask, client: FlaskClient, operator: Operator, issued: dict[str, Any]
) -> None:
    end = microseconds(utc_now()) + 3_600_000_000
    change(app, Meter, spent=500, reserved=100, bounds=200, period_end=end)

    answer = ask(client, issued["token"])

    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    told = {meter["name"]: meter for meter in operator.call("GET", "/meters").json["data"]}
    assert {limit["name"] for limit in answer.json["limits"]} == {"USD per day", "tokens per month"}
    for limit in answer.json["limits"]:
        assert limit == {name: told[limit["name"]][name] for name in limit}
    assert (answer.json["label"], answer.json["project"]) == ("mine", "a project")
    assert answer.json["base_url"] == "http://localhost/v1"
    assert issued["token"] not in answer.text


def test_a_used_up_or_expired_token_may_still_be_looked_at(
    app: Flask, client: FlaskClient, issued: dict[str, Any]
) -> None:
    change(app, Meter, spent=10**9, period_end=microseconds(utc_now()) + 3_600_000_000)
    assert {limit["remaining"] for limit in ask(client, issued["token"]).json["limits"]} == {"0.00", 0}

    change(app, Token, expires_at=utc_now())
    answer = ask(client, issued["token"])
    assert (answer.status_code, answer.json["is_expired"]) == (200, True)


def test_looking_counts_as_no_request(operator: Operator, client: FlaskClient, issued: dict[str, Any]) -> None:
    ask(client, issued["token"])

    assert operator.call("GET", f"/tokens/{issued['id']}").json["request_count"] == 0


def test_a_revoked_or_unknown_token_is_told_nothing(
    operator: Operator, client: FlaskClient, issued: dict[str, Any]
) -> None:
    operator.call("DELETE", f"/tokens/{issued['id']}")

    for secret, code in ((issued["token"], "token_revoked"), (UNKNOWN, "invalid_api_key"), ("x", "invalid_api_key")):
        answer = ask(client, secret)
        assert (answer.status_code, answer.json["error"]["code"]) == (401, code)
    assert client.get("/self").status_code == 401


def test_a_secret_that_was_replaced_works_while_it_does_for_calls(
    operator: Operator, client: FlaskClient, issued: dict[str, Any]
) -> None:
    operator.call("POST", f"/tokens/{issued['id']}/rotate", {"grace_hours": 1})
    assert ask(client, issued["token"]).status_code == 200

    operator.call("POST", f"/tokens/{issued['id']}/rotate", {"grace_hours": 0})
    assert ask(client, issued["token"]).status_code == 401


def test_it_is_asked_sixty_times_a_minute_at_most(
    client: FlaskClient, issued: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    monkeypatch.setattr(holder, "utc_now", lambda: now)
    statuses = [ask(client, issued["token"]).status_code for _ in range(holder.A_MINUTE + 1)]

    monkeypatch.setattr(holder, "utc_now", lambda: now + timedelta(minutes=1))

    assert set(statuses[:-1]) == {200}
    assert statuses[-1] == 429
    assert ask(client, issued["token"]).status_code == 200


def test_a_browser_pastes_its_token_and_sees_what_is_left(client: FlaskClient, issued: dict[str, Any]) -> None:
    form = client.get("/self", headers={"Accept": CHROMIUM})
    page = client.post("/self", data={"token": issued["token"]})
    wrong = client.post("/self", data={"token": UNKNOWN})

    assert "Paste it" in form.text and form.content_type.startswith("text/html")
    assert "$2.00</strong> of $2.00 per day" in page.text
    assert issued["token"] not in page.text
    assert "Set-Cookie" not in page.headers and page.headers["Cache-Control"] == "no-store"
    assert (wrong.status_code, "not known to the proxy" in wrong.text) == (401, True)
