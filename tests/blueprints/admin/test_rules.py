"""Rules in the pages: the form, a call that is tried on them, and what they would have refused lately."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from accounting.fold import fold, in_every_view
from accounting.rollup import UsageSums
from llmproxy.admission import utc_now
from llmproxy.times import iso_utc, microseconds
from models import AuditEntry, Meter, Project, Token, db
from services import Services
from tests.blueprints.admin.site import Browser
from tests.records import read, record

ALL = {
    "mode": "report",
    "models": ["gpt-5", "o3*"],
    "endpoints": ["chat", "POST realtime/client_secrets"],
    "addresses": ["10.0.0.0/8", "2001:db8::/32"],
    "concurrency": 8,
    "unpriced": "allow",
    "limits": {
        "max_output_tokens": 4096,
        "require_max_output": True,
        "n": 1,
        "service_tier": ["default", "flex"],
        "tools": [],
        "background": False,
        "store": False,
        "reasoning_effort": ["low", "medium"],
        "max_body_bytes": 1048576,
    },
}
ENTERED = {
    "mode": "report",
    "models": "gpt-5, o3*",
    "endpoints": "chat, POST realtime/client_secrets",
    "addresses": "10.0.0.0/8, 2001:db8::/32",
    "concurrency": "8",
    "unpriced": "allow",
    "max_output_tokens": "4096",
    "require_max_output": "true",
    "n": "1",
    "service_tier": "default, flex",
    "tools": "none",
    "background": "false",
    "store": "false",
    "reasoning_effort": "low, medium",
    "max_body_bytes": "1048576",
}
CHAT = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100})


@pytest.fixture
def project(browser: Browser) -> str:
    return browser.create_project()


@pytest.fixture
def token(app: Flask, browser: Browser, project: str) -> str:
    """The id of a token."""
    assert browser.submit("/admin/tokens/new", "/admin/tokens", project_id=project).status_code == 201
    return str(row(app, Token).id)


def row(app: Flask, kind: type) -> Any:
    with app.app_context():
        return db.session.query(kind).one()


def words(answer: TestResponse) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())


def add_records(app: Flask, changes: list[dict[str, Any]], ago: timedelta = timedelta()) -> None:
    """Calls of that time ago, in the sums."""
    at = iso_utc(utc_now() - ago)
    sums = UsageSums(Services.of(app).engine, "node-1")
    records = [read(record(timestamp=at, **more)) for more in changes]
    with sums.transaction() as connection:
        sums.add(connection, in_every_view(fold(records).rows))


def save(browser: Browser, owner: str, **fields: str) -> TestResponse:
    return browser.submit(f"/admin/rules?{owner}", "/admin/rules", **fields)


def attempt(browser: Browser, owner: str, body: str = CHAT, **fields: str) -> TestResponse:
    """Try a call on what is entered; the page that comes back."""
    form = browser.form(f"/admin/rules?{owner}", "/admin/rules")
    answer = browser.post("/admin/rules/try", form.fields | fields | {"body": body})
    assert answer.status_code == 200, words(answer)
    return answer


def verdict(answer: TestResponse) -> str:
    found = re.search(r'<section class="notice[^>]*role="status".*?</section>', answer.text, re.DOTALL)
    assert found, words(answer)
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).split())


def test_every_rule_is_set_by_the_form_and_shown_in_it_again(app: Flask, browser: Browser, token: str) -> None:
    answer = save(browser, f"token_id={token}", **ENTERED)

    assert answer.status_code == 303, words(answer)
    assert row(app, Token).rules == ALL
    again = browser.form(f"/admin/rules?token_id={token}", "/admin/rules").fields
    assert {name: again[name] for name in ENTERED} == ENTERED


def test_a_preset_is_one_choice(app: Flask, browser: Browser, project: str) -> None:
    assert save(browser, f"project_id={project}", preset="inference").status_code == 303

    assert row(app, Project).rules == {"mode": "enforce", "preset": "inference"}


def test_a_token_is_issued_with_a_preset_and_models(app: Flask, browser: Browser, project: str) -> None:
    new = {"project_id": project, "preset": "inference", "models": "gpt-5-mini, o3*"}

    assert browser.submit("/admin/tokens/new", "/admin/tokens", **new).status_code == 201

    assert row(app, Token).rules == {"preset": "inference", "models": ["gpt-5-mini", "o3*"]}


@pytest.mark.parametrize(
    ("field", "entered", "told"),
    [
        ("models", "gpt 5", "Entry 1"),
        ("addresses", "10.0.0.1/8", "Entry 1"),
        ("endpoints", "chat, chats", "Entry 2"),
        ("concurrency", "many", "Must be a whole number"),
        ("n", "0", "Must be a whole number"),
        ("service_tier", "cheap", "Entry 1 must be one of"),
        ("tools", "Web Search", "Entry 1 must be a type"),
        ("mode", "maybe", "Must be one of"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field_and_nothing_is_set(
    app: Flask, browser: Browser, token: str, field: str, entered: str, told: str
) -> None:
    answer = save(browser, f"token_id={token}", **{"max_output_tokens": "77", field: entered})

    assert answer.status_code == 400
    found = re.search(rf'id="{field}-error">([^<]*)<', answer.text)
    assert found and found[1].startswith(told), words(answer)
    assert 'value="77"' in answer.text
    assert row(app, Token).rules is None


def test_a_preset_beside_endpoints_is_told(app: Flask, browser: Browser, token: str) -> None:
    answer = save(browser, f"token_id={token}", preset="inference", endpoints="files")

    assert (answer.status_code, row(app, Token).rules) == (400, None)
    assert "Cannot stand beside endpoints" in words(answer)


def test_rules_are_taken_away(app: Flask, browser: Browser, token: str) -> None:
    save(browser, f"token_id={token}", models="gpt-5")

    asked = f"/admin/rules/remove?token_id={token}"
    assert "gpt-5" in browser.get(asked).text and row(app, Token).rules is not None
    answer = browser.submit(asked, "/admin/rules/remove")

    assert (answer.status_code, row(app, Token).rules, row(app, Token).is_ruled) == (303, None, False)


def test_who_saves_over_a_change_by_another_is_told(app: Flask, browser: Browser, token: str) -> None:
    form = browser.form(f"/admin/rules?token_id={token}", "/admin/rules")
    save(browser, f"token_id={token}", models="gpt-5")

    answer = browser.post("/admin/rules", form.fields | {"models": "o3"})

    assert answer.status_code == 409
    assert row(app, Token).rules["models"] == ["gpt-5"]


def test_endpoints_that_lead_past_the_proxy_are_warned_of(browser: Browser, project: str, token: str) -> None:
    away = "realtime/client_secrets, POST chatkit/sessions, DELETE models/*"
    save(browser, f"token_id={token}", endpoints=f"chat, {away}, fine_tuning/checkpoints/*/permissions")

    shown = words(browser.get(f"/admin/tokens/{token}"))

    assert shown.count("outlive the token.") == 2, shown
    assert "DELETE models/* deletes fine-tuned models" in shown
    assert "fine_tuning/checkpoints/*/permissions gives other projects" in shown


def test_a_projects_rules_are_shown_beside_those_of_its_token(browser: Browser, project: str, token: str) -> None:
    save(browser, f"project_id={project}", models="gpt-5*")

    shown = words(browser.get(f"/admin/rules?token_id={token}"))

    assert "The project's rules hold, too" in shown and "Models gpt-5*" in shown


# Would this have passed?


def test_a_call_passes_or_is_refused_in_the_words_that_its_caller_would_get(browser: Browser, token: str) -> None:
    passing, refused = (attempt(browser, f"token_id={token}", models=models) for models in ("gpt-5", "o3"))

    assert verdict(passing).startswith("It would pass.")
    assert "403 model_not_allowed of model : This token may not use this model. It may use o3." in verdict(refused)


def test_rules_that_only_report_would_note_a_call(browser: Browser, token: str) -> None:
    told = verdict(attempt(browser, f"token_id={token}", models="o3", mode="report"))

    assert told.startswith("It would pass, and be noted")
    assert "403 model_not_allowed" in told


def test_a_projects_saved_rules_are_asked_beside_those_entered(browser: Browser, project: str, token: str) -> None:
    save(browser, f"project_id={project}", models="o3")

    assert "model_not_allowed" in verdict(attempt(browser, f"token_id={token}"))


@pytest.mark.parametrize(
    ("fields", "body", "code"),
    [
        ({}, '{"model":"gpt-5","Model":"o3"}', "400 ambiguous_body"),
        ({"models": "gpt-5"}, "", "403 model_undetermined"),
        ({"path": "/v1/files"}, CHAT, "403 endpoint_not_allowed"),
        ({"path": "https://api.example/v1/files?x=1"}, CHAT, "403 endpoint_not_allowed"),
        ({"method": "DELETE", "path": "models/ft:x"}, "", "403 endpoint_not_allowed"),
        ({"path": "//v1/chat/completions"}, CHAT, "400 : The path begins with two slashes"),
        ({"path": "https://api.example//v1/chat/completions"}, CHAT, "400 : The path begins with two slashes"),
        ({"path": "/v1/files/../chat/completions"}, CHAT, "400 : The path must not hold dot segments"),
        ({"path": "/v1/chat/completions#now"}, CHAT, "400 : The request cannot be forwarded"),
        ({"path": "/v1/%6frganization/projects"}, CHAT, "403 organization_refused"),
        ({"method": "GET", "path": "/v1/chat/completions/%20"}, "", "403 endpoint_not_allowed"),
        ({"addresses": "192.0.2.0/24", "address": "198.51.100.7"}, CHAT, "403 address_not_allowed"),
        ({"addresses": "192.0.2.0/24", "address": "somewhere"}, CHAT, "403 address_not_allowed"),
        ({"max_output_tokens": "99"}, CHAT, "400 parameter_not_allowed of max_tokens"),
        ({"max_body_bytes": "10"}, CHAT, "413 request_too_large"),
        ({"models": "gpt-5", "content_type": "multipart/form-data; boundary=b"}, CHAT, "400 ambiguous_body"),
    ],
)
def test_each_rule_is_asked(browser: Browser, token: str, fields: dict[str, str], body: str, code: str) -> None:
    entered = {"models": "*"} if code.endswith("ambiguous_body") and not fields else fields

    assert code in verdict(attempt(browser, f"token_id={token}", body, **entered))


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/chat/completions", True), ("chat/completions", True), ("/v1/nothing", False)]
)
def test_a_path_may_be_what_follows_v1(browser: Browser, project: str, path: str, allowed: bool) -> None:
    told = verdict(attempt(browser, f"project_id={project}", path=path))

    assert told.startswith("It would pass.") is allowed


@pytest.mark.parametrize(
    ("path", "entered", "told"),
    [
        ("/v1/responses", {"preset": "inference", "models": "gpt-5"}, "It would pass."),
        ("/v1/responses", {"endpoints": "chat"}, "403 endpoint_not_allowed"),
        ("/v1/responses", {"endpoints": "chat", "mode": "report"}, "It would pass, and be noted"),
        ("realtime?model=gpt-realtime", {"endpoints": "realtime", "require_max_output": "true"}, "It would pass."),
        ("realtime?model=gpt-realtime", {"endpoints": "realtime", "models": "gpt-5"}, "403 model_not_allowed"),
        ("realtime?intent=transcription", {"endpoints": "realtime", "models": "gpt-5"}, "It would pass."),
        ("/v1/models", {}, "403 endpoint_not_allowed"),
    ],
)
def test_the_opening_of_a_websocket_is_judged_as_a_real_one(
    browser: Browser, project: str, path: str, entered: dict[str, str], told: str
) -> None:
    verdict_told = verdict(
        attempt(browser, f"project_id={project}", body="", method="WebSocket", path=path, **entered)
    )

    assert told in verdict_told
    assert ("Each response that is asked for on it is judged by itself" in verdict_told) is ("pass" in told)


def test_the_opening_of_a_websocket_holds_nothing_of_a_budget(browser: Browser, token: str) -> None:
    browser.submit(f"/admin/limits/new?token_id={token}", "/admin/limits", amount="2.00")

    told = verdict(attempt(browser, f"token_id={token}", body="", method="WebSocket", path="/v1/responses"))

    assert "It would pass." in told and "may take up to $0.000000" in told


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/realtime"])
def test_a_get_is_a_get_where_websockets_are_opened(browser: Browser, token: str, path: str) -> None:
    entered = {"endpoints": "responses, realtime", "models": "gpt-5"}

    told = verdict(attempt(browser, f"token_id={token}", body="", method="GET", path=path, **entered))

    assert "403 model_undetermined" in told and "judged by itself" not in told


def test_what_a_call_would_hold_of_budgets_is_told(app: Flask, browser: Browser, project: str, token: str) -> None:
    browser.submit(f"/admin/limits/new?token_id={token}", "/admin/limits", amount="2.00")
    browser.submit(f"/admin/limits/new?project_id={project}", "/admin/limits", unit="requests", amount="5")

    told = verdict(attempt(browser, f"token_id={token}"))

    assert re.search(r"USD per day: holds \$0\.\d{6} while it runs, and may take up to \$0\.\d{6}\.", told), told
    assert "requests per day: counts one request." in told
    with app.app_context():
        assert {(meter.spent, meter.reserved, meter.bounds) for meter in db.session.query(Meter)} == {(0, 0, 0)}
        assert db.session.query(Token).one().request_count == 0


def test_a_budget_that_is_used_up_is_told(app: Flask, browser: Browser, token: str) -> None:
    limit = {"unit": "requests", "amount": "1", "period": "day"}
    browser.submit(f"/admin/limits/new?token_id={token}", "/admin/limits", **limit)
    with app.app_context():
        meter = db.session.query(Meter).one()
        meter.spent, meter.period_end = 1, microseconds(utc_now() + timedelta(hours=1))
        db.session.commit()

    assert "429 budget_exhausted" in verdict(attempt(browser, f"token_id={token}"))


def test_a_trial_changes_nothing_and_leaves_nothing(
    app: Flask, browser: Browser, project: str, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    with app.app_context():
        entries = db.session.query(AuditEntry).count()
    secret = "sk-planted-in-the-body"

    answer = attempt(browser, f"project_id={project}", json.dumps({"model": "o3", "user": secret}), models="gpt-5")

    assert secret in answer.text and answer.headers["Cache-Control"] == "no-store"
    assert row(app, Project).rules is None
    with app.app_context():
        assert db.session.query(AuditEntry).count() == entries
    assert secret not in caplog.text
    assert not any(secret.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "http://["},
        {"path": "/v1/\0%00%ff\u202e"},
        {"path": ""},
        {"method": "MAKE\r\nX: y"},
        {"content_type": "multipart/form-data; boundary="},
        {"content_type": "\r\n;;;"},
        {"address": "fe80::1%eth0", "addresses": "fe80::/10"},
        {"body": "[" * 15_000},
        {"body": '{"model":' * 1_500},
        {"body": "\ud83d"},
        {"body": '{"n":1e999,"model":"\\ud83d"}', "n": "1"},
    ],
)
def test_whatever_is_tried_gets_a_verdict(browser: Browser, project: str, fields: dict[str, str]) -> None:
    fields = {"models": "gpt-5", "body": CHAT} | fields
    fields["body"] = fields["body"].encode("utf-8", "replace").decode()

    assert verdict(attempt(browser, f"project_id={project}", **fields)).startswith("It would ")


@pytest.mark.parametrize("action", ["/admin/rules", "/admin/rules/try", "/admin/rules/remove"])
@pytest.mark.parametrize("field", ["token_id", "project_id"])
def test_rules_of_nobody_are_not_found(browser: Browser, project: str, action: str, field: str) -> None:
    fields = browser.form(f"/admin/rules?project_id={project}", "/admin/rules").fields
    nobody = {"token_id": "", "project_id": "", field: "0" * 36}

    assert browser.post(action, fields | nobody).status_code == 404


def test_markup_in_a_tried_body_is_shown_as_text(browser: Browser, project: str) -> None:
    answer = attempt(browser, f"project_id={project}", "</textarea><script>ran</script>", path="/v1/<script>x")

    assert "<script>ran" not in answer.text and "<script>x" not in answer.text


@pytest.mark.parametrize(
    ("peer", "rules", "is_warned"),
    [
        ("10.1.2.3", {"addresses": "203.0.113.0/24"}, True),
        ("127.0.0.1", {"addresses": "203.0.113.0/24"}, True),
        ("fd00::1", {"addresses": "203.0.113.0/24"}, True),
        ("::ffff:10.1.2.3", {"addresses": "203.0.113.0/24"}, True),
        ("8.8.8.8", {"addresses": "203.0.113.0/24"}, False),
        ("10.1.2.3", {"models": "addresses"}, False),
    ],
)
@pytest.mark.parametrize("owner", ["token", "project"])
def test_health_warns_of_addresses_behind_a_proxy_that_nobody_trusts(
    browser: Browser, project: str, token: str, peer: str, rules: dict[str, str], is_warned: bool, owner: str
) -> None:
    save(browser, f"token_id={token}" if owner == "token" else f"project_id={project}", **rules)

    answer = browser.client.get("/admin/health", headers=browser.headers, environ_base={"REMOTE_ADDR": peer})

    assert ("name it in TRUSTED_PROXIES" in words(answer)) is is_warned


# What would have been refused.


def test_the_last_week_is_counted_by_code_and_leads_to_its_requests(app: Flask, browser: Browser, token: str) -> None:
    noted = {"token": token, "project_id": row(app, Project).id}
    add_records(app, [noted | {"would_refuse": code} for code in ("model_not_allowed",) * 2 + ("ambiguous_body",)])
    add_records(app, [noted | {"would_refuse": "old"}], ago=timedelta(days=9))
    add_records(app, [{"token": "another", "would_refuse": "model_not_allowed"}])

    answer = browser.get(f"/admin/rules?token_id={token}")

    assert "model_not_allowed 2 ambiguous_body 1" in words(answer) and ">old<" not in answer.text
    link = f"/admin/requests?would_refuse=model_not_allowed&amp;span=7d&amp;token={token}"
    assert link in answer.text
    assert browser.get(link.replace("&amp;", "&")).status_code == 200
