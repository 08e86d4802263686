"""Who gets in, and what every answer carries."""

import pytest
from flask import Flask

from control.sign_ins import MAX_FAILURES
from tests.blueprints.admin.site import PASSWORD, Browser, Script, basic

PAGES = ["/admin/", "/admin/projects", "/admin/tokens", "/admin/requests", "/admin/audit", "/admin/health"]


@pytest.mark.parametrize("path", [*PAGES, "/admin/projects/new", "/admin/requests/tail", "/admin/nowhere"])
def test_no_page_opens_without_a_password(app: Flask, path: str):
    answer = app.test_client().get(path, headers={"Accept": "text/html"})

    assert answer.status_code == 401
    assert '<a role="button" class="ghost" href="/admin/">Sign in</a>' in answer.text
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="llm-proxy admin", charset="UTF-8"'


@pytest.mark.parametrize(
    ("user", "password"), [("admin", "wrong"), ("root", PASSWORD), ("", ""), ("admin", ""), ("ädmin", "pässwörd")]
)
def test_wrong_credentials_are_refused(app: Flask, user: str, password: str):
    assert app.test_client().get("/admin/", headers=basic(user, password)).status_code == 401


@pytest.mark.parametrize("value", ["Basic", "Basic !!!", "Bearer x", "Basic " + "QQ==", "\x7f"])
def test_a_malformed_authorization_header_is_refused(app: Flask, value: str):
    assert app.test_client().get("/admin/", headers={"Authorization": value}).status_code == 401


def test_unsafe_requests_need_the_password_too(app: Flask):
    client = app.test_client()

    statuses = {
        client.open(path, method=method, json={"id": "x"}).status_code
        for path in ("/admin/projects", "/admin/tokens")
        for method in ("POST", "DELETE")
    }

    assert statuses == {401}


def test_repeated_failures_are_throttled_and_told_when_to_come_back(app: Flask):
    client = app.test_client()
    for _ in range(MAX_FAILURES):
        assert client.get("/admin/", headers=basic(password="guess")).status_code == 401

    answer = client.get("/admin/", headers=basic())

    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"


def test_a_request_without_a_password_forgives_no_failure(app: Flask):
    client = app.test_client(use_cookies=False)
    for method in ("OPTIONS", "GET", "HEAD", "POST"):
        for _ in range(MAX_FAILURES - 1):
            client.get("/admin/", headers=basic(password="guess"))
        assert client.open("/admin/projects", method=method).status_code == 401

    assert client.get("/admin/", headers=basic()).status_code == 429


def test_other_addresses_are_not_throttled(app: Flask):
    client = app.test_client()
    for _ in range(MAX_FAILURES):
        client.get("/admin/", headers=basic(password="guess"))

    assert client.get("/admin/", headers=basic(), environ_base={"REMOTE_ADDR": "192.0.2.7"}).status_code == 200


def test_guesses_from_the_same_address_do_not_lock_out_an_operator_at_work(app: Flask, browser: Browser):
    assert browser.get("/admin/").status_code == 200
    for _ in range(MAX_FAILURES):
        app.test_client().get("/admin/", headers=basic(password="guess"))

    assert browser.get("/admin/").status_code == 200
    assert Browser(app).get("/admin/").status_code == 429


def test_success_makes_no_room_for_guesses(app: Flask):
    client = app.test_client(use_cookies=False)
    for _ in range(MAX_FAILURES):
        assert client.get("/admin/", headers=basic()).status_code == 200
        assert client.get("/admin/", headers=basic(password="guess")).status_code == 401

    assert client.get("/admin/", headers=basic(password="guess")).status_code == 429


def test_a_made_up_mark_is_an_address_like_any_other(app: Flask):
    for number in range(MAX_FAILURES):
        headers = basic(password="guess") | {"Cookie": f"session=eyJicm93c2VyIjoiYSJ9.aaaaaa.{number}"}
        assert app.test_client(use_cookies=False).get("/admin/", headers=headers).status_code == 401

    assert app.test_client().get("/admin/", headers=basic()).status_code == 429


def test_a_visit_without_a_password_is_no_guess(app: Flask):
    client = app.test_client()
    for _ in range(MAX_FAILURES + 1):
        client.get("/admin/")

    assert client.get("/admin/", headers=basic()).status_code == 200


def test_addresses_of_one_ipv6_network_count_as_one(app: Flask):
    client = app.test_client()
    for number in range(MAX_FAILURES):
        client.get("/admin/", headers=basic(password="guess"), environ_base={"REMOTE_ADDR": f"2001:db8::{number}"})

    answer = client.get("/admin/", headers=basic(), environ_base={"REMOTE_ADDR": "2001:db8::ffff"})

    assert answer.status_code == 429


@pytest.mark.parametrize("path", PAGES)
def test_pages_carry_the_security_headers(browser: Browser, path: str):
    headers = browser.get(path).headers

    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_refusals_carry_the_security_headers_too(app: Flask):
    assert "default-src 'none'" in app.test_client().get("/admin/").headers["Content-Security-Policy"]


def test_the_rest_of_the_proxy_carries_none_of_them(app: Flask):
    answer = app.test_client().get("/healthz")

    assert "Content-Security-Policy" not in answer.headers and "Set-Cookie" not in answer.headers


def test_styles_are_open_and_kept_by_browsers_as_long_as_they_do_not_change(app: Flask):
    answer = app.test_client().get("/admin/static/admin.css?v=abc")

    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_outside_of_the_static_files_is_served(app: Flask):
    statuses = {
        app.test_client().get(f"/admin/static/{path}").status_code for path in ("../app.py", "%2e%2e/app.py", "..")
    }

    assert statuses <= {401, 404}


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(browser: Browser):
    cookie = browser.get("/admin/projects/new").headers["Set-Cookie"]

    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/admin" in cookie


def test_an_unknown_page_says_so(browser: Browser, script: Script):
    assert browser.get("/admin/nowhere").status_code == 404
    assert "Not Found" in browser.get("/admin/nowhere").text
    answer = script.send("GET", "/admin/nowhere", headers={"Accept": "application/json"})
    assert answer.status_code == 404 and answer.json["error"]["message"]


def test_a_wrong_method_is_told_which_ones_are_right(script: Script):
    answer = script.send("PUT", "/admin/projects", json={})

    assert answer.status_code == 405
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["Allow"].replace(" ", "").split(","))


def test_a_body_over_the_limit_is_refused(script: Script):
    assert script.send("POST", "/admin/projects", json={"name": "x" * 70_000}).status_code == 413


def test_a_fault_is_a_page_without_details(app: Flask, browser: Browser, monkeypatch: pytest.MonkeyPatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the inner secret")

    monkeypatch.setattr("blueprints.admin.queries.projects_page", fail)

    answer = browser.get("/admin/projects")

    assert answer.status_code == 500
    assert "Something broke" in answer.text and "inner secret" not in answer.text


def test_the_session_cookie_stays_on_tls_where_there_is_tls(browser: Browser):
    answer = browser.client.get("/admin/projects/new", headers=browser.headers, base_url="https://localhost")

    assert "Secure" in answer.headers["Set-Cookie"]
    assert "Secure" not in browser.get("/admin/tokens").headers.get("Set-Cookie", "")
