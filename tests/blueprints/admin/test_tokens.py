"""Tokens: every flow without a script, and the same routes as JSON."""

import html
import re
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask

from control import tokens
from control.audit import Actor
from control.cleanup import Cleanup
from llmproxy.admission import hash_token, utc_now
from llmproxy.errors import UnknownToken
from llmproxy.times import iso_utc
from models import AuditEntry, Token, db
from services import Services
from tests.blueprints.admin.site import Browser, Script

NEW = ("/admin/tokens/new", "/admin/tokens")
SECRET = re.compile(r'id="secret"[^>]*value="([0-9a-f-]{36})"')


def issue(app: Flask, project_id: str, **fields) -> Token:
    with app.app_context():
        lifetime = fields.pop("lifetime", timedelta(hours=24))
        return tokens.issue(db.session, Actor("test"), project_id=project_id, lifetime=lifetime, **fields)[1]


def update(app: Flask, token: Token, **fields) -> None:
    with app.app_context():
        row = db.session.get(Token, token.token_hash)
        for name, value in fields.items():
            setattr(row, name, value)
        db.session.commit()


def stored(app: Flask, token_id: str) -> Token:
    with app.app_context():
        return db.session.query(Token).filter_by(id=token_id).one()


def all_tokens(app: Flask) -> list[Token]:
    with app.app_context():
        return db.session.query(Token).all()


def error_beside(answer, field: str) -> str:
    found = re.search(rf'id="{field}-error">([^<]*)<', answer.text)
    assert found, answer.text
    return found[1].replace("&#39;", "'")


def test_empty_lists_lead_on_to_the_first_project_and_the_first_token(browser: Browser):
    assert 'href="/admin/projects/new"' in browser.get("/admin/tokens").text
    assert 'href="/admin/projects/new"' in browser.get("/admin/tokens/new").text
    browser.create_project()
    assert "Issue the first token" in browser.get("/admin/tokens").text


def test_a_token_is_shown_once_with_lines_to_paste(app: Flask, browser: Browser):
    project = browser.create_project()

    answer = browser.submit(*NEW, project_id=project, duration_hours="24", label="ci", rate_limit="60")

    assert answer.status_code == 201
    secret = SECRET.search(answer.text)[1]
    (token,) = all_tokens(app)
    assert token.token_hash == hash_token(secret)
    assert (token.label, token.rate_limit, token.project_id) == ("ci", 60, project)
    assert "curl http://localhost/v1/chat/completions" in answer.text
    assert f"api_key=&#34;{secret}&#34;" in answer.text or f'api_key="{secret}"' in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    for page in ("/admin/tokens", f"/admin/tokens/{token.id}", "/admin/audit", "/admin/"):
        assert secret not in browser.get(page).text
    cookies = " ".join(cookie.value for cookie in browser.client._cookies.values())
    assert secret not in cookies


def test_a_double_click_issues_one_token_and_shows_it_both_times(app: Flask, browser: Browser):
    browser.create_project()
    fields = browser.form(*NEW).fields

    first, second = (browser.post("/admin/tokens", fields) for _ in range(2))

    assert first.status_code == second.status_code == 201
    assert SECRET.search(first.text)[1] == SECRET.search(second.text)[1]
    assert len(all_tokens(app)) == 1
    with app.app_context():
        assert db.session.query(AuditEntry).filter_by(action="token.issue").count() == 1


def test_a_used_form_does_not_show_its_token_later(app: Flask, browser: Browser, monkeypatch: pytest.MonkeyPatch):
    browser.create_project()
    fields = browser.form(*NEW).fields | {"label": "kept"}
    secret = SECRET.search(browser.post("/admin/tokens", fields).text)[1]
    monkeypatch.setattr(tokens, "REPEAT_WITHIN", timedelta(0))

    answer = browser.post("/admin/tokens", fields)

    assert answer.status_code == 409
    assert "This form has issued its token already." in answer.text
    assert secret not in answer.text and 'value="kept"' in answer.text
    again = re.search(r'name="nonce"[^>]*value="([^"]+)"', answer.text)[1]
    assert again != fields["nonce"]
    assert browser.post("/admin/tokens", fields | {"nonce": again}).status_code == 201
    assert len(all_tokens(app)) == 2


def test_a_used_form_with_other_input_issues_nothing(app: Flask, browser: Browser):
    browser.create_project()
    fields = browser.form(*NEW).fields
    browser.post("/admin/tokens", fields)

    assert browser.post("/admin/tokens", fields | {"label": "another"}).status_code == 409
    assert len(all_tokens(app)) == 1


def test_two_forms_give_two_tokens(app: Flask, browser: Browser):
    browser.create_project()

    secrets = {SECRET.search(browser.submit(*NEW).text)[1] for _ in range(2)}

    assert len(secrets) == 2 and len(all_tokens(app)) == 2


def test_the_form_comes_with_the_project_chosen(browser: Browser):
    browser.create_project("a")
    chosen = browser.create_project("b")

    assert browser.form(f"/admin/tokens/new?project_id={chosen}", "/admin/tokens").fields["project_id"] == chosen


@pytest.mark.parametrize(
    ("field", "value"),
    [("duration_hours", bad) for bad in ("", "0", "8761", "1.5", "many", "-1", "1e3", "٣", "9" * 30)]
    + [("rate_limit", bad) for bad in ("0", "-5", "2147483648", "lots")]
    + [("label", "x" * 201)],
)
def test_a_bad_value_is_told_beside_its_field_and_the_input_is_kept(
    app: Flask, browser: Browser, field: str, value: str
):
    browser.create_project()

    answer = browser.submit(*NEW, **({"label": "kept"} | {field: value}))

    assert answer.status_code == 400
    assert error_beside(answer, field).startswith(("Must be", "Must not", "Is required"))
    assert field == "label" or 'value="kept"' in answer.text
    assert all_tokens(app) == []


def test_a_project_that_is_gone_is_told_beside_the_field(app: Flask, browser: Browser):
    browser.create_project()

    answer = browser.submit(*NEW, project_id="00000000-0000-4000-8000-000000000000")

    assert answer.status_code == 404
    assert error_beside(answer, "project_id") == "There is no project with this project_id."


def test_a_token_is_changed(app: Flask, browser: Browser):
    token = issue(app, browser.create_project(), label="old")
    path = f"/admin/tokens/{token.id}"

    soon = (datetime.now(UTC) + timedelta(days=30)).replace(second=0, microsecond=0)
    fields = {"label": "new", "rate_limit": "5", "expires_at": soon.strftime("%Y-%m-%dT%H:%M")}
    page = browser.follow(browser.submit(path, path, **fields))

    assert "Saved. It holds for the next request." in page.text
    changed = stored(app, token.id)
    assert (changed.label, changed.rate_limit) == ("new", 5)
    assert changed.expires_at == soon


def test_an_expiry_that_nobody_touched_keeps_its_seconds(app: Flask, browser: Browser):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"

    browser.submit(path, path, label="named")

    assert stored(app, token.id).expires_at == token.expires_at


def test_empty_fields_mean_no_label_and_the_default_limit(app: Flask, browser: Browser):
    token = issue(app, browser.create_project(), label="x", rate_limit=5)
    path = f"/admin/tokens/{token.id}"

    browser.submit(path, path, label="", rate_limit="")

    changed = stored(app, token.id)
    assert (changed.label, changed.rate_limit) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [("expires_at", "tomorrow"), ("expires_at", ""), ("expires_at", "2300-01-01T00:00"), ("rate_limit", "0")],
)
def test_a_bad_change_is_told_beside_its_field(app: Flask, browser: Browser, field: str, value: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"

    answer = browser.submit(path, path, **({"label": "kept"} | {field: value}))

    assert answer.status_code == 400
    assert error_beside(answer, field)
    assert 'value="kept"' in answer.text and stored(app, token.id).label is None


def test_a_form_that_was_overtaken_is_not_saved(app: Flask, browser: Browser):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"
    overtaken = browser.form(path, path)
    update(app, token, rate_limit=7)

    answer = browser.post(path, overtaken.fields | {"label": "mine"})

    assert answer.status_code == 409
    assert "Somebody changed this meanwhile" in answer.text and 'value="mine"' in answer.text
    assert stored(app, token.id).rate_limit == 7


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_what_is_over_is_not_changed_and_has_nothing_left(app: Flask, browser: Browser, state: str):
    token = issue(app, browser.create_project(), label="before")
    page = action = f"/admin/tokens/{token.id}"
    form = browser.form(page, action)
    over = {"is_active": False} if state == "revoked" else {"expires_at": datetime.now(UTC) - timedelta(days=2)}
    update(app, token, **over)

    text = browser.get(page).text
    answer = browser.post(action, form.fields | {"label": "after"})

    assert f'action="{action}"' not in text and "of 1,000 left" not in text
    assert "never used" in text and ("Expired <time" in text) == (state == "expired")
    assert answer.status_code == 409 and "Nothing was saved" in answer.text
    assert stored(app, token.id).label == "before"


def test_a_new_secret_is_shown_once_and_the_old_one_works_for_the_grace(app: Flask, browser: Browser):
    project, old = browser.create_project(), str(uuid.uuid4())
    token = issue(app, project, secret=old, lifetime=timedelta(days=9))
    page = f"/admin/tokens/{token.id}"
    form = browser.form(f"{page}/rotate", f"{page}/rotate")

    first, second = (browser.post(f"{page}/rotate", form.fields | {"grace_hours": "24"}) for _ in range(2))

    new = SECRET.search(first.text)[1]
    assert first.status_code == 200 and SECRET.search(second.text)[1] == new != old
    assert stored(app, token.id).token_hash == hash_token(new)
    shown = browser.get(page).text
    assert new not in shown and "An old secret works, too, and ends" in shown
    assert "gave a new secret to the token" in browser.get(f"/admin/audit?target={token.id}").text
    admission, now = Services.of(app).admission, datetime.now(UTC)
    assert not admission.admit(f"Bearer {new}", now).is_retired
    assert admission.admit(f"Bearer sk-{old}", now + timedelta(hours=23)).is_retired
    with pytest.raises(UnknownToken):
        admission.admit(f"Bearer {old}", now + timedelta(hours=25))


def test_a_secret_that_has_ended_names_its_token_for_a_while_and_revokes_nothing(
    app: Flask, browser: Browser, script: Script
):
    old = str(uuid.uuid4())
    token = issue(app, browser.create_project(), secret=old, lifetime=timedelta(days=99))
    page = f"/admin/tokens/{token.id}/rotate"
    browser.submit(page, page, grace_hours="0")

    def removed(days: int) -> int:
        with app.app_context():
            steps = Cleanup(db.engine, Services.of(app).settings).batches(datetime.now(UTC) + timedelta(days=days))
            return dict(steps).get("replaced secrets", 0)

    assert removed(29) == 0
    answer = browser.submit("/admin/requests", "/admin/requests", token=old)
    assert parse_qs(urlsplit(answer.headers["Location"]).query) == {"token": [token.id]}
    assert script.send("DELETE", "/admin/tokens", data={"token": old}).status_code == 404
    assert stored(app, token.id).is_active
    assert removed(31) == 1
    answer = browser.submit("/admin/requests", "/admin/requests", token=old)
    assert answer.status_code == 400 and "is known until TOKEN_RETENTION_DAYS after its end" in answer.text


@pytest.mark.parametrize("hours", ["-1", "169", "", "1.5"])
def test_a_bad_grace_is_told_beside_its_field(app: Flask, browser: Browser, hours: str):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}/rotate"

    answer = browser.submit(path, path, grace_hours=hours)

    assert answer.status_code == 400 and error_beside(answer, "grace_hours")
    assert stored(app, token.id).token_hash == token.token_hash


def test_a_token_that_is_over_gets_no_new_secret(app: Flask, browser: Browser, script: Script):
    token = issue(app, browser.create_project())
    update(app, token, is_active=False)

    assert script.send("POST", f"/admin/tokens/{token.id}/rotate", json={"grace_hours": 1}).status_code == 409


def test_a_token_is_revoked_and_twice_is_no_fault(app: Flask, browser: Browser):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}/revoke"
    form = browser.form(path, path)

    page = browser.follow(browser.post(path, form.fields))

    assert "Revoked. Its next request is refused." in page.text
    assert not stored(app, token.id).is_active
    assert browser.post(path, form.fields).status_code == 303
    with app.app_context():
        assert db.session.query(AuditEntry).filter_by(action="token.revoke").count() == 1


def test_selected_tokens_are_revoked_together_once_it_is_confirmed(app: Flask, browser: Browser, script: Script):
    project = browser.create_project()
    issued = [issue(app, project, label=label) for label in ("one", "two", "gone", "kept")]
    update(app, issued[2], is_active=False)
    ids = [token.id for token in issued[:3]]
    form = browser.form("/admin/tokens", "/admin/tokens/revoke")

    asked = browser.post("/admin/tokens/revoke", {"csrf_token": form.fields["csrf_token"], "id": ids})
    assert "Revoke 2 tokens?" in asked.text and ">gone</a>" not in asked.text
    assert stored(app, ids[0]).is_active

    fields = {"csrf_token": form.fields["csrf_token"], "id": ids, "confirmed": "yes"}
    assert "Revoked 2 tokens." in browser.follow(browser.post("/admin/tokens/revoke", fields)).text
    assert [stored(app, token.id).is_active for token in issued] == [False, False, False, True]
    with app.app_context():
        actions = [entry.action for entry in db.session.query(AuditEntry)]
    assert actions.count("token.revoke") == 2
    none = browser.post("/admin/tokens/revoke", {"csrf_token": form.fields["csrf_token"]})
    assert "No token was selected" in none.text
    sent = {"id": [issued[3].id], "confirmed": "yes"}
    assert script.send("POST", "/admin/tokens/revoke", data=sent).json == {"revoked": 1}


def in_days(days: int) -> str:
    return (utc_now() + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M")


def test_selected_tokens_are_extended_together_and_none_is_shortened(app: Flask, browser: Browser, script: Script):
    project = browser.create_project()
    issued = [issue(app, project, label=label) for label in ("soon", "late", "gone", "over", "other")]
    soon, late, gone, over, other = (token.id for token in issued)
    update(app, issued[1], expires_at=utc_now() + timedelta(days=90))
    update(app, issued[2], is_active=False)
    update(app, issued[3], expires_at=utc_now() - timedelta(hours=1))
    before = {token.id: stored(app, token.id).expires_at for token in issued}
    csrf = browser.form("/admin/tokens", "/admin/tokens/revoke").fields["csrf_token"]
    chosen = {"csrf_token": csrf, "id": [soon, late, gone, over]}

    asked = browser.post("/admin/tokens/extend", chosen)
    assert "Extend 2 tokens" in asked.text and ">gone</a>" not in asked.text and ">over</a>" not in asked.text
    past = browser.post("/admin/tokens/extend", chosen | {"confirmed": "yes", "expires_at": in_days(-1)})
    assert past.status_code == 409 and "That time has passed." in past.text and ">soon</a>" in past.text
    fields = chosen | {"confirmed": "yes", "expires_at": in_days(30)}
    for _ in range(2):  # a double click
        assert "2 tokens work until" in browser.follow(browser.post("/admin/tokens/extend", fields)).text

    after = {token.id: stored(app, token.id).expires_at for token in issued}
    assert timedelta(days=29) < after[soon] - utc_now() <= timedelta(days=30)
    assert after | {soon: before[soon]} == before
    with app.app_context():
        changed = db.session.query(AuditEntry).filter_by(action="token.change").all()
    assert [entry.target_id for entry in changed] == [soon]
    assert "Nothing to extend" in browser.post("/admin/tokens/extend", {"csrf_token": csrf}).text
    sent = {"id": [other], "confirmed": "yes", "expires_at": in_days(5)}
    assert script.send("POST", "/admin/tokens/extend", data=sent).json == {"extended": 1}


@pytest.mark.parametrize("time_zone", ["Europe/Berlin"])
def test_a_time_to_extend_to_is_meant_in_the_pages_zone(app: Flask, browser: Browser, script: Script):
    token = issue(app, browser.create_project())
    sent = {"id": [token.id], "confirmed": "yes", "expires_at": "2199-07-01T12:00"}

    script.send("POST", "/admin/tokens/extend", data=sent)

    assert iso_utc(stored(app, token.id).expires_at).startswith("2199-07-01T10:00:00")


def test_selected_tokens_are_downloaded_and_no_others(app: Flask, browser: Browser):
    project = browser.create_project()
    ids = [issue(app, project, label=label).id for label in ("one", "two", "three")]
    csrf = browser.form("/admin/tokens", "/admin/tokens/revoke").fields["csrf_token"]

    answer = browser.post("/admin/tokens/export", {"csrf_token": csrf, "id": ids[:2]})

    head, *rows = answer.text.splitlines()
    assert answer.mimetype == "text/csv" and head.startswith("id,label,project_id")
    assert [row.partition(",")[0] for row in rows] == ids[:2]


def test_tokens_that_expire_within_a_week_are_found(app: Flask, browser: Browser):
    project = browser.create_project()
    for days, label in ((1, "soon"), (6, "this week"), (8, "later")):
        issue(app, project, label=label, lifetime=timedelta(days=days))
    update(app, issue(app, project, label="over"), expires_at=datetime.now(UTC) - timedelta(hours=1))

    text = browser.get("/admin/tokens?state=expiring").text

    shown = {label for label in ("soon", "this week", "later", "over") if f">{label}</a>" in text}
    assert shown == {"soon", "this week"}


@pytest.mark.parametrize("suffix", ["", "/revoke", "/rotate"])
def test_an_unknown_token_is_a_page_that_says_so(browser: Browser, suffix: str):
    answer = browser.get(f"/admin/tokens/00000000-0000-4000-8000-000000000000{suffix}")

    assert answer.status_code == 404
    assert "It may have been deleted." in answer.text


def test_tokens_are_filtered_by_project_state_and_label(app: Flask, browser: Browser):
    one, other = browser.create_project("one"), browser.create_project("other")
    issue(app, one, label="living one")
    issue(app, other, label="elsewhere")
    update(app, issue(app, one, label="revoked one"), is_active=False)
    update(app, issue(app, one, label="expired one"), expires_at=datetime.now(UTC) - timedelta(hours=1))
    used_up = {"request_count": 5, "window_started_at": datetime.now(UTC)}
    update(app, issue(app, one, label="limited one", rate_limit=5), **used_up)
    names = ("living one", "elsewhere", "revoked one", "expired one", "limited one")

    def shown(query: str) -> set[str]:
        text = browser.get(f"/admin/tokens?{query}").text
        return {name for name in names if f">{name}</a>" in text}

    assert shown("") == set(names)
    assert shown(f"project_id={other}") == {"elsewhere"}
    assert shown("state=live") == {"living one", "elsewhere"}
    assert shown("state=revoked") == {"revoked one"}
    assert shown("state=expired") == {"expired one"}
    assert shown("state=limited") == {"limited one"}
    assert shown("q=LIVING") == {"living one"}
    assert shown(f"project_id={one}&state=live&order=withering") == {"living one"}
    assert shown("order=used&state=nonsense") == set(names)
    assert shown("q=%25") == set()
    browser.post(
        f"/admin/projects/{one}/switch",
        browser.form(f"/admin/projects/{one}/switch", f"/admin/projects/{one}/switch").fields,
    )
    assert shown("state=off") == {"living one", "limited one"}
    assert shown("state=limited") == set() and shown("state=live") == {"elsewhere"}


def test_a_token_is_found_by_whatever_lists_show_of_it(app: Flask, browser: Browser):
    project = browser.create_project()
    ids = [issue(app, project, label=label).id for label in (None, "Übersee")]

    def found(text: str) -> list[str]:
        page = browser.get(f"/admin/tokens?q={text}").text
        return [token_id for token_id in ids if f'href="/admin/tokens/{token_id}"' in page]

    for text in (f"Token {ids[0][:8]}", ids[0][:8], ids[0][:8].upper(), ids[0]):
        assert found(text) == ids[:1], text
    for text in ("übersee", "ÜBER", "See"):
        assert found(text) == ids[1:], text
    assert found(ids[0][:3]) == []


def test_what_withers_first_is_shown_before_what_has_withered(app: Flask, browser: Browser):
    project, now = browser.create_project(), datetime.now(UTC)
    issue(app, project, label="in 9 days", lifetime=timedelta(days=9))
    issue(app, project, label="in 2 days", lifetime=timedelta(days=2))
    update(app, issue(app, project, label="revoked"), is_active=False)
    update(app, issue(app, project, label="weeks ago"), expires_at=now - timedelta(days=20))
    update(app, issue(app, project, label="yesterday"), expires_at=now - timedelta(days=1))

    text = browser.get("/admin/tokens?order=withering").text

    order = ["in 2 days", "in 9 days", "revoked", "yesterday", "weeks ago"]
    assert sorted(order, key=lambda label: text.index(f">{label}</a>")) == order


def test_a_token_over_its_limit_is_live_again_when_the_hour_is_over(app: Flask, browser: Browser):
    token = issue(app, browser.create_project(), rate_limit=5)
    update(app, token, request_count=5, window_started_at=datetime.now(UTC) - timedelta(minutes=61))

    text = browser.get("/admin/tokens?state=live").text

    assert "5 of 5 left" in text


def test_tokens_of_a_project_that_is_off_are_shown_as_such(app: Flask, browser: Browser):
    project = browser.create_project()
    issue(app, project)
    browser.submit(f"/admin/projects/{project}/switch", f"/admin/projects/{project}/switch", is_active="false")

    assert "Project off" in browser.get("/admin/tokens").text


def test_long_lists_come_in_pages(app: Flask, browser: Browser):
    project = browser.create_project()
    for number in range(51):
        issue(app, project, label=f"number {number}.")

    first, second = browser.get("/admin/tokens").text, browser.get("/admin/tokens?page=2").text

    assert "number 50." in first and "number 0." not in first and "Page 1 of 2" in first
    assert "number 0." in second and "number 50." not in second


# The same for scripts


@pytest.mark.parametrize("as_what", ["json", "data"])
def test_a_script_issues_and_revokes(app: Flask, browser: Browser, script: Script, as_what: str):
    project = browser.create_project()
    hours = {"json": 2, "data": "2"}[as_what]

    answer = script.send("POST", "/admin/tokens", **{as_what: {"project_id": project, "duration_hours": hours}})

    assert answer.status_code == 201
    assert set(answer.json) == {"token", "expires_at", "id", "project_id"}
    by_secret = script.send("DELETE", "/admin/tokens", **{as_what: {"token": answer.json["token"]}})
    by_id = script.send("DELETE", "/admin/tokens", **{as_what: {"id": answer.json["id"]}})
    assert (by_secret.status_code, by_id.status_code) == (204, 204)
    assert not stored(app, answer.json["id"]).is_active


def test_a_script_gets_another_token_each_time(app: Flask, browser: Browser, script: Script):
    body = {"project_id": browser.create_project(), "duration_hours": 1}

    first, second = (script.send("POST", "/admin/tokens", json=body).json["token"] for _ in range(2))

    assert first != second


@pytest.mark.parametrize("hours", [True, 1.0, "24", 0, -1, None, 8761, 10**30])
def test_json_takes_whole_hours_alone(app: Flask, browser: Browser, script: Script, hours):
    body = {"project_id": browser.create_project(), "duration_hours": hours}

    answer = script.send("POST", "/admin/tokens", json=body)

    assert answer.status_code == 400
    assert answer.json["error"]["param"] == "duration_hours"
    assert all_tokens(app) == []


@pytest.mark.parametrize("body", [{}, {"id": "a", "token": "b"}, {"id": 1}])
def test_a_bad_body_revokes_nothing(script: Script, body):
    assert script.send("DELETE", "/admin/tokens", json=body).status_code == 400


def test_an_unknown_token_is_404_for_a_script(script: Script):
    answer = script.send("DELETE", "/admin/tokens", json={"id": "00000000-0000-4000-8000-000000000000"})

    assert answer.status_code == 404
    assert answer.json["error"]["param"] == "id"


def test_a_script_reads_and_changes_a_token(app: Flask, browser: Browser, script: Script):
    token = issue(app, browser.create_project())
    path = f"/admin/tokens/{token.id}"

    changed = script.send("POST", path, json={"label": "named"})

    assert changed.json["label"] == "named"
    assert script.send("GET", path, headers={"Accept": "application/json"}).json == changed.json
    listed = script.send("GET", "/admin/tokens", headers={"Accept": "application/json"}).json["data"]
    assert listed == [changed.json]
    assert "token" not in listed[0]


def test_a_nonce_does_not_give_the_secret_away(app: Flask, browser: Browser, script: Script):
    body = {"project_id": browser.create_project(), "duration_hours": "1", "nonce": "1"}

    with_one_key = script.send("POST", "/admin/tokens", data=body).json["token"]
    app.secret_key = b"another key"
    with_another = script.send("POST", "/admin/tokens", data=body).json["token"]

    assert uuid.UUID(with_one_key).version == 4
    assert with_one_key != with_another


def test_an_hour_that_is_over_begins_anew_with_the_next_request(app: Flask, browser: Browser):
    token = issue(app, browser.create_project())
    assert "An hour begins with the first request" in browser.get(f"/admin/tokens/{token.id}").text

    update(app, token, request_count=5, window_started_at=datetime.now(UTC) - timedelta(minutes=30))
    assert "The hour began <time" in browser.get(f"/admin/tokens/{token.id}").text

    update(app, token, window_started_at=datetime.now(UTC) - timedelta(minutes=73))
    assert "An hour begins with the next request" in browser.get(f"/admin/tokens/{token.id}").text


def test_a_replaced_secrets_end_is_told_in_a_sentence(app: Flask, browser: Browser):
    way = f"/admin/tokens/{issue(app, browser.create_project()).id}/rotate"

    answer = re.sub("<[^>]*>", "", browser.submit(way, way, grace_hours="24").text)

    assert "The old secret works, too, and ends in 24 hours." in answer


def test_the_trail_shows_rules_as_json(app: Flask, browser: Browser):
    issue(app, browser.create_project(), rules={"models": ["gpt-5"], "limits": {"store": False}})

    shown = html.unescape(browser.get("/admin/audit").text)

    assert '<ins>{"models":["gpt-5"],"limits":{"store":false}}</ins>' in shown
