"""What another site could make an operator's browser send is refused; what curl sends is not."""

import pytest
from flask import Flask

from models import Project, db
from tests.blueprints.admin.site import HOST, KEY, Browser, Script

PROJECT = {"name": "forged", "openai_api_key": KEY}


def projects(app: Flask) -> int:
    with app.app_context():
        return db.session.query(Project).count()


FOREIGN = [
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null"},
    {"Origin": HOST, "Sec-Fetch-Site": "cross-site"},
    {"Origin": HOST, "Sec-Fetch-Site": "same-site"},
    {"Origin": f"{HOST}.evil.example"},
    {"Origin": f"{HOST}:8443"},
    {"Origin": "http://[::1"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_form_of_another_site_is_refused_even_with_the_right_token(app: Flask, browser: Browser, headers):
    form = browser.form("/admin/projects/new", "/admin/projects")

    answer = browser.post("/admin/projects", form.fields | PROJECT, **{"Referer": "", **headers})

    assert answer.status_code == 403
    assert projects(app) == 0


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_json_of_another_site_is_refused(app: Flask, script: Script, method: str, headers):
    answer = script.send(method, "/admin/projects", json=PROJECT, headers=headers)

    assert answer.status_code == 403
    assert answer.json["error"]["code"] == "cross_site_request"
    assert projects(app) == 0


def test_a_referer_of_another_site_is_refused_where_there_is_no_origin(app: Flask, script: Script):
    answer = script.send("POST", "/admin/projects", json=PROJECT, headers={"Referer": "https://evil.example/a"})

    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": HOST},
        {"Referer": f"{HOST}/admin/"},
        {"Cookie": "session=x"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Mode": "navigate"},
        {"Accept-Language": "en"},
        {"User-Agent": "Mozilla/5.0"},
    ],
    ids=str,
)
def test_a_form_that_a_browser_may_have_sent_needs_the_token(app: Flask, script: Script, headers):
    answer = script.send("POST", "/admin/projects", data=PROJECT, headers=headers)

    assert answer.status_code == 400
    assert answer.json["error"]["code"] == "stale_form"
    assert projects(app) == 0


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_a_body_of_another_type_does_not_get_round_the_token(app: Flask, browser: Browser, content_type: str):
    answer = browser.client.post(
        "/admin/projects",
        data='{"name": "forged", "openai_api_key": "sk-1"}',
        headers=browser.headers | {"Origin": HOST, "Content-Type": content_type},
    )

    assert answer.status_code == 400
    assert projects(app) == 0


def test_a_token_of_another_session_is_refused(app: Flask, browser: Browser):
    stolen = Browser(app).form("/admin/projects/new", "/admin/projects").fields["csrf_token"]
    form = browser.form("/admin/projects/new", "/admin/projects")

    answer = browser.post("/admin/projects", form.fields | PROJECT | {"csrf_token": stolen})

    assert answer.status_code == 400
    assert projects(app) == 0


@pytest.mark.parametrize("token", ["", "nonsense", None])
def test_a_stale_form_is_shown_again_with_its_input_but_never_the_key(app: Flask, browser: Browser, token):
    form = browser.form("/admin/projects/new", "/admin/projects")
    fields = {name: value for name, value in (form.fields | PROJECT).items() if name != "csrf_token"}

    answer = browser.post("/admin/projects", fields if token is None else fields | {"csrf_token": token})

    assert answer.status_code == 400
    assert "open for too long" in answer.text
    assert 'value="forged"' in answer.text and KEY not in answer.text
    assert projects(app) == 0


@pytest.mark.parametrize("page", ["change", "key", "delete", "token"])
def test_every_form_with_input_survives_being_stale(browser: Browser, page: str):
    project = browser.create_project()
    path, fields = {
        "change": (f"/admin/projects/{project}", {"name": "kept name", "base_url": "", "stream_usage": "ask"}),
        "key": (f"/admin/projects/{project}/key", {"openai_api_key": KEY}),
        "delete": (f"/admin/projects/{project}/delete", {"live_tokens": "0"}),
        "token": ("/admin/tokens", {"project_id": project, "duration_hours": "7", "label": "kept name"}),
    }[page]

    answer = browser.post(path, fields)

    assert answer.status_code == 400
    assert "open for too long" in answer.text and KEY not in answer.text
    assert ("kept name" in answer.text) == ("kept name" in fields.values())


def test_a_form_that_is_resent_after_being_stale_goes_through(app: Flask, browser: Browser):
    browser.post("/admin/projects", PROJECT)

    answer = browser.submit("/admin/projects/new", "/admin/projects", **PROJECT)

    assert answer.status_code == 303
    assert projects(app) == 1


def test_curl_may_send_forms_and_json_without_a_token(app: Flask, script: Script):
    by_form = script.send("POST", "/admin/projects", data={"name": "by form", "openai_api_key": KEY})
    by_json = script.send("POST", "/admin/projects", json={"name": "by json", "openai_api_key": KEY})

    assert (by_form.status_code, by_json.status_code) == (201, 201)
    assert by_form.json["name"] == "by form" and by_form.json["key_hint"] == KEY[-4:]
    assert projects(app) == 2


def test_a_script_that_names_its_own_origin_may_send_json(app: Flask, script: Script):
    answer = script.send("POST", "/admin/projects", json=PROJECT, headers={"Origin": HOST})

    assert answer.status_code == 201


def test_reading_needs_no_token_wherever_it_comes_from(script: Script):
    answer = script.send("GET", "/admin/projects", headers={"Origin": "https://evil.example"})

    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
