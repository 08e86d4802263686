"""What could differ between the databases: the pages' own queries, and texts that PostgreSQL cannot take."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import config
import storage
from app import create_app
from blueprints.services import services_of
from models import db
from operations import Actor
from tests.blueprints.admin.site import PASSWORD, Browser

pytestmark = pytest.mark.postgres


@pytest.fixture
def app(tmp_path: Path, postgres_server: Any) -> Iterator[Flask]:
    settings = config.load({"DATA_DIR": str(tmp_path), "ADMIN_PASSWORD": PASSWORD}, embedded=True)
    app = create_app(replace(settings, database_url=postgres_server.new_database()))
    storage.migrate_to_head(app, tmp_path)
    yield app
    services_of(app).log.close()
    services_of(app).admission._store.close()
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


def test_every_list_and_filter_works_on_postgresql(app: Flask, browser: Browser):
    project = browser.create_project("Alpha 100%")
    with app.app_context():
        for label in ("one", "two"):
            services_of(app).operations.issue_token(
                Actor("t"), project_id=project, lifetime=timedelta(days=1), label=label
            )
    paths = ["/admin/", "/admin/projects?q=alpha", f"/admin/projects/{project}", "/admin/audit?type=token&actor=t"]
    paths += ["/admin/audit?before=99999999999999999999", "/admin/health", "/admin/requests"]
    paths += [f"/admin/tokens?state={state}" for state in ("live", "limited", "expired", "revoked")]
    paths += [f"/admin/tokens?order={order}&q=o" for order in ("newest", "withering", "used")]

    assert {path: browser.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)
    assert "PostgreSQL" in browser.get("/admin/health").text
    assert "Alpha 100%" in browser.get("/admin/projects?q=100%25").text


def test_a_double_click_on_postgresql_does_its_work_once(app: Flask, browser: Browser):
    browser.create_project()
    fields = browser.form("/admin/tokens/new", "/admin/tokens").fields

    first, second = (browser.post("/admin/tokens", fields) for _ in range(2))

    assert first.status_code == second.status_code == 201
    assert browser.get("/admin/tokens").text.count('class="pill live"') == 1


@pytest.mark.parametrize(
    "path",
    [
        "/admin/projects?q=%00",
        "/admin/tokens?q=%00",
        "/admin/tokens?project_id=%00",
        "/admin/audit?target=%00",
        "/admin/projects/%00",
        "/admin/tokens/%00",
    ],
)
def test_a_text_that_postgresql_cannot_take_is_no_fault(browser: Browser, path: str):
    assert browser.get(path).status_code == 400
