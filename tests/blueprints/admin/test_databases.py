"""What may differ between the databases: the pages' own queries, texts that cannot be stored, lacking tables."""

from datetime import timedelta

import pytest
from flask import Flask

from blueprints.admin import queries
from control import tokens
from control.audit import Actor
from models import db
from services import Services
from tests.blueprints.admin.site import Browser
from tests.databases import execute


def test_every_list_and_filter_works(app: Flask, browser: Browser):
    project = browser.create_project("Alpha 100%")
    with app.app_context():
        for label in ("one", "two"):
            tokens.issue(db.session, Actor("t"), project_id=project, lifetime=timedelta(days=1), label=label)
    paths = ["/admin/", "/admin/projects?q=alpha", f"/admin/projects/{project}", "/admin/audit?type=token&actor=t"]
    paths += ["/admin/audit?before=99999999999999999999", "/admin/health", "/admin/requests"]
    paths += [f"/admin/tokens?state={state}" for state in queries.TOKEN_STATES]
    paths += [f"/admin/projects?state={state}" for state in queries.PROJECT_STATES]
    paths += [f"/admin/tokens?order={order}&q=o" for order in ("newest", "withering", "used")]

    assert {path: browser.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)
    assert "Alpha 100%" in browser.get("/admin/projects?q=100%25").text


@pytest.mark.parametrize(
    "path",
    [
        "/admin/projects?q=%00",
        "/admin/tokens?q=%00",
        "/admin/tokens?project_id=%00",
        "/admin/audit?target=%00",
        "/admin/requests?token=%00",
        "/admin/projects/%00",
        "/admin/tokens/%00",
    ],
)
def test_a_text_that_postgresql_cannot_take_is_no_fault(browser: Browser, path: str):
    assert browser.get(path).status_code < 500


def test_a_missing_table_is_told_kindly(app: Flask, browser: Browser):
    execute(Services.of(app).settings.database_url, "ALTER TABLE projects RENAME TO gone")

    answer = browser.get("/admin/projects")

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
