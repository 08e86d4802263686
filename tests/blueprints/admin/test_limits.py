"""Limits: a budget in the form that issues the token, bars on its page and its project's, and every change of one."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from llmproxy.times import microseconds
from models import AuditEntry, Meter, db
from tests.blueprints.admin.site import Browser, Script, forms_of

NEW = ("/admin/tokens/new", "/admin/tokens")


@pytest.fixture
def project(browser: Browser) -> str:
    return browser.create_project()


@pytest.fixture
def meter(app: Flask, browser: Browser, project: str) -> Meter:
    """Of the project: $2 a day."""
    browser.submit(f"/admin/limits/new?project_id={project}", "/admin/limits", amount="2.00")
    return meters(app)[0]


def meters(app: Flask) -> list[Meter]:
    with app.app_context():
        return list(db.session.query(Meter).all())


def update(app: Flask, meter: Meter, **fields: Any) -> None:
    with app.app_context():
        row = db.session.get(Meter, meter.id)
        for name, value in fields.items():
            setattr(row, name, value)
        db.session.commit()


def words(answer) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())


def error_beside(answer, field: str) -> str:
    found = re.search(rf'id="{field}-error">([^<]*)<', answer.text)
    assert found, answer.text
    return found[1]


def test_a_budget_is_set_in_the_form_that_issues_the_token(app: Flask, browser: Browser, project: str) -> None:
    answer = browser.submit(*NEW, project_id=project, budget="2.50", budget_per="week")

    assert answer.status_code == 201, words(answer)
    [made] = meters(app)
    assert (made.unit, made.amount, made.period) == ("usd", 2_500_000, "week")
    assert "$2.50 left of $2.50 per week" in words(browser.get(f"/admin/tokens/{made.token_id}"))


def test_no_budget_is_none(app: Flask, browser: Browser, project: str) -> None:
    assert browser.submit(*NEW, project_id=project).status_code == 201

    assert meters(app) == []


@pytest.mark.parametrize("budget", ["two", "-1", "1e3", "0.0000001"])
def test_a_bad_budget_is_told_beside_its_field(app: Flask, browser: Browser, project: str, budget: str) -> None:
    answer = browser.submit(*NEW, project_id=project, budget=budget, label="kept")

    assert answer.status_code == 400
    assert error_beside(answer, "budget").startswith("Must be dollars")
    assert 'value="kept"' in answer.text
    assert meters(app) == []


def test_a_form_that_comes_again_with_another_budget_issues_nothing(
    app: Flask, browser: Browser, project: str
) -> None:
    form = browser.form(*NEW)
    first = browser.post(form.action, form.fields | {"project_id": project, "budget": "1.00"})
    again = browser.post(form.action, form.fields | {"project_id": project, "budget": "1.00"})
    other = browser.post(form.action, form.fields | {"project_id": project, "budget": "9.00"})

    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 409)
    assert [made.amount for made in meters(app)] == [1_000_000]


def test_a_project_gets_a_limit_on_its_page(app: Flask, browser: Browser, project: str) -> None:
    assert f"/admin/limits/new?project_id={project}" in browser.get(f"/admin/projects/{project}").text

    answer = browser.submit(
        f"/admin/limits/new?project_id={project}",
        "/admin/limits",
        unit="tokens",
        amount="100,000",
        period="minute",
        models="gpt-5, o3*",
        name="fair use",
    )

    page = browser.follow(answer)
    assert "100,000 LLM tokens left of 100,000 LLM tokens per minute" in words(page)
    assert "for gpt-5, o3*" in words(page)
    [made] = meters(app)
    assert (made.name, made.amount, made.models, made.token_id) == ("fair use", 100_000, "gpt-5,o3*", None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": "x"}, "amount"),
        ({"amount": "5", "period": "hour"}, "period"),
        ({"amount": "5", "zone": "Nowhere/Land"}, "zone"),
        ({"amount": "5", "models": "a b"}, "models"),
        ({"amount": "1.5", "unit": "requests"}, "amount"),
    ],
)
def test_a_bad_limit_is_told_beside_its_field(
    app: Flask, browser: Browser, project: str, fields: dict[str, str], field: str
) -> None:
    answer = browser.submit(f"/admin/limits/new?project_id={project}", "/admin/limits", **fields)

    assert answer.status_code == 400
    assert error_beside(answer, field)
    assert meters(app) == []


def test_a_bar_tells_what_is_spent_held_and_left(app: Flask, browser: Browser, meter: Meter) -> None:
    end = microseconds(datetime.now(UTC) + timedelta(hours=3, minutes=1))
    update(app, meter, spent=1_000_000, reserved=250_000, bounds=300_000, period_end=end)

    page = browser.get(f"/admin/projects/{meter.project_id}")

    assert "$0.75 left of $2.00 per day" in words(page)
    assert "$1.00 spent, $0.25 held for running calls, resets in 3 hours" in words(page)
    assert '<rect class="left" width="38" height="4"/><rect class="held" x="38" width="12" height="4"/>' in page.text


def test_whom_a_limit_lets_make_no_call_is_told_so_and_found(
    app: Flask, browser: Browser, project: str, meter: Meter
) -> None:
    other = browser.create_project("other")
    for owner, label, period in (
        (project, "of project", ""),
        (other, "of its own", "day"),
        (other, "rated", "minute"),
    ):
        browser.submit(*NEW, project_id=owner, label=label, budget="1.00" if period else "", budget_per="day")
    [own, rated] = [each for each in meters(app) if each.token_id]
    update(app, rated, period="minute")
    over = microseconds(datetime.now(UTC))
    in_time = over + 50 * 60 * 10**6

    def shown(path: str) -> dict[str, str]:
        rows = re.findall(r'<th scope="row"><a href="[^"]+">([^<]+)</a>.*?<span class="pill (\w+)">', path, re.DOTALL)
        return dict(rows)

    def found(state: str, kind: str = "tokens") -> set[str]:
        return set(shown(browser.get(f"/admin/{kind}?state={state}").text))

    everybody = {"of project", "of its own", "rated"}
    # What was spent in a period that is over holds nobody back.
    for each in (meter, own, rated):
        update(app, each, spent=2_000_000, period_end=over)
    assert (found("live"), found("spent"), found("spent", "projects")) == (everybody, set(), set())
    for each in (meter, own, rated):
        update(app, each, period_end=in_time)
    states = {"of project": "spent", "of its own": "spent", "rated": "limited"}
    assert shown(browser.get("/admin/tokens").text) == states
    assert (found("live"), found("limited"), found("current")) == (set(), {"rated"}, everybody)
    assert found("spent") == {"of project", "of its own"}
    assert found("spent", "projects") == {"first"}
    told = words(browser.get(f"/admin/tokens/{own.token_id}"))
    assert (
        "Budget spent" in told and "The limit USD per day is used up: requests are refused until it resets in" in told
    )
    assert "is used up: requests are refused" in words(browser.get(f"/admin/projects/{project}"))

    for each in (meter, own, rated):
        update(app, each, models="gpt-5*")
    assert shown(browser.get("/admin/tokens").text) == dict.fromkeys(states, "live")
    told = words(browser.get(f"/admin/tokens/{own.token_id}"))
    assert "Budget spent" not in told and "requests for gpt-5* are refused" in told


def test_a_limit_is_changed_and_its_count_goes_on(app: Flask, browser: Browser, meter: Meter) -> None:
    end = microseconds(datetime.now(UTC) + timedelta(hours=3))
    update(app, meter, spent=1_000_000, period_end=end)

    path = f"/admin/limits/{meter.id}"
    answer = browser.submit(path, path, amount="$4", name="larger", reserve="bound")

    assert "$3.00 left of $4.00" in words(browser.follow(answer))
    [changed] = meters(app)
    assert (changed.name, changed.reserve, changed.spent) == ("larger", "bound", 1_000_000)


@pytest.mark.parametrize(("unit", "told"), [("usd", "Must be dollars"), ("tokens", "Must be a whole number")])
def test_a_bad_change_of_a_limit_is_told_beside_its_field(
    app: Flask, browser: Browser, meter: Meter, unit: str, told: str
) -> None:
    update(app, meter, unit=unit)
    path = f"/admin/limits/{meter.id}"

    answer = browser.submit(path, path, amount="much")

    assert answer.status_code == 400 and error_beside(answer, "amount").startswith(told)
    assert meters(app)[0].amount == 2_000_000


def test_a_limit_is_reset_and_deleted(app: Flask, browser: Browser, meter: Meter) -> None:
    update(app, meter, spent=1_000_000, period_end=microseconds(datetime.now(UTC) + timedelta(hours=3)))
    path = f"/admin/limits/{meter.id}"

    assert [form.action for form in forms_of(browser.get(path))] == [path]
    assert "$1.00 left of $2.00" in words(browser.get(f"{path}/reset"))
    browser.submit(f"{path}/reset", f"{path}/reset")
    assert meters(app)[0].spent == 0
    browser.submit(f"{path}/delete", f"{path}/delete")
    assert meters(app) == []


def test_the_trail_tells_of_limits_in_words(app: Flask, browser: Browser, meter: Meter) -> None:
    path = f"/admin/limits/{meter.id}"
    browser.submit(path, path, amount="4.00")
    browser.submit(f"{path}/reset", f"{path}/reset")
    browser.submit(f"{path}/delete", f"{path}/delete")

    trail = words(browser.get("/admin/audit"))
    for told in ("gave a limit to", "changed a limit of", "reset a limit of", "deleted a limit of"):
        assert f"{told} the project" in trail
    with app.app_context():
        change = db.session.query(AuditEntry).filter_by(action="project.change_meter").one()
    assert (change.before["amount"], change.after) == ("2.00", {"amount": "4.00"})


def test_limits_of_what_is_not_there_are_a_page_that_says_so(browser: Browser) -> None:
    for path in ("/admin/limits/none", "/admin/limits/new?token_id=none", "/admin/limits/new"):
        assert browser.get(path).status_code == 404


def test_a_script_issues_many_tokens_with_a_budget(app: Flask, script: Script, project: str) -> None:
    body = {"project_id": project, "duration_hours": 1, "count": 3, "budget": {"usd": "1", "per": "day"}}

    answer = script.send("POST", "/admin/tokens", json=body)

    assert (answer.status_code, len(answer.json["data"]), len(meters(app))) == (201, 3, 3)


def test_a_revoked_tokens_page_offers_no_limits_or_rules(app: Flask, browser: Browser, script: Script, project: str):
    browser.submit(*NEW, project_id=project, **{"budget": "2.00"})
    [own] = [each for each in meters(app) if each.token_id]
    page, new = f"/admin/tokens/{own.token_id}", f"/admin/limits/new?token_id={own.token_id}"
    form = browser.form(new, "/admin/limits")

    browser.submit(f"{page}/revoke", f"{page}/revoke")

    text = browser.get(page).text
    assert "/admin/limits/new" not in text and "/admin/rules" not in text
    assert ">Expires" not in text and "Would have expired" in text and "it may do whatever" not in text
    for way in (new, f"/admin/rules?token_id={own.token_id}"):
        assert browser.get(way).status_code == 409
    late = browser.post("/admin/limits", form.fields | {"amount": "5.00"})
    assert late.status_code == 409 and "does not come back" in late.text
    stays = browser.get(f"/admin/limits/{own.id}").text
    assert f"/admin/limits/{own.id}/delete" in stays and "/reset" not in stays and "<h2>Change</h2>" not in stays
    assert len(meters(app)) == 1
