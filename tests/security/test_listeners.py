"""What is for operators alone, and whoever looks for a way around the rules that keep it so."""

import pytest

from tests.http_by_hand import HandClient, call
from tests.ports import free_port
from tests.security.test_sign_ins import RIGHT
from tests.servers import Server, on_both_servers

AROUND = [
    "//metrics", "//admin/", "//manage/projects", "/%2Fmetrics", "///admin/", "/admin//", "/admin//projects",
    "/manage//projects", "//healthz", "/x//metrics", "//%61dmin/", "/%2f%2fmanage/projects",
]  # fmt: skip


@on_both_servers
@pytest.mark.parametrize("target", AROUND)
def test_no_path_with_two_slashes_leads_to_what_is_for_operators(target, proxy):
    for path in ("/admin/projects", "/manage/projects"):
        answer = call(proxy.url, "GET", target, RIGHT[path], ("Accept", "text/html"))
        # Some servers take //host for the beginning of a URL: then it is a path that is not there, too.
        assert answer.status == 404 and b"Projects" not in answer.body
        assert not answer.all("location")


@on_both_servers
def test_a_call_with_two_slashes_is_told_to_send_one(proxy, upstream, token):
    answer = call(proxy.url, "GET", "//v1/models", token.bearer)

    assert answer.status == 400 and "two slashes" in answer.json["error"]["message"]
    assert call(proxy.url, "GET", "/v1//models", token.bearer).status != 404 or upstream.requests()


@pytest.fixture(scope="module")
def split(server_kind, running_upstream, tmp_path_factory):
    """A server with a listener for operators, and that one's URL. Whoever stops it is the last to use it."""
    port = free_port()
    settings = {"UPSTREAM_URL": running_upstream.url, "OPS_BIND": f"127.0.0.1:{port}", "WEB_CONCURRENCY": "2"}
    with Server(server_kind, tmp_path_factory.mktemp("split") / "data", **settings) as server:
        yield server, f"http://127.0.0.1:{port}"


ADMIN, MANAGEMENT = RIGHT["/admin/projects"], RIGHT["/manage/projects"]
OF_OPERATORS = {
    "/admin/": ADMIN, "/admin": ADMIN, "/admin/static/admin.css": ADMIN, "/manage/projects": MANAGEMENT,
    "/manage/usage": MANAGEMENT, "/metrics": ("Accept", "*/*"),
}  # fmt: skip


@on_both_servers
def test_operators_have_a_listener_of_their_own(split, upstream):
    server, ops = split
    port = ("X-Forwarded-Port", ops.rpartition(":")[2])
    for path, header in OF_OPERATORS.items():
        for target in (path, f"/{path}", f"{server.url}{path}"):
            assert call(server.url, "GET", target, header, port).status == 404
        assert call(server.url, "OPTIONS", path).status == 404
        assert call(server.url, "GET", f"{ops}{path}", header).status in (400, 404)
        assert call(ops, "GET", path, header).status in (200, 308)
    for url in (server.url, ops):
        assert call(url, "GET", "/healthz").status == call(url, "GET", "/readyz").status == 200


@on_both_servers
def test_calls_are_forwarded_on_the_other_alone(split, upstream):
    server, ops = split
    public, server.url = server.url, ops
    token = server.issue_token()
    server.url = public

    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
    for target in ("/v1/models", "//v1/models"):
        assert call(ops, "GET", target, token.bearer).status in (400, 404)
    assert len(upstream.requests()) == 1


@on_both_servers
def test_metrics_on_it_need_no_token_but_what_is_passed_on_to_the_other_has_none(split):
    server, ops = split

    assert call(ops, "GET", "/metrics", ("X-Forwarded-For", "203.0.113.1")).status == 200
    assert call(server.url, "GET", "/metrics").status == 404


@on_both_servers
def test_a_holders_own_view_is_where_calls_are(split):
    server, ops = split
    public, server.url = server.url, ops
    token = server.issue_token()
    server.url = public

    assert call(server.url, "GET", "/self", token.bearer).status == 200
    assert call(ops, "GET", "/self", token.bearer).status == 404


@on_both_servers
def test_a_stop_ends_both_listeners(split):
    server, ops = split
    server.terminate()
    assert server.wait() == 0

    for url in (server.url, ops):
        with pytest.raises(ConnectionRefusedError):
            HandClient(url)
