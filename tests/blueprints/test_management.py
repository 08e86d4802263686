"""The management API through the application: what is refused changes nothing, what changes is audited once."""

import itertools
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, OperationalError

import config
from app import create_app
from blueprints import errors
from config import Settings
from services import Services
from tests.blueprints.conftest import MANAGEMENT_TOKEN, UPSTREAM_KEY, Operator, close, settings_in
from tests.databases import database_of, execute, migrate
from tests.postgres import PostgresServer

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PROJECT = {"name": "p", "openai_api_key": UPSTREAM_KEY}


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert UPSTREAM_KEY not in caplog.text
    assert MANAGEMENT_TOKEN not in caplog.text


@pytest.fixture
def project(operator: Operator) -> str:
    return operator.create_project()


@pytest.fixture
def token(operator: Operator, project: str) -> dict[str, Any]:
    return operator.issue_token(project)


class Standing(NamedTuple):
    """One project with one token, for the many calls that must change nothing."""

    operator: Operator
    project: str
    token: dict[str, Any]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    settings = settings_in(tmp_path_factory.mktemp("standing"))
    app = create_app(settings)
    operator = Operator(app.test_client())
    project = operator.create_project()
    yield Standing(operator, project, operator.issue_token(project))
    close(app)


def refused(operator: Operator, status: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The error of a call that must change nothing."""
    before = operator.tables()
    response = operator.call(method, path, body)

    assert response.status_code == status, response.text
    assert operator.tables() == before
    error: dict[str, Any] = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert UPSTREAM_KEY not in response.text
    return error


def audited(operator: Operator, *actions: str) -> list[dict[str, Any]]:
    """The audit trail, which must consist of these actions."""
    rows = operator.rows("audit")
    assert [row["action"] for row in rows] == list(actions)
    assert {row["actor"] for row in rows} <= {"management"}
    return rows


# A project's life


def test_a_project_comes_back_without_its_key(operator: Operator) -> None:
    response = operator.call("POST", "/projects", PROJECT)

    assert response.status_code == 201
    body = response.json
    assert uuid.UUID(body["id"]).version == 4
    assert datetime.fromisoformat(body.pop("created_at")).tzinfo is not None
    assert body == {
        "id": body["id"], "name": "p", "is_active": True, "base_url": None, "stream_usage": "as-sent",
        "key_hint": UPSTREAM_KEY[-4:], "default_tier": None, "rules": None, "meters": [],
        "shares_key_with": [],
    }  # fmt: skip
    [row] = operator.rows("projects")
    assert UPSTREAM_KEY not in str(row)


def test_a_project_is_told_with_whom_it_shares_its_key(operator: Operator) -> None:
    def shares(name: str, key: str) -> object:
        response = operator.call("POST", "/projects", {"name": name, "openai_api_key": key})
        return response.json["shares_key_with"]

    told = [shares("a", "sk-shared-0001"), shares("b", "sk-own-key-0001"), shares("c", "sk-shared-0001")]

    assert told == [[], [], ["a"]]


def test_a_new_projects_defaults_are_in_its_audit_entry(operator: Operator, project: str) -> None:
    [entry] = audited(operator, "project.create")

    assert entry["after"] == {
        "name": "a project", "key_hint": UPSTREAM_KEY[-4:], "base_url": None, "is_active": True,
        "stream_usage": "as-sent",
    }  # fmt: skip
    assert (entry["target_id"], entry["address"]) == (project, "127.0.0.1")


@pytest.mark.parametrize(("key", "hint"), [("x" * 11, ""), ("x" * 8 + "last", "last"), ("k", "")])
def test_of_a_short_key_nothing_is_shown(key: str, hint: str, operator: Operator) -> None:
    assert operator.call("POST", "/projects", PROJECT | {"openai_api_key": key}).json["key_hint"] == hint


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({"name": "other"}, {"name": "a project"}, {"name": "other"}),
        ({"is_active": False}, {"is_active": True}, {"is_active": False}),
        (
            {"base_url": "http://h:1", "openai_api_key": "sk-another-planted-6789"},
            {"base_url": None},
            {"base_url": "http://h:1", "openai_api_key": "replaced"},
        ),
        ({"stream_usage": "ask"}, {"stream_usage": "as-sent"}, {"stream_usage": "ask"}),
        (
            {"openai_api_key": "sk-another-planted-6789"},
            {},
            {"openai_api_key": "replaced"},
        ),
    ],
)
def test_a_change_of_a_project_is_shown_and_audited(
    change: dict[str, Any], before: dict[str, Any], after: dict[str, Any], operator: Operator, project: str
) -> None:
    response = operator.call("PATCH", f"/projects/{project}", change)

    assert response.status_code == 200
    shown = {name: value for name, value in change.items() if name != "openai_api_key"}
    assert operator.call("GET", f"/projects/{project}").json == response.json
    assert shown.items() <= response.json.items()
    entry = audited(operator, "project.create", "project.change")[1]
    assert (entry["before"], entry["after"]) == (before, after)


def test_another_host_needs_its_key(operator: Operator, project: str) -> None:
    problem = refused(operator, 400, "PATCH", f"/projects/{project}", {"base_url": "http://h:1", "name": "other"})

    assert problem["param"] == "openai_api_key" and "another host" in problem["message"]


@pytest.mark.parametrize("change", [{}, {"name": "a project"}, {"is_active": True}, {"base_url": None}])
def test_a_change_that_changes_nothing_leaves_no_trace(
    change: dict[str, Any], operator: Operator, project: str
) -> None:
    before = operator.tables()

    assert operator.call("PATCH", f"/projects/{project}", change).status_code == 200
    assert operator.tables() == before


def test_a_project_with_live_tokens_is_deleted_by_force_alone(operator: Operator, token: dict[str, Any]) -> None:
    path = f"/projects/{token['project_id']}"
    assert refused(operator, 409, "DELETE", path)["param"] == "force"
    assert refused(operator, 409, "DELETE", path + "?force=false")["param"] == "force"

    assert operator.call("DELETE", path + "?force=true").status_code == 204
    assert (operator.rows("projects"), operator.rows("tokens")) == ([], [])
    assert audited(operator, "project.create", "token.issue", "project.delete")[2]["before"]["live_tokens"] == 1


def test_a_project_whose_tokens_are_all_dead_is_deleted_without_force(
    operator: Operator, token: dict[str, Any]
) -> None:
    operator.call("DELETE", f"/tokens/{token['id']}")

    assert operator.call("DELETE", f"/projects/{token['project_id']}").status_code == 204


def test_the_kill_switch_revokes_every_token_of_its_project_alone(operator: Operator, project: str) -> None:
    other = operator.create_project(name="other")
    for owner in (project, project, other):
        operator.issue_token(owner)

    assert operator.call("POST", f"/projects/{project}/revoke").json == {"revoked": 2}
    assert {(row["project_id"], row["is_active"]) for row in operator.rows("tokens")} == {(project, 0), (other, 1)}


def test_a_kill_switch_that_finds_nothing_to_revoke_leaves_no_trace(operator: Operator, project: str) -> None:
    before = operator.tables()

    assert operator.call("POST", f"/projects/{project}/revoke").json == {"revoked": 0}
    assert operator.tables() == before


# A token's life


def test_a_token_is_shown_once_and_kept_as_its_hash(operator: Operator, token: dict[str, Any]) -> None:
    assert set(token) == {"token", "expires_at", "id", "project_id"}
    assert uuid.UUID(token["token"]).version == 4
    assert token["token"] != token["id"]
    assert token["token"] not in str(operator.tables())
    shown = operator.call("GET", f"/tokens/{token['id']}")
    assert token["token"] not in shown.text
    assert shown.json["expires_at"] == token["expires_at"]
    assert (shown.json["rate_limit"], shown.json["request_count"], shown.json["is_active"]) == (1000, 0, True)


@pytest.mark.parametrize("hours", [1, 24, 8760])
def test_a_token_lives_as_many_hours_as_asked_for(hours: int, operator: Operator, project: str) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    expires_at = operator.issue_token(project, duration_hours=hours)["expires_at"]

    assert expires_at.endswith("Z")
    assert before <= datetime.fromisoformat(expires_at) - timedelta(hours=hours) <= datetime.now(UTC)


def test_a_token_lives_until_the_very_moment_asked_for(operator: Operator, project: str) -> None:
    end = (datetime.now(UTC) + timedelta(days=3)).replace(minute=0, second=0, microsecond=0)

    issued = operator.call("POST", "/tokens", {"project_id": project, "expires_at": end.isoformat()})

    assert (issued.status_code, datetime.fromisoformat(issued.json["expires_at"])) == (201, end)


@pytest.mark.parametrize(
    ("ends", "param", "words"),
    [
        ({"expires_at": "2026-01-01T00:00:00Z"}, "expires_at", "must lie ahead, within 8760 hours from now."),
        ({"expires_at": "2199-01-01T00:00:00Z"}, "expires_at", "must lie ahead, within 8760 hours from now."),
        ({"expires_at": "2030-01-01"}, "expires_at", "must be an ISO 8601 time with its zone."),
    ],
)
def test_a_bad_end_of_a_new_token_is_named(
    ends: dict[str, Any], param: str, words: str, operator: Operator, project: str
) -> None:
    error = refused(operator, 400, "POST", "/tokens", {"project_id": project, **ends})

    assert (error["param"], error["message"]) == (param, f"{param} {words}")


def test_a_new_token_has_one_end(operator: Operator, project: str) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=5)).isoformat()

    error = refused(
        operator, 400, "POST", "/tokens", {"project_id": project, "expires_at": soon, "duration_hours": 1}
    )

    assert error["message"] == "duration_hours must be sent, or expires_at, and not both."


@pytest.mark.parametrize("named_by", ["token", "id", "path"])
def test_a_token_is_revoked_however_it_is_named_and_twice_is_once(
    named_by: str, operator: Operator, token: dict[str, Any]
) -> None:
    call = ("/tokens/" + token["id"], None) if named_by == "path" else ("/tokens", {named_by: token[named_by]})

    assert [operator.call("DELETE", *call).status_code for _ in range(2)] == [204, 204]
    assert operator.rows("tokens")[0]["is_active"] == 0
    audited(operator, "project.create", "token.issue", "token.revoke")


def test_a_change_of_a_token_is_shown_and_audited(operator: Operator, token: dict[str, Any]) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    written, told = soon.astimezone(timezone(timedelta(hours=2))).isoformat(), soon.isoformat().replace("+00:00", "Z")
    change = {"label": "l", "rate_limit": 5, "expires_at": written}
    response = operator.call("PATCH", f"/tokens/{token['id']}", change)

    assert response.status_code == 200
    assert response.json["expires_at"] == told
    assert (response.json["label"], response.json["rate_limit"]) == ("l", 5)
    entry = audited(operator, "project.create", "token.issue", "token.change")[2]
    assert entry["after"] == change | {"expires_at": told}


def after(**span: float) -> str:
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


def test_no_token_is_made_to_live_longer_than_a_new_one_may(operator: Operator, token: dict[str, Any]) -> None:
    path = f"/tokens/{token['id']}"

    assert operator.call("PATCH", path, {"expires_at": after(hours=8759)}).status_code == 200
    for too_long in (after(hours=8761), "2199-12-31T00:00:00Z"):
        problem = refused(operator, 400, "PATCH", path, {"expires_at": too_long})
        assert problem["param"] == "expires_at" and "8760 hours" in problem["message"]


def test_what_is_over_does_not_come_back(operator: Operator, token: dict[str, Any], project: str) -> None:
    expired = operator.issue_token(project)
    operator.call("PATCH", f"/tokens/{expired['id']}", {"expires_at": after(seconds=-1)})
    operator.call("DELETE", f"/tokens/{token['id']}")
    for over, words in ((expired, "has expired"), (token, "was revoked")):
        for when in (after(hours=1), after(hours=-1)):
            problem = refused(operator, 409, "PATCH", f"/tokens/{over['id']}", {"expires_at": when, "label": "x"})
            assert problem["param"] == "expires_at" and words in problem["message"]
        assert operator.call("PATCH", f"/tokens/{over['id']}", {"label": "named"}).status_code == 200


def test_what_holds_a_secret_is_kept_by_nobody_on_the_way(operator: Operator, project: str) -> None:
    response = operator.call("POST", "/tokens", {"project_id": project, "duration_hours": 1})

    assert response.headers["Cache-Control"] == "no-store"
    assert operator.call("GET", f"/projects/{project}").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.test", "localhost:8443"])
def test_a_redirect_names_no_host(host: str, client: FlaskClient) -> None:
    response = client.get("/admin", base_url=f"http://{host}")

    assert (response.status_code, response.headers["Location"]) == (308, "/admin/")


def test_null_takes_a_tokens_own_limit_and_label_away(operator: Operator, project: str) -> None:
    token = operator.issue_token(project, rate_limit=5, label="l")
    response = operator.call("PATCH", f"/tokens/{token['id']}", {"rate_limit": None, "label": None})

    assert (response.json["rate_limit"], response.json["label"]) == (1000, None)


# What is refused

BAD_HOURS = [
    True, False, 1.0, 1.5, "1", "", 0, -1, None, 8761, 10**9, 2**63, 2**64, 10**30, [], [1], {}, {"x": 1},
]  # fmt: skip
BAD_NAMES = [
    "", " ", "\u3000", "x" * 201, "a\x00b", "a\nb", "a\x1b[31m", "a\x7f", "a\x85", "\u2028", None, 1, True, [], {},
]  # fmt: skip
BAD_KEYS = ["", " ", "a b", "a\nb", "a\x00", "\u00e9", "x" * 1025, None, 1, [], {}]
BAD_URLS = ["", "h", "ftp://h", "https://u:p@h", "https://h/../x", "https://h?x", "http://h:99999", 1, [], True]
BAD_LIMITS = [True, 1.0, "1", 0, -1, 2**31, 10**30, []]
BAD_TIMES = [
    "", "x", "2030-01-01", "2030-01-01T00:00:00", 1893456000, None, True, [], "1999-12-31T23:59:59Z",
    "2200-01-02T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2030-02-30T00:00:00Z",
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [("duration_hours", value) for value in BAD_HOURS]
    + [("rate_limit", value) for value in BAD_LIMITS]
    + [("label", value) for value in BAD_NAMES if value is not None]
    + [("project_id", value) for value in (None, 1, True, [], {})]
    + [("unknown", 1), ("token", "x"), ("Duration_Hours", 1), ("", 1)],
)
def test_a_token_with_a_bad_field_is_not_issued(field: str, value: Any, standing: Standing) -> None:
    error = refused(
        standing.operator,
        400,
        "POST",
        "/tokens",
        {"project_id": standing.project, "duration_hours": 1} | {field: value},
    )

    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", value) for value in BAD_NAMES]
    + [("openai_api_key", value) for value in BAD_KEYS]
    + [("base_url", value) for value in BAD_URLS]
    + [("stream_usage", value) for value in ("", "never", None, 1, [])]
    + [("id", UNKNOWN), ("is_active", False), ("key_hint", "x"), ("unknown", None)],
)
def test_a_project_with_a_bad_field_is_not_made(field: str, value: Any, standing: Standing) -> None:
    assert refused(standing.operator, 400, "POST", "/projects", PROJECT | {field: value})["param"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", value) for value in BAD_NAMES]
    + [("openai_api_key", value) for value in BAD_KEYS]
    + [("base_url", value) for value in BAD_URLS]
    + [("is_active", value) for value in (None, 0, 1, "true", [])]
    + [("unknown", 1), ("created_at", "2030-01-01T00:00:00Z")],
)
def test_a_change_of_a_project_with_one_bad_field_changes_nothing(field: str, value: Any, standing: Standing) -> None:
    body = {"name": "new", "is_active": False} | {field: value}

    assert refused(standing.operator, 400, "PATCH", f"/projects/{standing.project}", body)["param"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [("rate_limit", value) for value in BAD_LIMITS]
    + [("expires_at", value) for value in BAD_TIMES]
    + [("label", value) for value in BAD_NAMES if value is not None]
    + [("is_active", True), ("project_id", UNKNOWN), ("unknown", 1)],
)
def test_a_change_of_a_token_with_one_bad_field_changes_nothing(field: str, value: Any, standing: Standing) -> None:
    body = {"label": "new", "rate_limit": 7} | {field: value}

    assert refused(standing.operator, 400, "PATCH", f"/tokens/{standing.token['id']}", body)["param"] == field


@pytest.mark.parametrize("field", ["project_id", "duration_hours", "name", "openai_api_key"])
def test_a_missing_field_is_named(field: str, standing: Standing) -> None:
    path, body = ("/tokens", {"project_id": standing.project, "duration_hours": 1})
    if field in PROJECT:
        path, body = "/projects", dict(PROJECT)
    error = refused(
        standing.operator, 400, "POST", path, {name: value for name, value in body.items() if name != field}
    )

    assert (error["param"], error["message"]) == (field, f"{field} is required.")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b'"x"', b"1", b"true", b"\xff", b'{"name": "\\ud800"}', b"{'name': 1}", b"{}x",
     b'{"name": NaN}', b"name=x", b"[" * 10_000, b'{"a":' * 10_000, "{}".encode("utf-16"), b"\xef\xbb\xbf{}"],
    ids=lambda body: repr(body)[:20],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/projects"), ("POST", "/tokens"), ("DELETE", "/tokens"), ("PATCH", "/projects/{}")]
)
def test_a_body_that_is_no_json_object_is_refused(method: str, path: str, body: bytes, standing: Standing) -> None:
    refused(standing.operator, 400, method, path.format(standing.project), body)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/projects/{}", None), ("PATCH", "/projects/{}", {"name": "x"}), ("DELETE", "/projects/{}", None),
        ("POST", "/projects/{}/revoke", None), ("GET", "/tokens/{}", None), ("PATCH", "/tokens/{}", {"label": "x"}),
        ("DELETE", "/tokens/{}", None), ("DELETE", "/tokens", {"id": "{}"}), ("DELETE", "/tokens", {"token": "{}"}),
        ("POST", "/tokens", {"project_id": "{}", "duration_hours": 1}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("unknown", [UNKNOWN, "x", "a%0Ab", "%ff", "x" * 5000])
def test_an_unknown_id_is_not_found(
    unknown: str, method: str, path: str, body: dict[str, Any] | None, standing: Standing
) -> None:
    filled = body and {name: value if value != "{}" else unknown for name, value in body.items()}

    assert "There is no" in refused(standing.operator, 404, method, path.format(unknown), filled)["message"]


@pytest.mark.parametrize("body", [{}, {"id": UNKNOWN, "token": UNKNOWN}, {"id": None}, {"token": 1}, {"x": 1}])
def test_a_revocation_names_exactly_one_token(body: dict[str, Any], standing: Standing) -> None:
    refused(standing.operator, 400, "DELETE", "/tokens", body)


def test_a_name_that_is_taken_is_a_conflict(operator: Operator, project: str) -> None:
    other = operator.create_project(name="other")

    assert refused(operator, 409, "POST", "/projects", PROJECT | {"name": "a project"})["param"] == "name"
    body = {"name": "a project", "is_active": False}
    assert refused(operator, 409, "PATCH", f"/projects/{other}", body)["param"] == "name"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/projects", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("DELETE", "/projects", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/projects/x", {"GET", "HEAD", "OPTIONS", "PATCH", "DELETE"}),
        ("GET", "/projects/x/revoke", {"OPTIONS", "POST"}),
        ("PATCH", "/tokens", {"GET", "HEAD", "OPTIONS", "POST", "DELETE"}),
        ("POST", "/tokens/x", {"GET", "HEAD", "OPTIONS", "PATCH", "DELETE"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: set[str], standing: Standing) -> None:
    response = standing.operator.call(method, path, {})

    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == allowed
    assert response.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("size", "status"), [(64 * 1024, 400), (64 * 1024 + 1, 413)])
def test_a_body_over_the_limit_is_too_large(size: int, status: int, standing: Standing) -> None:
    refused(standing.operator, status, "POST", "/projects", b"x" * size)


def test_a_chunked_body_over_the_limit_is_too_large(standing: Standing) -> None:
    before = standing.operator.tables()
    response = standing.operator.call(
        "POST", "/projects", b" " * (64 * 1024) + json.dumps(PROJECT).encode(),
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"},
    )  # fmt: skip

    assert response.status_code == 413
    assert standing.operator.tables() == before


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=1.0",
        "limit=" + "9" * 5000,
        "active=perhaps",
        "after=x",
        "unknown=1",
        "limit=",
    ],
)
@pytest.mark.parametrize("path", ["/projects", "/tokens"])
def test_a_bad_query_is_refused(path: str, query: str, standing: Standing) -> None:
    name = query.partition("=")[0]

    assert refused(standing.operator, 400, "GET", f"{path}?{query}")["param"] == name


# Lists


def test_lists_come_in_pages_the_newest_first_and_each_row_once(operator: Operator, project: str) -> None:
    made = [operator.issue_token(project)["id"] for _ in range(7)]
    seen: list[str] = []
    path = "/tokens?limit=3"
    while True:
        page = operator.call("GET", path).json
        seen += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            break
        path = f"/tokens?limit=3&after={seen[-1]}"

    assert len(seen) == 7
    assert set(seen) == set(made)
    assert seen == sorted(seen, key=made.index, reverse=True)


def test_lists_are_filtered_by_project_and_state(operator: Operator, project: str, settings: Settings) -> None:
    other = operator.create_project(name="other")
    live, revoked, expired = (operator.issue_token(project)["id"] for _ in range(3))
    foreign = operator.issue_token(other)["id"]
    operator.call("DELETE", f"/tokens/{revoked}")
    operator.call("PATCH", f"/tokens/{expired}", {"expires_at": "2001-01-01T00:00:00Z"})
    operator.call("PATCH", f"/projects/{other}", {"is_active": False})

    def listed(path: str) -> set[str]:
        return {row["id"] for row in operator.call("GET", path).json["data"]}

    assert listed("/tokens?active=true") == {live, foreign}
    assert listed(f"/tokens?active=true&project_id={project}") == {live}
    assert listed("/tokens?active=false") == {revoked, expired}
    assert listed(f"/tokens?project_id={UNKNOWN}") == set()
    assert (listed("/projects?active=true"), listed("/projects?active=false")) == ({project}, {other})


# Who may

addresses = itertools.count(1)


@pytest.mark.parametrize(
    "authorization",
    [
        None, "", "Bearer", "Bearer ", "Bearer wrong", f"Basic {MANAGEMENT_TOKEN}", MANAGEMENT_TOKEN,
        f"Bearer {MANAGEMENT_TOKEN}x", f"Bearer {MANAGEMENT_TOKEN[:-1]}", "Bearer a=b", 'Bearer realm="x"',
        "Bearer \u00e9", f"Bearer {MANAGEMENT_TOKEN.upper()}", f"Bearer x, Bearer {MANAGEMENT_TOKEN}", "Basic Og==",
    ],
)  # fmt: skip
def test_nobody_else_manages(authorization: str | None, standing: Standing) -> None:
    before = standing.operator.tables()
    sent = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}
    sent["REMOTE_ADDR"] = f"192.0.2.{next(addresses)}"  # nobody guesses more than once
    response = standing.operator.client.post("/manage/projects", json=PROJECT, environ_overrides=sent)

    assert response.status_code == 401
    assert response.json["error"]["type"] == "invalid_request_error"
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert standing.operator.tables() == before


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer", "Bearer x"])
def test_without_a_management_token_nobody_manages(authorization: str | None, settings: Settings) -> None:
    app = create_app(replace(settings, management_token=""))
    try:
        sent = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}
        assert app.test_client().get("/manage/projects", environ_overrides=sent).status_code == 401
    finally:
        close(app)


def test_the_scheme_is_read_in_any_case(client: FlaskClient) -> None:
    sent = {"HTTP_AUTHORIZATION": f"bearer {MANAGEMENT_TOKEN}"}

    assert client.get("/manage/projects", environ_overrides=sent).status_code == 200


# Two at once


def test_of_two_projects_with_one_name_made_at_once_one_is_made(app: Flask, settings: Settings) -> None:
    together = threading.Barrier(2)
    statuses: list[int] = []

    def create() -> None:
        operator = Operator(app.test_client())
        together.wait()
        statuses.append(operator.call("POST", "/projects", PROJECT).status_code)

    threads = [threading.Thread(target=create) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    operator = Operator(app.test_client())
    assert sorted(statuses) == [201, 409]
    assert len(operator.rows("projects")) == 1
    audited(operator, "project.create")


# When the database fails


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("UPDATE planted-statement", {}, Exception("planted-secret")), 503),
        (DataError("UPDATE planted-statement", {}, Exception("planted-secret")), 400),
        (RuntimeError("planted-secret"), 500),
    ],
)
def test_a_failing_database_is_answered_without_its_words(
    error: Exception, status: int, operator: Operator, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("control.projects.create", fail)
    response = operator.call("POST", "/projects", PROJECT)

    assert response.status_code == status
    assert "planted" not in response.text
    assert response.json["error"]["message"]


def test_a_missing_table_is_a_503(operator: Operator, settings: Settings) -> None:
    execute(settings.database_url, "ALTER TABLE projects RENAME TO gone")

    response = operator.call("GET", "/projects")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "name", "openai_api_key", "base_url", "stream_usage", "is_active", "project_id", "duration_hours", "label",
    "rate_limit", "expires_at", "token", "id", "x",
]  # fmt: skip
names = st.sampled_from(FIELDS)
bodies = (
    st.binary(max_size=20)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(names, json_values, max_size=4).map(lambda value: json.dumps(value).encode())
)


@hypothesis_settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    call=st.sampled_from(
        [("POST", "/projects"), ("PATCH", "/projects/{}"), ("POST", "/tokens"), ("DELETE", "/tokens")]
    ),
    body=bodies,
)
def test_no_body_whatsoever_is_a_fault_of_ours(call: tuple[str, str], body: bytes, operator: Operator) -> None:
    rows = operator.rows("projects")
    project = rows[0]["id"] if rows else operator.create_project()
    before = operator.tables()
    response = operator.call(call[0], call[1].format(project), body)

    assert response.status_code < 500
    if response.status_code >= 400:
        assert operator.tables() == before
        assert set(response.json["error"]) == {"message", "type", "param", "code"}


def test_the_table_of_errors_words_nested_problems() -> None:
    assert errors.first_problem({"a": {"b": ["is bad."]}}) == ("b", "is bad.")
    assert errors.first_problem({"a": {0: {"_schema": ["is bad."]}}}) == ("a", "is bad.")
    assert errors.first_problem({"_schema": ["is bad."]}) == (None, "is bad.")
    assert errors.first_problem(["is bad."]) == (None, "is bad.")


# Wherever the data lies


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["with space", "a%41b", "a#b", "a?b=c", "a&b", "\u00fc", "%", "'\""])
def test_every_part_finds_the_same_database_in_a_directory_of_any_name(name: str, tmp_path: Path) -> None:
    data_dir = tmp_path / name
    environ = {"DATA_DIR": str(data_dir), "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN}
    settings = config.load(environ, embedded=True)
    database_of(data_dir)
    app = create_app(settings)
    operator = Operator(app.test_client())
    token = operator.issue_token(operator.create_project())
    grant = Services.of(app).admission.admit(f"Bearer {token['token']}", datetime.now(UTC))
    uses = [row["request_count"] for row in operator.rows("tokens")]
    close(app)

    assert grant.token_id == token["id"]
    assert uses == [1]
    assert [path.name for path in tmp_path.iterdir()] == [name]


# PostgreSQL is stricter about texts, and lets two transactions look at once


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/projects/%00", None), ("GET", "/tokens/a%00", None), ("GET", "/tokens?project_id=%00", None),
        ("GET", "/tokens?after=%00", None), ("DELETE", "/tokens", {"id": "\x00"}), ("PATCH", "/tokens/%00", {}),
        ("DELETE", "/projects/%00", None), ("POST", "/tokens", {"project_id": "\x00", "duration_hours": 1}),
    ],
)  # fmt: skip
def test_a_nul_is_no_fault_of_ours(method: str, path: str, body: Any, operator: Operator) -> None:
    assert operator.call(method, path, body).status_code < 500
    assert operator.call("GET", "/projects").json == {"data": [], "has_more": False, "next": None}


def test_of_projects_with_one_name_made_at_once_one_is_made(app: Flask, settings: Settings) -> None:
    together = threading.Barrier(8)
    statuses: list[int] = []

    def create() -> None:
        operator = Operator(app.test_client())
        together.wait()
        statuses.append(operator.call("POST", "/projects", PROJECT).status_code)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [201] + [409] * 7


@pytest.mark.postgres
def test_a_postgresql_that_takes_no_writes_is_a_503(tmp_path: Path, postgres_server: PostgresServer) -> None:
    url = postgres_server.new_database()
    migrate(url)
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    settings = settings_in(tmp_path, database_url=url)
    app = create_app(settings)
    operator = Operator(app.test_client())

    answer = operator.call("POST", "/projects", {"name": "p", "openai_api_key": "sk-p"})

    assert (answer.status_code, answer.json["error"]["code"]) == (503, "database_unavailable")
    assert operator.call("GET", "/projects").json["data"] == []
    close(app)


def test_a_list_goes_on_behind_a_row_that_is_gone(operator: Operator) -> None:
    ids = [operator.create_project(name=f"project {number}") for number in range(3)]
    page = operator.call("GET", "/projects?limit=1").json
    assert operator.call("DELETE", f"/projects/{ids[2]}").status_code == 204

    rest = operator.call("GET", f"/projects?after={page['next']}").json
    assert [project["id"] for project in rest["data"]] == [ids[1], ids[0]]
    assert (rest["has_more"], rest["next"]) == (False, None)


@pytest.mark.parametrize("after", ["gone", "x.y", f"{10**30}.y", "."])
def test_a_place_that_no_list_has_told_is_refused(operator: Operator, after: str) -> None:
    answer = operator.call("GET", f"/projects?after={after}")

    assert answer.status_code == 400 and answer.json["error"]["param"] == "after"
