"""The guard on a client's socket: real sockets, and the event loop run by hand. Unpatched, as all unit tests."""

import socket
import ssl
import threading
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from llmproxy.client import guard as guarding
from llmproxy.client.guard import CallGuard
from llmproxy.errors import ClientGone, ProxyError, TokenRevoked
from llmproxy.headers import Origin
from llmproxy.transport import connection as connecting
from llmproxy.transport.connection import Connection
from tests.upstream import ScriptedUpstream

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["socket", "gevent"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The client's end, and the end that is watched."""
    client, watched = (socket if request.param == "socket" else gevent.socket).socketpair()
    with client, watched:
        yield client, watched


class Upstream:
    """Stands for a connection; counts its aborts."""

    def __init__(self) -> None:
        self.aborts = 0

    def abort(self) -> None:
        self.aborts += 1


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "GRACE_S", 0)


def turn_the_loop() -> None:
    gevent.sleep(0)
    for _ in range(3):  # a timer may be served before what else its turn has found
        gevent.sleep(0.001)


@pytest.fixture
def guard(pair: Pair) -> Iterator[CallGuard]:
    made = CallGuard(pair[1])
    yield made
    made.stop()


def test_a_hang_up_aborts_the_upstream_call(pair: Pair, guard: CallGuard) -> None:
    upstream = Upstream()
    guard.guard(upstream)
    guard.watch_client()
    turn_the_loop()
    assert (guard.ended_by, upstream.aborts) == (None, 0)

    pair[0].close()
    turn_the_loop()
    turn_the_loop()
    assert isinstance(guard.ended_by, ClientGone)
    assert upstream.aborts == 1


def test_a_connection_made_after_the_hang_up_is_refused(pair: Pair, guard: CallGuard) -> None:
    guard.guard(Upstream())
    guard.watch_client()
    pair[0].close()
    turn_the_loop()

    with pytest.raises(ClientGone):
        guard.guard(Upstream())


def test_only_the_last_guarded_connection_is_aborted(pair: Pair, guard: CallGuard) -> None:
    first, second = Upstream(), Upstream()
    guard.watch_client()
    guard.guard(first)
    guard.guard(second)
    pair[0].close()
    turn_the_loop()

    assert (first.aborts, second.aborts) == (0, 1)


def test_nothing_is_aborted_after_the_stop(pair: Pair, guard: CallGuard) -> None:
    upstream = Upstream()
    guard.guard(upstream)
    guard.watch_client()
    guard.stop()
    guard.stop()
    pair[0].close()
    turn_the_loop()

    assert (guard.ended_by, upstream.aborts) == (None, 0)


def test_a_client_that_sends_its_next_request_is_still_there(pair: Pair, guard: CallGuard) -> None:
    upstream = Upstream()
    guard.guard(upstream)
    guard.watch_client()
    pair[0].send(b"GET /v1/models HTTP/1.1\r\n")
    turn_the_loop()

    assert (guard.ended_by, upstream.aborts) == (None, 0)
    assert guard.client_is_gone() is False
    assert pair[1].recv(3) == b"GET"  # it only looked


def test_a_hang_up_behind_the_next_request_is_seen(
    pair: Pair, guard: CallGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "LOOK_EVERY_S", 0.001)
    upstream = Upstream()
    guard.guard(upstream)
    guard.watch_client()
    pair[0].sendall(b"GET /v1/models HTTP/1.1\r\n")
    turn_the_loop()
    assert (guard.ended_by, upstream.aborts) == (None, 0)

    pair[0].close()
    while guard.ended_by is None:
        turn_the_loop()
    assert (type(guard.ended_by), upstream.aborts) == (ClientGone, 1)


def test_a_cut_aborts_the_upstream_call_and_leaves_the_client_its_answer(pair: Pair, guard: CallGuard) -> None:
    upstream, reason = Upstream(), TokenRevoked()
    guard.guard(upstream)
    guard.cut(reason)

    assert (guard.ended_by, upstream.aborts, guard.client_is_gone()) == (reason, 1, False)
    with pytest.raises(TokenRevoked):
        guard.guard(Upstream())


def test_a_second_cut_ends_the_clients_connection_too(pair: Pair, guard: CallGuard) -> None:
    first = TokenRevoked()
    guard.guard(Upstream())
    guard.cut(first)
    guard.cut(TokenRevoked())

    assert guard.ended_by is first
    assert pair[0].recv(1) == b""


class WaitingCall:
    """A call that waits in a greenlet of its own, and has guarded nothing."""

    def __init__(self) -> None:
        self.goes_on = Event()
        self.ended_by: ProxyError | None = None
        self._greenlet = gevent.spawn(self._run)
        turn_the_loop()

    def _run(self) -> None:
        self.guard = CallGuard(None)
        try:
            self.goes_on.wait()
        except ProxyError as exc:
            self.ended_by = exc
        self.guard.stop()

    def is_over(self) -> bool:
        turn_the_loop()
        return self._greenlet.ready()


def test_a_cut_before_the_upstream_is_called_ends_whatever_the_call_waits_for() -> None:
    call, reason = WaitingCall(), TokenRevoked()
    call.guard.cut(reason)
    call.guard.cut(TokenRevoked())

    assert call.is_over()
    assert call.ended_by is call.guard.ended_by is reason


def test_who_lets_go_of_a_dead_connection_is_thrown_out_of_the_wait_for_the_next() -> None:
    call, dead = WaitingCall(), Upstream()
    call.guard.guard(dead)
    call.guard.guard(None)
    call.guard.cut(TokenRevoked())

    assert call.is_over()
    assert (type(call.ended_by), dead.aborts) == (TokenRevoked, 0)


def test_a_cut_that_comes_as_the_call_goes_on_does_not_reach_what_it_does_then() -> None:
    call = WaitingCall()
    call.goes_on.set()
    call.guard.cut(TokenRevoked())

    assert call.is_over()
    assert (call.ended_by, type(call.guard.ended_by)) == (None, TokenRevoked)


def test_what_ended_a_call_first_is_what_ended_it(pair: Pair, guard: CallGuard) -> None:
    guard.guard(Upstream())
    guard.watch_client()
    guard.cut(TokenRevoked())
    pair[0].close()
    turn_the_loop()
    turn_the_loop()

    assert isinstance(guard.ended_by, TokenRevoked)


def test_starting_twice_watches_once(guard: CallGuard) -> None:
    guard.watch_client()
    watcher = guard._watcher
    guard.watch_client()

    assert not watcher.active and guard._watcher.active


def test_a_hang_up_behind_bytes_that_nobody_has_read_is_seen_while_the_client_sends(
    pair: Pair, guard: CallGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "LOOK_EVERY_S", 0.001)
    upstream = Upstream()
    guard.guard(upstream)
    guard.watch_sending_client()
    pair[0].sendall(b"not read yet")
    turn_the_loop()
    assert (guard.ended_by, upstream.aborts) == (None, 0)

    pair[0].close()
    while guard.ended_by is None:
        turn_the_loop()
    assert upstream.aborts == 1


def test_a_look_sees_a_hang_up_without_the_loop(pair: Pair, guard: CallGuard) -> None:
    assert guard.client_is_gone() is False
    pair[0].close()

    assert guard.client_is_gone() is True


def test_a_reset_is_a_hang_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        watched, _ = listener.accept()
    with watched:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        client.close()

        assert CallGuard(watched).client_is_gone() is True


def test_a_server_that_does_not_show_its_socket_is_not_watched() -> None:
    guard = CallGuard(None)
    guard.watch_client()
    guard.stop()

    assert (guard.client_is_gone(), guard.ended_by) == (False, None)


@pytest.mark.parametrize("module", [socket, gevent.socket])
def test_a_hang_up_after_the_guarded_connection_was_closed_does_no_harm(
    module: object, pair: Pair, guard: CallGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead idle connection is closed, and stays guarded while a fresh one is being made."""
    monkeypatch.setattr(connecting, "socket", module)
    errors: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: errors.append(error))
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        origin = Origin("http", *listener.getsockname(), "x", "/v1")
        connection = Connection(origin, 10, ssl.create_default_context())
        guard.guard(connection)
        guard.watch_client()
        connection.close()
        pair[0].close()
        turn_the_loop()

    assert isinstance(guard.ended_by, ClientGone)
    assert errors == []


def test_an_abort_from_the_loop_wakes_a_greenlet_that_waits(
    pair: Pair, guard: CallGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "socket", gevent.socket)
    left = threading.Event()
    with ScriptedUpstream(lambda peer: left.set() if peer.is_closed_by_other_side() else None) as upstream:
        connection = Connection(upstream.origin, 10, ssl.create_default_context())
        guard.guard(connection)
        guard.watch_client()
        gevent.spawn_later(0.01, pair[0].close)
        with pytest.raises(OSError, match="aborted"):
            connection.receive(10)
        connection.close()

    assert left.is_set()


def test_a_client_can_be_shown_by_a_reset_that_an_answer_was_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        watched, _ = listener.accept()
    with client:
        CallGuard(watched).reset_client()
        watched.close()

        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_reset_of_nobody_or_of_a_closed_connection_does_nothing(pair: Pair) -> None:
    CallGuard(None).reset_client()
    guard = CallGuard(pair[1])
    pair[1].close()
    guard.reset_client()
