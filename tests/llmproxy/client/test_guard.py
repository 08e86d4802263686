"""The watch on a client's socket: real sockets, and the event loop run by hand. Unpatched, as all unit tests."""

import socket
import ssl
import threading
from collections.abc import Iterator

import gevent
import gevent.socket
import pytest

from llmproxy.client import guard as hangup
from llmproxy.client.guard import HangupWatch
from llmproxy.errors import ClientGone, TokenRevoked
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
    monkeypatch.setattr(hangup, "GRACE_S", 0)


def turn_the_loop() -> None:
    gevent.sleep(0)
    gevent.sleep(0.001)


@pytest.fixture
def watch(pair: Pair) -> Iterator[HangupWatch]:
    made = HangupWatch(pair[1])
    yield made
    made.stop()


def test_a_hang_up_aborts_the_upstream_call(pair: Pair, watch: HangupWatch) -> None:
    upstream = Upstream()
    watch.guard(upstream)  # type: ignore[arg-type]
    watch.start()
    turn_the_loop()
    assert (watch.ended_by, upstream.aborts) == (None, 0)

    pair[0].close()
    turn_the_loop()
    turn_the_loop()
    assert isinstance(watch.ended_by, ClientGone)
    assert upstream.aborts == 1


def test_a_connection_made_after_the_hang_up_is_refused(pair: Pair, watch: HangupWatch) -> None:
    watch.start()
    pair[0].close()
    turn_the_loop()

    with pytest.raises(ClientGone):
        watch.guard(Upstream())  # type: ignore[arg-type]


def test_only_the_last_guarded_connection_is_aborted(pair: Pair, watch: HangupWatch) -> None:
    first, second = Upstream(), Upstream()
    watch.start()
    watch.guard(first)  # type: ignore[arg-type]
    watch.guard(second)  # type: ignore[arg-type]
    pair[0].close()
    turn_the_loop()

    assert (first.aborts, second.aborts) == (0, 1)


def test_nothing_is_aborted_after_the_stop(pair: Pair, watch: HangupWatch) -> None:
    upstream = Upstream()
    watch.guard(upstream)  # type: ignore[arg-type]
    watch.start()
    watch.stop()
    watch.stop()
    pair[0].close()
    turn_the_loop()

    assert (watch.ended_by, upstream.aborts) == (None, 0)


def test_a_client_that_sends_its_next_request_is_still_there(pair: Pair, watch: HangupWatch) -> None:
    upstream = Upstream()
    watch.guard(upstream)  # type: ignore[arg-type]
    watch.start()
    pair[0].send(b"GET /v1/models HTTP/1.1\r\n")
    turn_the_loop()

    assert (watch.ended_by, upstream.aborts) == (None, 0)
    assert watch.has_hung_up() is False
    assert pair[1].recv(3) == b"GET"  # it only looked


def test_a_cut_aborts_the_upstream_call_and_leaves_the_client_its_answer(pair: Pair, watch: HangupWatch) -> None:
    upstream, reason = Upstream(), TokenRevoked()
    watch.guard(upstream)  # type: ignore[arg-type]
    watch.cut(reason)

    assert (watch.ended_by, upstream.aborts, watch.has_hung_up()) == (reason, 1, False)
    with pytest.raises(TokenRevoked):
        watch.guard(Upstream())  # type: ignore[arg-type]


def test_a_second_cut_ends_the_clients_connection_too(pair: Pair, watch: HangupWatch) -> None:
    first = TokenRevoked()
    watch.cut(first)
    watch.cut(TokenRevoked())

    assert watch.ended_by is first
    assert pair[0].recv(1) == b""


def test_a_cut_before_the_upstream_is_called_needs_no_upstream() -> None:
    watch = HangupWatch(None)
    watch.cut(TokenRevoked())
    watch.cut(TokenRevoked())

    assert isinstance(watch.ended_by, TokenRevoked)


def test_starting_twice_watches_once(watch: HangupWatch) -> None:
    watch.start()
    watcher = watch._watcher
    watch.start()

    assert not watcher.active and watch._watcher.active


def test_a_hang_up_behind_bytes_that_nobody_has_read_is_seen_while_the_client_sends(
    pair: Pair, watch: HangupWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hangup, "LOOK_EVERY_S", 0.001)
    upstream = Upstream()
    watch.guard(upstream)
    watch.start_while_sending()
    pair[0].sendall(b"not read yet")
    turn_the_loop()
    assert (watch.ended_by, upstream.aborts) == (None, 0)

    pair[0].close()
    while watch.ended_by is None:
        turn_the_loop()
    assert upstream.aborts == 1


def test_a_look_sees_a_hang_up_without_the_loop(pair: Pair, watch: HangupWatch) -> None:
    assert watch.has_hung_up() is False
    pair[0].close()

    assert watch.has_hung_up() is True


def test_a_reset_is_a_hang_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        watched, _ = listener.accept()
    with watched:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        client.close()

        assert HangupWatch(watched).has_hung_up() is True


def test_a_server_that_does_not_show_its_socket_is_not_watched() -> None:
    watch = HangupWatch(None)
    watch.start()
    watch.stop()

    assert (watch.has_hung_up(), watch.ended_by) == (False, None)


@pytest.mark.parametrize("module", [socket, gevent.socket])
def test_a_hang_up_after_the_guarded_connection_was_closed_does_no_harm(
    module: object, pair: Pair, watch: HangupWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead idle connection is closed, and stays guarded while a fresh one is being made."""
    monkeypatch.setattr(connecting.socket, "create_connection", module.create_connection)  # type: ignore[attr-defined]
    errors: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *error: errors.append(error))
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        origin = Origin("http", *listener.getsockname(), "x", "")
        connection = Connection(origin, 10, ssl.create_default_context())
        watch.guard(connection)
        watch.start()
        connection.close()
        pair[0].close()
        turn_the_loop()

    assert isinstance(watch.ended_by, ClientGone)
    assert errors == []


def test_an_abort_from_the_loop_wakes_a_greenlet_that_waits(
    pair: Pair, watch: HangupWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting.socket, "create_connection", gevent.socket.create_connection)
    left = threading.Event()
    with ScriptedUpstream(lambda peer: left.set() if peer.is_closed_by_other_side() else None) as upstream:
        connection = Connection(upstream.origin, 10, ssl.create_default_context())
        watch.guard(connection)
        watch.start()
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
        HangupWatch(watched).reset_client()
        watched.close()

        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_reset_of_nobody_or_of_a_closed_connection_does_nothing(pair: Pair) -> None:
    HangupWatch(None).reset_client()
    watch = HangupWatch(pair[1])
    pair[1].close()
    watch.reset_client()
