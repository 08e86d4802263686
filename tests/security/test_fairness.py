"""One token that takes all it can get leaves room for others."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from llmproxy.fairness import FILES_PER_CALL, OTHER_FILES
from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, Server, Token, on_both_servers, open_files, open_sockets, wait_for
from tests.upstream import ScriptedUpstream

SOCKETS = 3
HANDSHAKE = (
    ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)  # fmt: skip
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def silent(peer) -> None:
    """Answers nothing until the other side goes."""
    peer.read_head()
    peer.read_to_end()


def switched(peer) -> None:
    peer.read_head()
    peer.send(SWITCHED)
    peer.read_to_end()


Hold = Callable[[Token, int], list[HandClient]]


@contextmanager
def holding(server: Server, *, path: str = "/v1/models", headers=()) -> Iterator[Hold]:
    """Opens calls that stay under way."""
    with ExitStack() as stack:

        def hold(token: Token, count: int) -> list[HandClient]:
            clients = [stack.enter_context(HandClient(server.url)) for _ in range(count)]
            for client in clients:
                client.send_request("GET", path, token.bearer, *headers)
            return clients

        yield hold


def in_flight(server: Server) -> float:
    return total(server.metrics(), "llmproxy_requests_in_flight")


def used(server: Server, token: Token) -> int:
    return server.manage("GET", f"/tokens/{token.id}")[1]["request_count"]


@pytest.fixture
def small(tmp_path) -> Iterator[Server]:
    """A worker with room for 20 connections, and its upstream that answers nothing."""
    arguments = ("--worker-connections", "20")
    with (
        ScriptedUpstream(every=silent) as upstream,
        Server(DEPLOYED, tmp_path / "data", arguments=arguments, UPSTREAM_URL=upstream.url) as server,
    ):
        yield server


def test_a_token_that_holds_most_of_a_worker_gets_no_more_while_others_do(small):
    greedy, other = small.issue_token(), small.issue_token()
    with holding(small) as hold:
        clients = hold(greedy, 13)
        # A call is in flight from its arrival, and one whose claim comes back late is measured then.
        wait_for(lambda: in_flight(small) == used(small, greedy) == 13)
        hold(other, 3)
        wait_for(lambda: in_flight(small) == 16)
        refusals = [call(small.url, "GET", "/v1/models", greedy.bearer) for _ in range(3)]

        assert {(refusal.status, refusal.json["error"]["code"]) for refusal in refusals} == {
            (429, "concurrency_limit_exceeded")
        }
        assert all(1 <= int(refusal["retry-after"]) <= 3 for refusal in refusals)
        assert [refusal.all("x-should-retry") for refusal in refusals] == [[]] * 3
        # The first was known by its claim alone; after it, nobody asks the database.
        assert used(small, greedy) <= 14
        hold(other, 1)
        wait_for(lambda: in_flight(small) == 17)
        for client in clients[:8]:
            client.close()
        wait_for(lambda: in_flight(small) == 9)
        hold(greedy, 1)
        wait_for(lambda: in_flight(small) == 10)

    wait_for(lambda: small.count_calls(token=greedy.id, status_code=429) == 3)


def test_a_token_may_have_a_worker_for_itself_while_there_is_room(small):
    token = small.issue_token()
    with holding(small) as hold:
        hold(token, 13)
        wait_for(lambda: in_flight(small) == 13)


@on_both_servers
def test_a_token_has_so_many_websockets_and_other_calls_besides(server_kind, tmp_path):
    with (
        ScriptedUpstream(every=switched) as upstream,
        Server(
            server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, MAX_WEBSOCKETS_PER_TOKEN=str(SOCKETS)
        ) as server,
        holding(server, path="/v1/realtime", headers=HANDSHAKE) as hold,
    ):
        token, other = server.issue_token(), server.issue_token()
        # All at once: each is claimed before any is open.
        answers = [client.read_head() for client in hold(token, SOCKETS * 4)]
        late = [client.read_head() for client in hold(token, 5)]

        assert sorted(answer.status for answer in answers) == [101] * SOCKETS + [429] * SOCKETS * 3
        assert {answer.status for answer in late} == {429}
        # What was refused once is refused without a claim.
        assert used(server, token) <= SOCKETS * 4
        assert [client.read_head().status for client in hold(other, 1)] == [101]


@on_both_servers
def test_a_websocket_that_ended_makes_room_for_another(server_kind, tmp_path):
    with (
        ScriptedUpstream(every=switched) as upstream,
        Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, MAX_WEBSOCKETS_PER_TOKEN="1") as server,
        holding(server, path="/v1/realtime", headers=HANDSHAKE) as hold,
    ):
        token = server.issue_token()
        (first,) = hold(token, 1)
        assert first.read_head().status == 101
        assert [client.read_head().status for client in hold(token, 1)] == [429]
        first.close()
        server.wait_for_records(2, token)

        assert [client.read_head().status for client in hold(token, 1)] == [101]


def answering_anew(peer) -> None:
    peer.read_head()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@on_both_servers
def test_connections_without_a_request_take_no_file_that_a_call_needs(server_kind, tmp_path):
    calls = 20
    files = OTHER_FILES + FILES_PER_CALL * calls
    with (
        ScriptedUpstream(every=answering_anew) as upstream,
        Server(server_kind, tmp_path / "data", most_files=files, UPSTREAM_URL=upstream.url) as server,
        HandClient(server.url) as client,
        ExitStack() as idle,
    ):
        token = server.issue_token()
        assert client.call("GET", "/v1/models", token.bearer).status == 200
        (pid,) = server.worker_pids()
        for _ in range(files):
            idle.enter_context(socket.create_connection(("127.0.0.1", urlsplit(server.url).port)))
        # Those of its clients, and the one that listens.
        wait_for(lambda: len(open_sockets(pid)) > calls)

        assert [client.call("GET", "/v1/models", token.bearer).status for _ in range(20)] == [200] * 20
        assert len(open_files(pid)) < files
    assert "Too many open files" not in server.output()
