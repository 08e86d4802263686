"""`/manage/*` as an operator uses it: by the documented curl lines, and with every mistake there is to make."""

import itertools
import json
import re
import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.http_by_hand import call
from tests.servers import MANAGEMENT_TOKEN, UPSTREAM_KEY, fetch

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
BEARER = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
NOBODY = "00000000-0000-4000-8000-000000000000"


def in_bash(script: str, **variables: str) -> str:
    """What a script prints. Fails when it does."""
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | variables
    command = ["bash", "-euc", script]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_curl
def test_a_token_is_issued_and_revoked_by_the_documented_curl_lines(proxy, upstream):
    project = proxy.create_project()
    issue = """curl -sS -w '\\n%{http_code}' -H "Authorization: Bearer $MANAGEMENT_TOKEN" \\
         -H "Content-Type: application/json" \\
         -X POST -d '{"project_id": "'$PROJECT'", "duration_hours": 24}' \\
         $BASE/manage/tokens"""
    use = """curl -sS -H "Authorization: Bearer $TOKEN" \\
         -H "Content-Type: application/json" \\
         -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}]}' \\
         $BASE/v1/chat/completions"""
    revoke = """curl -sS -w '%{http_code}' -H "Authorization: Bearer $MANAGEMENT_TOKEN" \\
         -H "Content-Type: application/json" \\
         -X DELETE -d '{"token": "'$TOKEN'"}' \\
         $BASE/manage/tokens"""
    known = {"BASE": proxy.url, "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN, "PROJECT": project}

    body, status = in_bash(issue, **known).rsplit("\n", 1)
    told = json.loads(body)
    proxy.secrets.add(told["token"])
    assert status == "201" and told.keys() == {"token", "expires_at", "id", "project_id"}
    assert str(uuid.UUID(told["token"], version=4)) == told["token"] != told["id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["expires_at"])
    left = datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)

    known["TOKEN"] = told["token"]
    assert json.loads(in_bash(use, **known))["object"] == "chat.completion"
    assert in_bash(revoke, **known) == "204"
    assert json.loads(in_bash(use, **known))["error"]["code"] == "token_revoked"
    assert in_bash(revoke, **known) == "204"


def test_a_project_lives_through_its_whole_life(proxy):
    name = f"life of {uuid.uuid4()}"
    status, project = proxy.manage("POST", "/projects", {"name": name, "openai_api_key": UPSTREAM_KEY})
    assert status == 201
    assert (
        project.items() >= {"name": name, "is_active": True, "base_url": None, "key_hint": UPSTREAM_KEY[-4:]}.items()
    )
    assert UPSTREAM_KEY not in json.dumps(project)
    assert project["id"] not in project.pop("shares_key_with")

    place = f"/projects/{project['id']}"
    assert proxy.manage("GET", place) == (200, project)
    changes = {"name": name + "!", "is_active": False}
    assert proxy.manage("PATCH", place, changes) == (200, project | changes)
    assert proxy.manage("PATCH", place, {"is_active": True, "base_url": None})[0] == 200

    token = proxy.issue_token(project["id"])
    status, told = proxy.manage("DELETE", place)
    assert (status, told["error"]["param"]) == (409, "force")
    assert proxy.manage("DELETE", place + "?force=true") == (204, None)
    assert proxy.manage("GET", place)[0] == 404
    assert call(proxy.url, "GET", "/v1/models", token.bearer).json["error"]["code"] == "invalid_api_key"


def test_a_token_lives_through_its_whole_life(proxy):
    token = proxy.issue_token(label="for CI", rate_limit=7)
    place = f"/tokens/{token.id}"

    status, told = proxy.manage("GET", place)
    assert status == 200 and token.secret not in json.dumps(told)
    assert (told["label"], told["rate_limit"], told["request_count"], told["is_active"]) == ("for CI", 7, 0, True)
    assert proxy.manage("PATCH", place, {"label": None, "rate_limit": None})[1]["rate_limit"] == 1000
    assert proxy.manage("DELETE", place)[0] == 204
    assert proxy.manage("DELETE", place)[0] == 204
    assert proxy.manage("GET", place)[1]["is_active"] is False
    assert proxy.manage("DELETE", "/tokens", {"id": token.id})[0] == 204


def test_tokens_are_listed_in_pages_by_project_and_by_state(proxy):
    project = proxy.create_project()
    tokens = [proxy.issue_token(project) for _ in range(5)]
    proxy.manage("DELETE", f"/tokens/{tokens[0].id}")

    def ids(query: str) -> tuple[set[str], bool]:
        status, page = proxy.manage("GET", f"/tokens?project_id={project}{query}")
        assert status == 200
        return {token["id"] for token in page["data"]}, page["has_more"]

    every = {token.id for token in tokens}
    assert ids("") == (every, False)
    assert ids("&active=true") == (every - {tokens[0].id}, False)
    assert ids("&active=false") == ({tokens[0].id}, False)
    seen, after = set(), ""
    for size in (2, 2, 1):
        _, page = proxy.manage("GET", f"/tokens?project_id={project}&limit=2{after}")
        seen |= {token["id"] for token in page["data"]}
        after = f"&after={page['data'][-1]['id']}"
        assert (len(page["data"]), page["has_more"]) == (size, size == 2 and len(seen) < 5)
    assert seen == every


BAD_TOKENS = [
    *[("duration_hours", {"duration_hours": value}) for value in (
        0, -1, 8761, 10**30, True, 1.0, 1.5, "24", "", None, [], {},
    )],
    ("duration_hours", {"duration_hours": ...}),
    ("project_id", {"project_id": ...}),
    *[("project_id", {"project_id": value}) for value in (None, 1, [], {}, True)],
    *[("rate_limit", {"rate_limit": value}) for value in (0, -1, True, 1.5, "1", 2**31)],
    *[("label", {"label": value}) for value in ("", " ", "a\0b", "a\nb", "x" * 201, 1, [])],
    ("surprise", {"surprise": 1}),
    ("token", {"token": NOBODY}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "change"), BAD_TOKENS)
def test_a_token_is_not_issued_for_a_bad_value_and_the_field_is_named(proxy, field, change):
    project = proxy.create_project()
    body = {"project_id": project, "duration_hours": 1} | change
    status, told = proxy.manage("POST", "/tokens", {name: value for name, value in body.items() if value is not ...})

    assert (status, told["error"]["param"], told["error"]["type"]) == (400, field, "invalid_request_error")
    assert field in told["error"]["message"]
    assert proxy.manage("GET", f"/tokens?project_id={project}")[1]["data"] == []


BAD_PROJECTS = [
    *[("name", {"name": value}) for value in (
        ..., None, "", "  ", "a\0b", "a\tb", "a\u2028b", "x" * 201, 1, [], {}, True,
    )],
    *[("openai_api_key", {"openai_api_key": value}) for value in (
        ..., None, "", " ", "a b", "a\nb", "sk-ü", "x" * 1025, 1, [],
    )],
    *[("base_url", {"base_url": value}) for value in (
        "", "x", "ftp://a", "http://", "https://a/?b=c", "https://u:p@a", "https://a/#f", "https://a/../b",
        "https://a/%2e%2e/b", "https://a b", "https://ü.example", "https://a:99999", "https://a/\nb", 1, [],
        "https://a/v1/chat/completions",
    )],
    ("surprise", {"surprise": 1}),
    ("id", {"id": NOBODY}),
    ("is_active", {"is_active": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "change"), BAD_PROJECTS)
def test_a_project_is_not_made_of_a_bad_value_and_the_field_is_named(proxy, field, change):
    name = f"bad {uuid.uuid4()}"
    body = {"name": name, "openai_api_key": UPSTREAM_KEY} | change
    status, told = proxy.manage("POST", "/projects", {key: value for key, value in body.items() if value is not ...})

    assert (status, told["error"]["param"], told["error"]["type"]) == (400, field, "invalid_request_error")
    assert field in told["error"]["message"]
    assert name not in [project["name"] for project in proxy.manage("GET", "/projects?limit=1000")[1]["data"]]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": ""}),
        ("name", {"name": None}),
        ("is_active", {"is_active": "false"}),
        ("is_active", {"is_active": None}),
        ("is_active", {"is_active": 0}),
        ("base_url", {"base_url": "nowhere", "is_active": False}),
        ("openai_api_key", {"openai_api_key": None, "name": "half done"}),
        ("id", {"id": NOBODY}),
    ],
)
def test_a_change_with_one_bad_value_changes_nothing(proxy, field, change):
    place = f"/projects/{proxy.create_project()}"
    before = proxy.manage("GET", place)
    status, told = proxy.manage("PATCH", place, change)

    assert (status, told["error"]["param"]) == (400, field)
    assert proxy.manage("GET", place) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_at", value)
        for value in ("", "soon", "2030-01-01", "2030-01-01T00:00:00", 1, None, "9999-01-01T00:00:00Z")
    ]
    + [("rate_limit", value) for value in (0, True, "1")]
    + [("is_active", True), ("token", NOBODY), ("request_count", 0)],
)
def test_a_token_is_not_changed_by_a_bad_value(proxy, field, value):
    place = f"/tokens/{proxy.issue_token().id}"
    before = proxy.manage("GET", place)
    status, told = proxy.manage("PATCH", place, {"label": "half done", field: value})

    assert (status, told["error"]["param"]) == (400, field)
    assert proxy.manage("GET", place) == before


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"1", b"\xff", b'{"a": 1}}', b"{'a': 1}", b"[" * 10_000, b"NaN"]
)
@pytest.mark.parametrize("path", ["/manage/tokens", "/manage/projects"])
def test_a_body_that_is_no_json_object_is_refused(proxy, path, body):
    status, _, told = fetch(proxy.url, "POST", path, BEARER | {"Content-Type": "application/json"}, body)

    assert status == 400 and json.loads(told)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/tokens", {"token": NOBODY}),
        ("DELETE", "/tokens", {"id": NOBODY}),
        ("DELETE", "/tokens", {"token": "x" * 5000}),
        ("GET", f"/tokens/{NOBODY}", None),
        ("PATCH", f"/tokens/{NOBODY}", {"label": "x"}),
        ("DELETE", f"/tokens/{NOBODY}", None),
        ("GET", "/tokens/%01", None),
        ("GET", f"/projects/{NOBODY}", None),
        ("PATCH", f"/projects/{NOBODY}", {"name": "x"}),
        ("DELETE", f"/projects/{NOBODY}", None),
        ("POST", f"/projects/{NOBODY}/revoke", None),
        ("POST", "/tokens", {"project_id": NOBODY, "duration_hours": 1}),
        ("POST", "/tokens", {"project_id": "a\1b", "duration_hours": 1}),
        ("GET", "/nothing", None),
    ],
)
def test_what_is_not_there_is_a_404(proxy, method, path, body):
    status, told = proxy.manage(method, path, body)

    assert (status, told["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("body", [{}, {"token": NOBODY, "id": NOBODY}, {"token": None}, {"token": 1}, {"tokens": []}])
def test_a_revocation_names_exactly_one_token(proxy, body):
    assert proxy.manage("DELETE", "/tokens", body)[0] == 400


def test_a_name_can_be_taken_only_once(proxy):
    name = f"taken {uuid.uuid4()}"
    proxy.create_project(name=name)
    other = proxy.create_project()

    for method, path in (("POST", "/projects"), ("PATCH", f"/projects/{other}")):
        body = {"name": name} | ({"openai_api_key": UPSTREAM_KEY} if method == "POST" else {})
        status, told = proxy.manage(method, path, body)
        assert (status, told["error"]["param"]) == (409, "name")
    assert proxy.manage("PATCH", f"/projects/{other}", {"name": name.upper()})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/manage/tokens", {"DELETE", "GET", "POST"}),
        ("POST", f"/manage/tokens/{NOBODY}", {"DELETE", "GET", "PATCH"}),
        ("PUT", "/manage/projects", {"GET", "POST"}),
        ("DELETE", "/manage/projects", {"GET", "POST"}),
        ("POST", f"/manage/projects/{NOBODY}", {"DELETE", "GET", "PATCH"}),
        ("GET", f"/manage/projects/{NOBODY}/revoke", {"POST"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(proxy, method, path, allowed):
    status, headers, told = fetch(proxy.url, method, path, BEARER)

    assert status == 405 and json.loads(told)["error"]["message"]
    assert set(headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"} == allowed


def test_a_body_over_the_limit_is_a_413(proxy):
    status, told = proxy.manage("POST", "/projects", {"name": "x" * 100_000, "openai_api_key": UPSTREAM_KEY})

    assert (status, told["error"]["type"]) == (413, "invalid_request_error")


@pytest.mark.parametrize("path", ["/tokens?limit=0", "/tokens?limit=x", "/tokens?limit=1001", "/tokens?active=maybe",
                                  "/tokens?surprise=1", "/tokens?after=nobody", "/projects?limit=-1"])  # fmt: skip
def test_a_bad_query_is_a_400_that_names_the_parameter(proxy, path):
    status, told = proxy.manage("GET", path)

    assert (status, told["error"]["param"]) == (400, path.partition("?")[2].partition("=")[0])


guessers = itertools.count(1)


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {MANAGEMENT_TOKEN}",
        f"Bearer {MANAGEMENT_TOKEN}x",
        "Bearer ü",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/manage/tokens"), ("GET", "/manage/projects"), ("PUT", "/manage/tokens")]
)
def test_nobody_manages_without_the_management_token(proxy, method, path, sent):
    # From an address of its own: whoever guesses more than ten times has to wait.
    source = f"127.1.0.{next(guessers)}"
    answer = call(proxy.url, method, path, *([("Authorization", sent)] if sent is not None else []), source=source)

    assert answer.status in (401, 405 if method == "PUT" else 401)
    assert answer.json["error"]["type"] == "invalid_request_error"
    if answer.status == 401:
        assert answer["www-authenticate"].startswith("Bearer")


def test_a_withering_token_manages_nothing_and_the_management_token_calls_nothing(proxy, upstream, token):
    assert call(proxy.url, "GET", "/manage/projects", token.bearer, source="127.1.1.1").status == 401
    assert call(proxy.url, "GET", "/v1/models", ("Authorization", f"Bearer {MANAGEMENT_TOKEN}")).status == 401
    assert upstream.requests() == []


def test_concurrent_creations_of_one_name_make_one_project(proxy):
    body = {"name": f"raced {uuid.uuid4()}", "openai_api_key": UPSTREAM_KEY}
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(lambda _: proxy.manage("POST", "/projects", body)[0], range(8)))

    assert statuses == [201, *[409] * 7]
