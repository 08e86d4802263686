"""An outage does not flood the process's log, and what stands there says whose it is and what to do."""

from collections.abc import Iterator

import pytest

from tests.databases import database_of
from tests.http_by_hand import call
from tests.servers import Server, on_both_servers, wait_for
from tests.upstream import Peer, ScriptedUpstream

pytestmark = on_both_servers
CALLS = 30


@pytest.fixture(scope="module")
def server(server_kind, running_upstream, tmp_path_factory) -> Iterator[Server]:
    """One for all tests: each looks for the lines about projects of its own. Whoever stops it is the last."""
    with Server(server_kind, tmp_path_factory.mktemp("data") / "data", UPSTREAM_URL=running_upstream.url) as server:
        yield server


def lines(server: Server, holding: str) -> list[str]:
    return [line for line in server.output().splitlines() if holding in line]


def told(server: Server, holding: str) -> list[str]:
    """The lines with this, as soon as there is one: it follows the record, which follows the response."""
    return wait_for(lambda: lines(server, holding), otherwise=server.output)


def test_a_key_that_the_upstream_refuses_is_one_line_that_says_whose_it_is(server, upstream):
    token = server.issue_token(server.create_project(name="the one with the old key"))
    answers = [call(server.url, "GET", "/v1/models", token.bearer, ("x-mock-status", "401")) for _ in range(CALLS)]

    assert {answer.status for answer in answers} == {502}
    (line,) = told(server, "upstream_auth_failed")
    assert "'the one with the old key'" in line and "Enter a good key" in line


def breaks_off(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it")


def test_answers_that_break_off_are_one_line_too(server):
    with ScriptedUpstream(*[breaks_off] * CALLS) as upstream:
        token = server.issue_token(server.create_project(name="broken", base_url=upstream.url))
        for _ in range(CALLS):
            with pytest.raises(Exception):  # noqa: B017, PT011  whatever a client sees of a connection that is cut
                call(server.url, "GET", "/v1/models", token.bearer)
        server.wait_for_records(CALLS, token)

    assert len(told(server, "upstream_unreachable in project 'broken'")) == 1


def test_causes_and_projects_are_told_apart(server, upstream):
    for name in ("one", "other"):
        away = server.issue_token(server.create_project(name=f"{name} away", base_url="http://127.0.0.1:9"))
        refused = server.issue_token(server.create_project(name=f"{name} refused"))
        for _ in range(3):
            call(server.url, "GET", "/v1/models", away.bearer)
            call(server.url, "GET", "/v1/models", refused.bearer, ("x-mock-status", "401"))

    for name in ("one away", "one refused", "other away", "other refused"):
        assert len(told(server, f" in project '{name}'")) == 1


@pytest.mark.sqlite
def test_a_database_that_cannot_answer_is_one_line_for_all_projects(server):
    first, second = server.issue_token(), server.issue_token()
    server.rows("ALTER TABLE tokens RENAME TO gone")
    statuses = {call(server.url, "GET", "/v1/models", token.bearer).status for token in (first, second) * 15}
    managed = {server.manage("GET", "/tokens")[0] for _ in range(CALLS)}
    tracebacks = len(lines(server, "Traceback"))
    server.rows("ALTER TABLE gone RENAME TO tokens")

    assert statuses == {503}
    (line,) = told(server, "auth_unavailable")
    assert "docs/operations.md" in line
    assert tracebacks <= 2
    assert managed <= {500, 503} and len(lines(server, "an operator's request failed")) <= 2


def test_a_key_that_the_ring_does_not_open_names_its_project_and_the_setting(server, server_kind, upstream, tmp_path):
    token = server.issue_token(server.create_project(name="sealed by another"))
    settings = {"UPSTREAM_URL": upstream.url, "ENCRYPTION_KEY": "YW5vdGhlci1lbmNyeXB0aW9uLWtleS1vZi0zMi1ieXQ="}
    with Server(server_kind, tmp_path / "data", DATABASE_URL=database_of(server.data_dir), **settings) as node:
        assert {call(node.url, "GET", "/v1/models", token.bearer).status for _ in range(CALLS)} == {503}

        (line,) = told(node, "in project 'sealed by another'")
        assert "ENCRYPTION_KEY" in line


def test_nothing_that_a_caller_does_alone_is_told_there(server, upstream):
    token, before, length = server.issue_token(), server.count_calls(token=None), len(server.output())
    call(server.url, "GET", "/v1/models", ("Authorization", "Bearer wrong"))
    call(server.url, "GET", "/v1/models", token.bearer, ("x-mock-status", "429"))
    call(server.url, "TRACE", "/v1/models", token.bearer)
    wait_for(lambda: server.count_calls(token=None) >= before + 2 and server.records(token), otherwise=server.records)

    # How often that was which other tests caused may be told at any time.
    assert [line for line in server.output()[length:].splitlines() if " times more in " not in line] == []


def test_calls_to_an_upstream_that_is_away_are_one_line_and_their_number(server):
    project = server.create_project(name="chat of the shop", base_url="http://127.0.0.1:9")
    token = server.issue_token(project)
    assert {call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(CALLS)} == {502}

    (line,) = told(server, project)
    assert (
        f"upstream_unreachable in project 'chat of the shop' ({project})" in line
        and "Try it on /admin/health" in line
    )
    server.terminate()
    assert server.wait() == 0
    last = lines(server, project)[1:]
    assert len(last) == 1 and f"{CALLS - 1} times more in " in last[0]
    assert len(server.records(token)) == CALLS
