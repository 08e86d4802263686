"""Attempts to have a project's key sent to somebody else, by the management token alone or by the database alone."""

import base64
import json

import pytest

from mock_openai.mock import MockOpenAI
from tests.databases import database_of, execute
from tests.http_by_hand import call
from tests.servers import ADMIN_PASSWORD, MANAGEMENT_TOKEN, UPSTREAM_KEY, Server, fetch


@pytest.fixture
def thief():
    """An upstream that is nobody's."""
    with MockOpenAI() as mock:
        yield mock


def rewrite(server: Server, statement: str) -> None:
    """What whoever has the database but not the encryption key can do."""
    execute(server.settings.get("DATABASE_URL") or database_of(server.data_dir, empty=True), statement)


def ask(server: Server, token) -> int:
    return call(server.url, "GET", "/v1/models", token.bearer).status


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/manage/projects/{}"), ("POST", "/admin/projects/{}")])
def test_the_key_does_not_follow_a_base_url_to_another_host(method, path, proxy, upstream, thief, token):
    secret = f"admin:{ADMIN_PASSWORD}" if path.startswith("/admin") else ""
    operator = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret else f"Bearer {MANAGEMENT_TOKEN}"
    for base_url in (thief.url, f"{thief.url}/v1", "https://127.0.0.1", "http://localhost"):
        change = {"base_url": base_url, "name": "renamed"}
        headers = {"Authorization": operator, "Content-Type": "application/json", "Accept": "application/json"}
        status, _, told = fetch(proxy.url, method, path.format(token.project_id), headers, change)
        assert (status, json.loads(told)["error"]["param"]) == (400, "openai_api_key")

    assert proxy.manage("GET", f"/projects/{token.project_id}")[1]["name"] != "renamed"
    assert ask(proxy, token) == 200 and thief.requests() == []


def test_a_key_that_comes_with_its_base_url_is_the_one_that_goes_there(proxy, upstream, thief, token):
    change = {"base_url": f"{thief.url}/v1", "openai_api_key": "sk-of-the-other-host"}
    assert proxy.manage("PATCH", f"/projects/{token.project_id}", change)[0] == 200
    assert ask(proxy, token) == 200

    (seen,) = thief.requests()
    assert dict(seen["headers"])["Authorization"] == "Bearer sk-of-the-other-host"
    assert proxy.manage("PATCH", f"/projects/{token.project_id}", {"base_url": f"{thief.url}/proxy/v1"})[0] == 200
    assert ask(proxy, token) in (200, 404)


@pytest.mark.parametrize("theft", ["base_url = '{thief}'", "base_url = '{thief}/v1', name = 'x'"])
def test_the_database_alone_cannot_send_a_key_elsewhere(theft, proxy, upstream, thief, token):
    rewrite(proxy, f"UPDATE projects SET {theft.format(thief=thief.url)} WHERE id = '{token.project_id}'")

    answer = call(proxy.url, "GET", "/v1/models", token.bearer)
    assert (answer.status, answer.json["error"]["code"]) == (503, "auth_unavailable")
    assert thief.requests() == []


def test_the_database_alone_cannot_have_new_keys_sealed_for_any_upstream(proxy, upstream, thief, token):
    """A seal of the old form, which is for any upstream, is an older node's, or a forger's."""
    rewrite(proxy, f"UPDATE projects SET openai_api_key = 'v1.00000000.AAAA' WHERE id = '{token.project_id}'")
    try:
        later = proxy.issue_token()
        rewrite(proxy, f"UPDATE projects SET base_url = '{thief.url}' WHERE id = '{later.project_id}'")

        assert ask(proxy, later) == 503 and thief.requests() == []
    finally:  # with such a row the other tests' server would be a degraded one
        rewrite(proxy, f"DELETE FROM tokens WHERE project_id = '{token.project_id}'")
        rewrite(proxy, f"DELETE FROM projects WHERE id = '{token.project_id}'")


def test_the_database_alone_cannot_bring_a_key_back_from_another_upstream(proxy, upstream, thief):
    elsewhere = proxy.issue_token(proxy.create_project(base_url=thief.url))
    rewrite(proxy, f"UPDATE projects SET base_url = NULL WHERE id = '{elsewhere.project_id}'")

    assert ask(proxy, elsewhere) == 503


def test_a_key_cannot_be_put_into_another_project(proxy, upstream, thief, token):
    mine = proxy.issue_token(proxy.create_project(base_url=thief.url, openai_api_key="sk-of-mine"))
    rewrite(
        proxy,
        "UPDATE projects SET openai_api_key = "
        f"(SELECT openai_api_key FROM projects WHERE id = '{token.project_id}') WHERE id = '{mine.project_id}'",
    )

    assert ask(proxy, mine) == 503 and thief.requests() == []
    assert ask(proxy, token) == 200
    assert dict(upstream.requests()[-1]["headers"])["Authorization"] == f"Bearer {UPSTREAM_KEY}"
