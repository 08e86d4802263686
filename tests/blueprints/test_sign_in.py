"""Nobody is let in for what was not verified: any method, any path, with and without credentials."""

from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from config import Settings
from tests.blueprints.admin.site import PASSWORD, basic
from tests.blueprints.conftest import MANAGEMENT_TOKEN, close

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
BEARER = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
ALLOWED = {
    "/admin/": basic(),
    "/admin/projects": basic(),
    "/manage/projects": BEARER,
    "/manage/tokens/x": BEARER,
    "/manage/usage": BEARER,
}


def may(method: str, path: str, app: Flask) -> bool:
    """Whether the application has that route."""
    return any(
        path == rule.rule.replace("<token_id>", "x") and method in rule.methods for rule in app.url_map.iter_rules()
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ALLOWED)
def test_no_method_passes_without_credentials(method: str, path: str, app: Flask):
    answer = app.test_client().open(path, method=method)

    assert answer.status_code == (401 if may(method, path, app) else 405)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ALLOWED)
def test_no_method_passes_with_wrong_credentials(method: str, path: str, app: Flask):
    wrong = basic(password="guess") if path.startswith("/admin") else {"Authorization": "Bearer guess"}
    answer = app.test_client().open(path, method=method, headers=wrong)

    assert answer.status_code == (401 if may(method, path, app) else 405)


@pytest.mark.parametrize("path", ALLOWED)
def test_operators_may_ask_what_may_be_asked(path: str, client: FlaskClient):
    answer = client.open(path, method="OPTIONS", headers=ALLOWED[path])

    assert answer.status_code == 200 and "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
def test_each_secret_opens_its_own_pages_alone(method: str, client: FlaskClient):
    assert client.open("/manage/projects", method=method, headers=basic()).status_code == 401
    assert client.open("/admin/", method=method, headers=BEARER).status_code == 401
    assert (
        client.open("/manage/projects", method=method, headers=basic("management", MANAGEMENT_TOKEN)).status_code
        == 401
    )
    assert client.open("/admin/", method=method, headers={"Authorization": f"Bearer {PASSWORD}"}).status_code == 401


@pytest.mark.parametrize("token", ["a=b-of-the-tests", "with spaces, and = signs", 'realm="x", y'])
def test_a_token_that_reads_like_parameters_opens_what_it_should(token: str, settings: Settings):
    app = create_app(replace(settings, management_token=token, metrics_token=token))
    try:
        for path in ("/manage/projects", "/metrics"):
            statuses = [
                app.test_client().get(path, headers={"Authorization": f"Bearer {sent}"}).status_code
                for sent in (token, f"{token}x", "a=c")
            ]
            assert statuses == [200, 401, 401]
    finally:
        close(app)
