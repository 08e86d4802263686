"""Projects: every flow without a script, and the same routes as JSON."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import Mock

import pytest
from flask import Flask

from control import tokens
from control.audit import Actor
from llmproxy.live_calls import LiveCall
from models import AuditEntry, Project, Token, db
from services import Services
from tests.blueprints.admin.site import KEY, Browser, Script

CREATE = ("/admin/projects/new", "/admin/projects")


def issue(app: Flask, project_id: str, count: int = 1) -> None:
    with app.app_context():
        for _ in range(count):
            tokens.issue(db.session, Actor("test"), project_id=project_id, lifetime=timedelta(hours=1))


def stored(app: Flask, project_id: str) -> Project | None:
    with app.app_context():
        return db.session.get(Project, project_id)


@contextmanager
def live_call(app: Flask, project_id: str) -> Iterator[None]:
    """A call of the project is running."""
    live, call = Services.of(app).live, Mock(LiveCall, project_id=project_id, is_stream=True, is_session=False)
    live.join(call)
    yield
    live.leave(call)


def error_beside(answer, field: str) -> str:
    found = re.search(rf'id="{field}-error">([^<]*)<', answer.text)
    assert found, answer.text
    return found[1].replace("&#39;", "'")


def test_an_empty_list_says_what_to_do_next(browser: Browser):
    text = browser.get("/admin/projects").text

    assert "No projects yet" in text and 'href="/admin/projects/new"' in text


def test_a_project_is_created_and_shown_without_its_key(app: Flask, browser: Browser):
    answer = browser.submit(
        *CREATE, name="  Support  ", openai_api_key=f" {KEY}\n", base_url="http://models.local/v1"
    )

    page = browser.follow(answer)
    assert "Created the project “Support”" in page.text
    assert f"••••{KEY[-4:]}" in page.text and KEY not in page.text
    project = stored(app, answer.headers["Location"].rsplit("/", 1)[1])
    assert (project.name, project.base_url, project.stream_usage) == ("Support", "http://models.local/v1", "as-sent")
    assert KEY not in project.openai_api_key


def test_a_double_click_creates_one_project(app: Flask, browser: Browser):
    form = browser.form(*CREATE)
    fields = form.fields | {"name": "once", "openai_api_key": KEY}

    first, second = (browser.post("/admin/projects", fields) for _ in range(2))

    assert first.status_code == second.status_code == 303
    assert first.headers["Location"] == second.headers["Location"]
    with app.app_context():
        assert db.session.query(Project).count() == 1
        assert db.session.query(AuditEntry).count() == 1


def test_a_form_makes_no_second_project_under_another_name(app: Flask, browser: Browser):
    fields = browser.form(*CREATE).fields | {"name": "first", "openai_api_key": KEY}
    browser.post("/admin/projects", fields)

    answer = browser.post("/admin/projects", fields | {"name": "second"})

    assert answer.status_code == 409
    assert "has created the project 'first' already" in error_beside(answer, "name")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "Must not be empty."),
        ("name", "   ", "Must not be empty."),
        ("name", "x" * 201, "Must not be longer than 200 characters."),
        ("name", "a\x00b", "Must not hold control characters."),
        ("openai_api_key", "", "Must have 1 to 1024 characters."),
        ("openai_api_key", "two words", "Must be printable ASCII without spaces."),
        ("base_url", "ftp://x", "Must start with http:// or https:// and name a host."),
        ("base_url", "http://user:pw@x", "Must be scheme, host, port and path alone."),
        ("stream_usage", "guess", "Must be one of as-sent, ask."),
    ],
)
def test_a_bad_value_is_told_beside_its_field_and_the_input_is_kept(
    app: Flask, browser: Browser, field: str, value: str, message: str
):
    fields = {"name": "kept", "openai_api_key": KEY, "base_url": "http://kept.local"} | {field: value}

    answer = browser.submit(*CREATE, **fields)

    assert answer.status_code == 400
    assert error_beside(answer, field) == message
    assert 'aria-invalid="true"' in answer.text
    assert ("kept" in answer.text) and KEY not in answer.text
    with app.app_context():
        assert db.session.query(Project).count() == 0


def test_a_taken_name_is_told_beside_the_field(browser: Browser):
    browser.create_project("taken")

    answer = browser.submit(*CREATE, name="taken", openai_api_key=KEY)

    assert answer.status_code == 409
    assert error_beside(answer, "name") == "A project named 'taken' exists already. Choose another name."
    assert 'value="taken"' in answer.text


def test_a_refused_form_says_that_the_key_is_wanted_again_and_leads_to_the_first_fault(browser: Browser):
    browser.create_project("taken")

    text = browser.submit(*CREATE, name="taken", openai_api_key=KEY).text
    fields = {tag for tag in re.findall(r"<input[^>]*>", text) if "autofocus" in tag}

    assert "Enter it again" in text and KEY not in text
    assert {re.search(r'name="(\w+)"', tag)[1] for tag in fields} == {"name", "openai_api_key"}
    assert text.index('id="name"') < text.index('id="openai_api_key"')


def test_a_project_is_renamed_and_told_apart_in_the_audit_trail(app: Flask, browser: Browser):
    project = browser.create_project("old name")
    path = f"/admin/projects/{project}"

    changes = {"name": "new name", "base_url": "http://other.local", "openai_api_key": KEY}
    page = browser.follow(browser.submit(path, path, **changes))

    assert "Saved “new name”." in page.text
    audit = browser.get(f"/admin/audit?target={project}").text
    assert "<del>old name</del>" in audit and "<ins>new name</ins>" in audit


def test_another_host_needs_its_key_in_the_same_form(browser: Browser):
    path = f"/admin/projects/{browser.create_project('mine')}"

    answer = browser.submit(path, path, name="new name", base_url="http://other.local")

    assert answer.status_code == 400
    assert "another host" in error_beside(answer, "api_key_for_base_url")
    assert 'value="http://other.local"' in answer.text and "<h1>mine" in answer.text.replace("\n", "")
    assert browser.submit(path, path, name="new name").status_code == 303  # no key, no other host


def test_renaming_to_a_taken_name_keeps_the_input(browser: Browser):
    browser.create_project("taken")
    path = f"/admin/projects/{browser.create_project('mine')}"

    answer = browser.submit(path, path, name="taken", base_url="http://typed.local")

    assert answer.status_code == 409
    assert "exists already" in error_beside(answer, "name")
    assert 'value="http://typed.local"' in answer.text


def test_a_form_that_was_overtaken_is_not_saved_until_it_is_sent_again(app: Flask, browser: Browser):
    project = browser.create_project("first")
    path = f"/admin/projects/{project}"
    overtaken = browser.form(path, path)
    browser.submit(path, path, name="from elsewhere")

    answer = browser.post(path, overtaken.fields | {"name": "mine"})

    assert answer.status_code == 409
    assert "Somebody changed this meanwhile" in answer.text and 'value="mine"' in answer.text
    assert stored(app, project).name == "from elsewhere"
    again = re.search(r'name="seen"[^>]*value="([^"]+)"', answer.text)[1]
    assert browser.post(path, overtaken.fields | {"name": "mine", "seen": again}).status_code == 303
    assert stored(app, project).name == "mine"


def test_a_key_is_replaced_and_never_shown(app: Flask, browser: Browser):
    project = browser.create_project()
    before = stored(app, project).openai_api_key

    page = browser.follow(
        browser.submit(
            f"/admin/projects/{project}", f"/admin/projects/{project}/key", openai_api_key="sk-another-key-9876wxyz"
        )
    )

    assert "••••wxyz" in page.text and "sk-another" not in page.text
    assert stored(app, project).openai_api_key != before
    assert "sk-another" not in browser.get("/admin/audit").text


def test_a_bad_new_key_is_told_beside_its_field(browser: Browser):
    project = browser.create_project()

    answer = browser.submit(
        f"/admin/projects/{project}", f"/admin/projects/{project}/key", openai_api_key="with space"
    )

    assert answer.status_code == 400
    assert error_beside(answer, "new_api_key") == "Must be printable ASCII without spaces."
    assert "with space" not in answer.text


def test_a_project_is_switched_off_and_on(app: Flask, browser: Browser):
    project = browser.create_project()
    issue(app, project, 3)
    path, action = f"/admin/projects/{project}", f"/admin/projects/{project}/switch"

    assert f'href="{action}"' in browser.get(path).text
    with live_call(app, project):
        asked = browser.get(action).text
    assert "<strong>3 live tokens</strong>" in asked and "At least <strong>1 call</strong>" in asked
    assert stored(app, project).is_active

    off = browser.follow(browser.submit(action, action, is_active="false"))
    assert "Switched off" in off.text and not stored(app, project).is_active
    on = browser.follow(browser.submit(path, action, is_active="true"))
    assert "Switched on" in on.text and stored(app, project).is_active


def test_deleting_a_project_asks_for_the_number_of_its_live_tokens(app: Flask, browser: Browser):
    project = browser.create_project()
    issue(app, project, 3)
    path = f"/admin/projects/{project}/delete"

    assert "<strong>3 live tokens</strong>" in browser.get(path).text
    for wrong in ("", "2", "many", "-3", "٣", "9" * 30):
        answer = browser.submit(path, path, live_tokens=wrong)
        assert answer.status_code in (400, 409), wrong
        assert error_beside(answer, "live_tokens")
    assert stored(app, project) is not None

    page = browser.follow(browser.submit(path, path, live_tokens="3"))

    assert "Deleted the project “first”" in page.text
    assert stored(app, project) is None


def test_a_token_issued_while_one_confirms_is_not_deleted_unseen(app: Flask, browser: Browser):
    project = browser.create_project()
    path = f"/admin/projects/{project}/delete"
    form = browser.form(path, path)
    issue(app, project)

    answer = browser.post(path, form.fields | {"live_tokens": "0"})

    assert answer.status_code == 409
    assert error_beside(answer, "live_tokens") == "The project has 1 live tokens now."
    assert stored(app, project) is not None


def test_a_project_without_live_tokens_is_deleted_by_a_button(app: Flask, browser: Browser):
    project = browser.create_project()

    path = f"/admin/projects/{project}/delete"
    assert browser.submit(path, path).status_code == 303
    assert stored(app, project) is None


def test_all_tokens_of_a_project_are_revoked(app: Flask, browser: Browser):
    project = browser.create_project()
    issue(app, project, 2)
    path = f"/admin/projects/{project}/revoke"

    assert "<strong>2 live tokens</strong>" in browser.get(path).text
    page = browser.follow(browser.submit(path, path))

    assert "Revoked 2 tokens." in page.text
    with app.app_context():
        assert not any(token.is_active for token in db.session.query(Token))


@pytest.mark.parametrize("suffix", ["", "/delete", "/revoke"])
def test_an_unknown_project_is_a_page_that_says_so(browser: Browser, suffix: str):
    answer = browser.get(f"/admin/projects/00000000-0000-4000-8000-000000000000{suffix}")

    assert answer.status_code == 404
    assert "It may have been deleted." in answer.text


@pytest.mark.parametrize("action", ["", "/key", "/switch", "/delete", "/revoke"])
def test_a_form_for_a_project_that_was_deleted_meanwhile_says_so(app: Flask, browser: Browser, action: str):
    gone = browser.create_project("gone")
    fields = browser.form(f"/admin/projects/{gone}", f"/admin/projects/{gone}").fields
    delete = f"/admin/projects/{gone}/delete"
    browser.submit(delete, delete)

    sent = fields | {"openai_api_key": KEY, "is_active": "true", "live_tokens": "0"}
    answer = browser.post(f"/admin/projects/{gone}{action}", sent)

    assert answer.status_code == 404
    assert "It may have been deleted." in answer.text


def test_projects_are_found_by_a_part_of_their_name(browser: Browser):
    for name in ("Alpha 100%", "Beta", "alphabet"):
        browser.create_project(name)

    text = browser.get("/admin/projects?q=ALPHA").text

    assert "Alpha 100%" in text and "alphabet" in text and ">Beta<" not in text
    assert "Alpha 100%" in browser.get("/admin/projects?q=100%25").text
    assert "No project passes this filter" in browser.get("/admin/projects?q=_").text


@pytest.mark.parametrize("page", ["-1", "0", "2", "999999999999999999999", "x"])
def test_a_page_that_there_is_not_gives_way_to_the_nearest_and_is_told(browser: Browser, page: str):
    browser.create_project("the only one")

    answer = browser.get(f"/admin/projects?page={page}")

    assert answer.status_code == 200 and "the only one" in answer.text
    assert "There is no such page of this list. This is page 1 of 1." in answer.text
    assert "There is no such page" not in browser.get("/admin/projects?page=1").text


# The same for scripts


def test_json_creates_lists_reads_and_changes(script: Script):
    created = script.send("POST", "/admin/projects", json={"name": "by json", "openai_api_key": KEY})
    path = f"/admin/projects/{created.json['id']}"

    assert created.status_code == 201 and "openai_api_key" not in created.json
    listed = script.send("GET", "/admin/projects", headers={"Accept": "application/json"})
    assert [row["name"] for row in listed.json["data"]] == ["by json"]
    changed = script.send("POST", path, json={"name": "renamed", "is_active": False})
    assert (changed.json["name"], changed.json["is_active"]) == ("renamed", False)
    assert script.send("GET", path, headers={"Accept": "application/json"}).json == changed.json


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": 1, "openai_api_key": KEY}, "name"),
        ({"name": "a", "openai_api_key": KEY, "extra": 1}, "extra"),
        ([], None),
    ],
)
def test_bad_json_gets_the_answer_of_the_management_api(app: Flask, script: Script, body, param):
    answer = script.send("POST", "/admin/projects", json=body)
    bearer = {"Authorization": f"Bearer {Services.of(app).settings.management_token}"}
    managed = app.test_client().post("/manage/projects", json=body, headers=bearer)

    assert answer.status_code == managed.status_code == 400
    assert answer.json == managed.json
    assert answer.json["error"]["param"] == param


def test_broken_json_is_refused(script: Script):
    answer = script.send("POST", "/admin/projects", data=b"{", headers={"Content-Type": "application/json"})

    assert answer.status_code == 400


def test_a_form_without_a_browser_gets_errors_as_json(script: Script):
    script.send("POST", "/admin/projects", data={"name": "taken", "openai_api_key": KEY})

    answer = script.send("POST", "/admin/projects", data={"name": "taken", "openai_api_key": KEY})

    assert answer.status_code == 409
    assert answer.json["error"]["param"] == "name"


@pytest.mark.parametrize("as_what", ["json", "data"])
def test_a_project_is_deleted_by_a_body(app: Flask, browser: Browser, script: Script, as_what: str):
    project = browser.create_project()
    issue(app, project)
    true = {"json": True, "data": "true"}[as_what]

    refused = script.send("DELETE", "/admin/projects", **{as_what: {"id": project}})
    assert refused.status_code == 409 and refused.json["error"]["param"] == "force"
    assert script.send("DELETE", "/admin/projects", **{as_what: {"id": project, "force": true}}).status_code == 204
    assert stored(app, project) is None
    assert script.send("DELETE", "/admin/projects", **{as_what: {"id": project}}).status_code == 404


@pytest.mark.parametrize("body", [{}, {"id": 1}, {"id": "x", "more": 1}, {"id": "x", "force": "yes"}])
def test_a_bad_body_deletes_nothing(app: Flask, browser: Browser, script: Script, body):
    project = browser.create_project()

    assert script.send("DELETE", "/admin/projects", json=body).status_code == 400
    assert stored(app, project) is not None


def test_a_change_names_its_operator_and_address(app: Flask, browser: Browser):
    browser.create_project("watched")

    with app.app_context():
        entry = db.session.query(AuditEntry).one()
    assert (entry.actor, entry.address, entry.action) == ("admin", "127.0.0.1", "project.create")
    assert KEY not in str(entry.after)
