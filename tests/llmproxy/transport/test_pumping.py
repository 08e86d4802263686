"""A body that the event loop reads, on gevent's own sockets: the other tests of the transport run without a loop."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import gevent
import gevent.socket
import gevent.ssl
import pytest
import trustme
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout

from llmproxy.client.guard import Abortable
from llmproxy.transport import connection
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.response import WireResponse
from tests.llmproxy.transport.test_transport import Client
from tests.upstream import Peer, Script, ScriptedUpstream, keeping, server_context

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
END = b"0\r\n\r\n"
IDLE_S = 1.0
PATIENT = Timeouts(connect_s=60, first_byte_s=60, idle_s=60)


class Scene:
    """
    A client on gevent's sockets, and upstreams that it trusts.

    Attributes:
        taken: What the event loop has given away. A piece that is `enough` is the last to be taken.
        guarded: The connections that were made.
    """

    def __init__(self, authority: trustme.CA, *, tls: bool) -> None:
        self._tls = server_context(authority, "localhost") if tls else None
        self._trust = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self._trust)
        self.guarded: list[Abortable] = []
        self.taken: list[bytes] = []
        self._may_go_on = threading.Semaphore(0)

    @contextlib.contextmanager
    def response(self, script: Script, timeouts: Timeouts = PATIENT) -> Iterator[WireResponse]:
        client = Client(timeouts, self._trust)
        with ScriptedUpstream(script, tls=self._tls) as upstream:
            origin = upstream.origin._replace(host="localhost" if self._tls else upstream.origin.host)
            raw = client.open(origin, on_connection=lambda made: self.guarded.append(made) if made else None).raw
            yield raw
            raw.close()
            client.adapter.close()

    def pump(self, raw: WireResponse) -> None:
        gevent.spawn(self._may_go_on.release)  # runs as soon as this greenlet sleeps
        raw.pump(self.take)

    def take(self, piece: bytes) -> bool:
        self.taken.append(piece)
        self._may_go_on.release()
        return piece != b"enough"

    def sending(self, head: bytes, *pieces: bytes, then: Script | None = None) -> Script:
        """Sends the first piece when the event loop reads, and each other when the one before it has been taken."""

        def script(peer: Peer) -> None:
            peer.read_request()
            peer.send(head)
            for send in [*(partial(Peer.send, data=piece) for piece in pieces), *([then] if then else [])]:
                assert self._may_go_on.acquire(timeout=60)
                send(peer)
            with contextlib.suppress(OSError):
                peer.read_to_end()

        return script


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def gevents_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "socket", gevent.socket)


@pytest.fixture
def tcp_scene(authority: trustme.CA) -> Scene:
    return Scene(authority, tls=False)


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def scene(request: pytest.FixtureRequest, authority: trustme.CA) -> Scene:
    return Scene(authority, tls=request.param)


def test_each_read_is_given_away_but_for_the_last(scene: Scene) -> None:
    script = scene.sending(HEAD, b"3\r\none\r\n", b"3\r\ntwo\r\n1\r\n-\r\n", b"5\r\nthree\r\n" + END)
    with scene.response(script) as raw:
        scene.pump(raw)
        assert (scene.taken, raw.read1(), raw.is_drained) == ([b"one", b"two-"], b"three", True)


def test_a_connection_is_kept_after_a_body_that_the_event_loop_read(scene: Scene) -> None:
    with scene.response(scene.sending(HEAD, b"3\r\none\r\n", END)) as raw:
        used = scene.guarded[-1]
        scene.pump(raw)
        raw.close()
        assert raw._pool.idle(used.origin, 10) is used
        used.close()


def test_whoever_has_enough_may_read_on(scene: Scene) -> None:
    with scene.response(scene.sending(HEAD, b"6\r\nenough\r\n", b"4\r\nmore\r\n" + END)) as raw:
        scene.pump(raw)
        assert (scene.taken, raw.read1(), raw.read1()) == ([b"enough"], b"more", b"")


def test_what_has_come_already_is_left_to_who_reads(scene: Scene) -> None:
    with scene.response(keeping(HEAD + b"5\r\nearly\r\n" + END)) as raw:
        scene.pump(raw)
        assert (scene.taken, raw.read1()) == ([], b"early")


def test_a_body_may_end_with_its_connection(scene: Scene) -> None:
    with scene.response(scene.sending(CLOSING_HEAD, b"one", then=Peer.close)) as raw:
        scene.pump(raw)
        assert (scene.taken, raw.is_drained) == ([b"one"], True)


@pytest.mark.parametrize("end", [Peer.finish_sending, Peer.reset])
def test_a_body_that_breaks_off_is_an_error(scene: Scene, end: Callable[[Peer], None]) -> None:
    script = scene.sending(HEAD, b"3\r\none\r\n", then=end)
    with scene.response(script) as raw, pytest.raises(RequestsConnectionError):
        scene.pump(raw)
    assert scene.taken == [b"one"]


def test_a_reset_is_not_the_end_of_a_body_that_ends_with_its_connection(tcp_scene: Scene) -> None:
    script = tcp_scene.sending(CLOSING_HEAD, b"one", then=Peer.reset)
    with tcp_scene.response(script) as raw, pytest.raises(RequestsConnectionError):
        tcp_scene.pump(raw)


@pytest.mark.parametrize("head", [HEAD, CLOSING_HEAD], ids=["chunked", "close-delimited"])
def test_an_abort_ends_it_and_is_no_end_of_the_body(scene: Scene, head: bytes) -> None:
    script = scene.sending(head, b"3\r\none\r\n", then=lambda _: scene.guarded[-1].abort())
    with scene.response(script) as raw, pytest.raises(RequestsConnectionError, match="aborted"):
        scene.pump(raw)


def test_an_upstream_that_falls_silent_is_a_read_timeout(scene: Scene) -> None:
    script = scene.sending(HEAD, b"3\r\none\r\n", b"3\r\ntwo\r\n")
    with scene.response(script, replace(PATIENT, idle_s=IDLE_S)) as raw, pytest.raises(ReadTimeout):
        scene.pump(raw)
    assert scene.taken == [b"one", b"two"]


def test_whatever_comes_puts_the_end_of_the_wait_off(scene: Scene, monkeypatch) -> None:
    deadlines: list[float] = []

    def take(piece: bytes) -> bool:
        deadlines.append(scene.guarded[-1]._readiness.deadline)
        return Scene.take(scene, piece)

    monkeypatch.setattr(scene, "take", take)
    with scene.response(scene.sending(HEAD, b"3\r\none\r\n", b"3\r\ntwo\r\n", END)) as raw:
        scene.pump(raw)
    assert deadlines[0] < deadlines[1]


def test_what_tls_has_to_send_itself_is_waited_for_by_who_reads(scene: Scene, monkeypatch) -> None:
    def wants_to_write(_: int) -> bytes:
        raise ssl.SSLWantWriteError

    with scene.response(scene.sending(HEAD, b"3\r\none\r\n" + END)) as raw:
        monkeypatch.setattr(scene.guarded[-1], "_read_ready", wants_to_write)
        scene.pump(raw)
        assert (scene.taken, raw.read1()) == ([], b"one")


def test_what_is_no_http_is_an_error(scene: Scene) -> None:
    script = scene.sending(HEAD, b"3\r\none\r\n", b"no size\r\n")
    with scene.response(script) as raw, pytest.raises(RequestsConnectionError, match="not HTTP"):
        scene.pump(raw)


def test_what_a_taker_raises_is_raised(scene: Scene) -> None:
    def refuse(_: bytes) -> bool:
        raise ZeroDivisionError

    scene.take = refuse
    with scene.response(scene.sending(HEAD, b"3\r\none\r\n")) as raw, pytest.raises(ZeroDivisionError):
        scene.pump(raw)


def test_a_closed_response_gives_nothing_away(scene: Scene) -> None:
    with scene.response(scene.sending(HEAD)) as raw:
        raw.close()
        scene.pump(raw)
    assert scene.taken == []


def test_where_no_event_loop_can_read_all_is_left_to_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    taken: list[bytes] = []
    with ScriptedUpstream(keeping(HEAD + b"3\r\none\r\n" + END)) as upstream:
        client = Client()
        raw = client.open(upstream.origin).raw
        raw.pump(lambda piece: bool(taken.append(piece)))
        assert (taken, raw.read1()) == ([], b"one")
        raw.close()
        client.adapter.close()
