"""Attempts to have the proxy call what no caller or operator should reach through it."""

import pytest

from mock_openai.mock import MockOpenAI
from tests.databases import database_of, execute
from tests.http_by_hand import HandClient, call
from tests.servers import Server, on_both_servers, wait_for

ORGANIZATION = [
    "/v1/organization", "/v1/organization/users", "/v1/organization/admin_api_keys?limit=1",
    "/v1/Organization/users", "/v1/%6Frganization/users", "/v1/%256frganization/users",
    "/v1//organization/users", "/v1/organization;x/users", "/v1/organization%2Fusers",
    "/v1/%2Forganization/users", "/v1/organization%3Bx/users", "/v1/%5Corganization/users",
    "/v1/organization%20/users", "/v1/x/%252e%252e/organization/users", "/v1/%252e/organization/users",
    "/v1/x/..;/organization/users",
    "/v1/projects", "/v1/projects/proj_1/users/user_1/roles", "/v1/Projects/p/roles?limit=1",
    "/v1/%70rojects/p/roles", "/v1/%2570rojects/p/roles", "/v1//projects/p/roles", "/v1/projects;x/p/roles",
    "/v1/projects%2Fp/roles", "/v1/%5Cprojects/p/roles", "/v1/projects%20/p/roles", "/v1/x/..;/projects/p/roles",
    "/v1/x/%252e%252e/projects/p/roles",
]  # fmt: skip


@on_both_servers
@pytest.mark.parametrize("target", ORGANIZATION)
def test_the_organization_is_administered_by_nobody(target, proxy, upstream, token):
    for method in ("GET", "POST", "DELETE"):
        answer = call(proxy.url, method, target, token.bearer)
        assert (answer.status, answer.json["error"]["code"]) == (403, "organization_refused")

    assert upstream.requests() == []


@on_both_servers
def test_nor_over_a_websocket_or_by_an_absolute_target(proxy, upstream, token):
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "x" * 24),
    ]
    for target, headers in (("/v1/organization/users", upgrade), (f"{proxy.url}/v1/organization/users", [])):
        with HandClient(proxy.url) as client:
            assert client.call("GET", target, token.bearer, *headers).status in (400, 403)

    assert upstream.requests() == []


def test_what_only_looks_like_it_passes(proxy, upstream, token):
    for target in (
        "/v1/organizations",
        "/v1/models/organization",
        "/v1/projects.json",
        "/v1/files/projects",
        "/v1/files/organization%2Fx",
        "/v1/models?x=/v1/organization/",
    ):
        assert call(proxy.url, "GET", target, token.bearer).status != 403

    assert len(upstream.requests()) == 6


def test_an_operator_may_allow_it(upstream, tmp_path):
    with Server("deployed", tmp_path / "data", UPSTREAM_URL=upstream.url, ALLOW_ORGANIZATION_ROUTES="on") as server:
        for target in ("/v1/organization/users", "/v1/projects/p/roles"):
            assert call(server.url, "GET", target, server.issue_token().bearer).status != 403

    assert [seen["target"] for seen in upstream.requests()] == ["/v1/organization/users", "/v1/projects/p/roles"]


@pytest.mark.parametrize("key", ["sk-admin-planted-0123456789", "SK-ADMIN-planted-0123456789"])
def test_an_admin_key_is_no_projects_key(key, proxy, token):
    for method, path, body in (
        ("POST", "/projects", {"name": "admin", "openai_api_key": key}),
        ("PATCH", f"/projects/{token.project_id}", {"openai_api_key": key}),
    ):
        status, told = proxy.manage(method, path, body)
        assert (status, told["error"]["param"]) == (400, "openai_api_key")
        assert "admin key" in told["error"]["message"] and "planted" not in told["error"]["message"]


@pytest.mark.parametrize(
    "base_url",
    [
        "http://169.254.169.254/v1",
        "https://[fe80::1]/v1",
        "http://8.8.8.8/v1",
        "http://134744072/v1",
        "https://[fd00:ec2::254]",
    ],
)
def test_an_upstream_that_nobody_should_name_is_refused(base_url, proxy, token):
    key = "sk-of-the-other-host"
    for method, path in (("POST", "/projects"), ("PATCH", f"/projects/{token.project_id}")):
        status, told = proxy.manage(method, path, {"name": "x", "base_url": base_url, "openai_api_key": key})
        assert (status, told["error"]["param"]) == (400, "base_url")


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "169.254.43518", "[::ffff:a9fe:a9fe]", "0251.0376.0251.0376"]
)
def test_metadata_is_refused_however_its_address_is_written(host, proxy, upstream):
    """A name could lead there at any time: what counts is the address of the connection."""
    body = {"base_url": f"http://{host}:1/v1", "name": f"metadata at {host}", "openai_api_key": "sk-x"}
    status, project = proxy.manage("POST", "/projects", body)
    if status == 400:
        return
    answer = call(proxy.url, "GET", "/v1/models", proxy.issue_token(project["id"]).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    wait_for(
        lambda: f"{host.strip('[]')} leads to a link-local address or a cloud's metadata alone" in proxy.output()
    )


def test_only_hosts_that_the_operator_lists_are_called(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "UPSTREAM_ALLOWED_HOSTS": "api.example.com"}
    with MockOpenAI() as other, Server("deployed", tmp_path / "data", **settings) as server:
        status, told = server.manage(
            "POST", "/projects", {"name": "x", "base_url": other.url, "openai_api_key": "sk-x"}
        )
        assert (status, told["error"]["param"]) == (400, "base_url")
        assert "UPSTREAM_ALLOWED_HOSTS" in told["error"]["message"]

        token = server.issue_token()
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        url = server.settings.get("DATABASE_URL") or database_of(server.data_dir, empty=True)
        execute(url, f"UPDATE projects SET base_url = '{other.url}' WHERE id = '{token.project_id}'")
        answer = call(server.url, "GET", "/v1/models", token.bearer)
        assert (answer.status, answer.json["error"]["code"]) == (503, "auth_unavailable")
        wait_for(lambda: "List the host of the project's base_url in UPSTREAM_ALLOWED_HOSTS" in server.output())
        assert other.requests() == []
