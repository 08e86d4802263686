"""The transport adapter against a real socket server: parsing, reuse, repeats, time limits, aborts, TLS."""

import contextlib
import gc
import io
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
import trustme
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ConnectTimeout, ReadTimeout

from llmproxy.client.guard import Abortable
from llmproxy.client.request_body import HELD_BYTES, RequestBody
from llmproxy.errors import BodyTooLarge, ClientGone
from llmproxy.headers import Headers, Origin
from llmproxy.transport import pool
from llmproxy.transport.adapter import UpstreamAdapter
from llmproxy.transport.connection import READ_BYTES, Connection, Timeouts, verifying_context
from llmproxy.transport.request import OnInterim, UpstreamRequest
from llmproxy.transport.response import MAX_HEAD_BYTES, WireResponse
from tests.upstream import (
    Peer,
    Script,
    ScriptedUpstream,
    answering,
    keeping,
    server_context,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENT = Timeouts(connect_s=60, first_byte_s=60, idle_s=60)
SHORT_S = 0.05


def ignore(_: Abortable | None) -> None:
    pass


class Client:
    """Sends requests through an adapter."""

    def __init__(self, timeouts: Timeouts = PATIENT, context: ssl.SSLContext | None = None) -> None:
        self.adapter = UpstreamAdapter(timeouts, context or ssl.create_default_context())

    def open(
        self,
        origin: Origin,
        *,
        method: str = "GET",
        target: str = "/v1/models",
        headers: Headers | None = None,
        body: RequestBody | None = None,
        on_connection: Callable[[Abortable | None], None] = ignore,
        on_interim: OnInterim | None = None,
    ) -> requests.Response:
        sent = [("Host", origin.host_header), *(headers or [])]
        request = UpstreamRequest(method, origin, target, sent, body or held(b""), on_connection, on_interim)
        return self.adapter.send(request)

    def exchange(self, origin: Origin, **request: object) -> bytes:
        """The whole body of one answer, its connection given back."""
        return rest(self.open(origin, **request))  # type: ignore[arg-type]


def rest(response: requests.Response) -> bytes:
    body = b"".join(iter(response.raw.read1, b""))
    response.raw.close()
    return body


def held(data: bytes) -> RequestBody:
    body = RequestBody(io.BytesIO(data), length=len(data), max_bytes=1 << 30)
    body.hold_if_small()
    return body


def streamed(data: bytes, *, chunked: bool = False) -> RequestBody:
    return RequestBody(io.BytesIO(data), length=None if chunked else len(data), max_bytes=1 << 30)


gevent.sleep(0)  # the event loop opens its files now, not within the first test


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    made.adapter.close()


@pytest.fixture(autouse=True)
def no_file_left_open() -> Iterator[None]:
    """Whatever a test does to a connection, it may not leave a descriptor behind."""
    before = open_files()
    yield
    assert open_files() <= before


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released after each read of the adapter, so that an upstream can send its pieces one read each."""
    semaphore = threading.Semaphore(0)

    def telling(read: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any) -> Any:
            data = read(*args)
            semaphore.release()
            return data

        return told

    monkeypatch.setattr(Connection, "receive", telling(Connection.receive))
    return semaphore


# What an answer is, and where it ends

ANSWERS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "GET", b"hello"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", b""),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        "GET",
        b"hello",
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "GET",
        b"hello",
    ),
    "informational": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "GET",
        b"hello",
    ),
    "head": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", b""),
    "head of chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", b""),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", "GET", b""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_the_same_wherever_its_packets_are_cut(
    name: str, client: Client, received: threading.Semaphore
) -> None:
    message, method, body = ANSWERS[name]

    def script(peer: Peer) -> None:
        for cut in range(1, len(message)):
            peer.read_request()
            peer.send(message[:cut])
            received.acquire()
            peer.send(message[cut:])
            if method != "HEAD":
                received.acquire()
            else:
                received.acquire(timeout=0.2)
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream:
        for _ in range(1, len(message)):
            response = client.open(upstream.origin, method=method)
            assert (response.status_code, rest(response)) == (int(message.split(b"HTTP/1.1 ")[-1][:3]), body)
            assert [header for header, _ in response.raw.headers] == names_in_head(message)
        client.adapter.close()


def names_in_head(message: bytes) -> list[str]:
    head = message.split(b"HTTP/1.1 ")[-1].split(b"\r\n\r\n")[0]
    return [line.split(b":")[0].decode() for line in head.split(b"\r\n")[1:]]


def test_interim_answers_are_told_as_they_come(client: Client) -> None:
    told: list[tuple[int, Headers]] = []
    hinted = threading.Event()

    def on_interim(status: int, headers: Headers) -> None:
        told.append((status, headers))
        if status == 103:
            hinted.set()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\n\r\n")
        assert hinted.wait(60)
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)

    with ScriptedUpstream(script) as upstream:
        response = client.open(upstream.origin, on_interim=on_interim)
        assert (response.status_code, rest(response)) == (200, b"ok")

    assert told == [(100, []), (103, [("Link", "</a>"), ("link", "</b>")]), (102, [])]


def test_trailers_are_kept_apart_from_headers(client: Client) -> None:
    message, _, body = ANSWERS["trailers"]
    with ScriptedUpstream(answering(message)) as upstream:
        response = client.open(upstream.origin)
        assert (rest(response), response.raw.trailers) == (body, [("X-Sum", "1")])
        assert "x-sum" not in response.headers


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"]
)
def test_a_body_without_framing_ends_with_its_connection(head: bytes, client: Client) -> None:
    with ScriptedUpstream(answering(head + b"hello"), answering(OK)) as upstream:
        assert client.exchange(upstream.origin) == b"hello"
        assert client.exchange(upstream.origin) == b"ok"


def test_headers_keep_their_order_case_and_repetition(client: Client) -> None:
    lines = b"X-B: 1\r\nx-a: 2\r\nX-B: 3\r\nEmpty:\r\nLatin: \xe9\r\nContent-Length: 0\r\n"
    with ScriptedUpstream(answering(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")) as upstream:
        response = client.open(upstream.origin)
        rest(response)

    assert response.raw.headers == [
        ("X-B", "1"), ("x-a", "2"), ("X-B", "3"), ("Empty", ""), ("Latin", "\xe9"), ("Content-Length", "0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [(b"299 Sehr sch\xf6n", 299, "Sehr sch\xf6n"), (b"200", 200, ""), (b"200 ", 200, ""), (b"599 x", 599, "x")],
)
def test_status_and_reason_are_what_was_sent(line: bytes, status: int, reason: str, client: Client) -> None:
    with ScriptedUpstream(answering(b"HTTP/1.1 " + line + b"\r\nContent-Length: 0\r\n\r\n")) as upstream:
        response = client.open(upstream.origin)
        rest(response)

    assert (response.status_code, response.reason) == (status, reason)


def test_a_finished_answer_leaves_nothing_to_the_garbage_collector(client: Client) -> None:
    gc.collect()
    with ScriptedUpstream(answering(OK)) as upstream:
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            client.exchange(upstream.origin)
            gc.collect()
            left = [found for found in gc.garbage if isinstance(found, WireResponse)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()

    assert left == []


def test_each_read_of_the_upstream_is_one_piece(client: Client, received: threading.Semaphore) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"1\r\na\r\n", b"1\r\nb\r\n1\r\nc\r\n", b"0\r\n\r\n"):
            received.acquire()
            peer.send(piece)
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream:
        response = client.open(upstream.origin)
        pieces = list(iter(response.raw.read1, b""))
        response.raw.close()
        client.adapter.close()

    assert pieces == [b"a", b"bc"]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (MAX_HEAD_BYTES + READ_BYTES),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000,
    ],
    ids=[
        "nothing", "half a head", "another protocol", "no status", "bad length", "two lengths", "length and chunks",
        "folded line", "nul", "space in a name", "switched protocols", "endless head", "endless hints",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error_before_the_body(answer: bytes, client: Client) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        with contextlib.suppress(ConnectionError):
            peer.send(answer)

    with ScriptedUpstream(script) as upstream, pytest.raises(RequestsConnectionError):
        client.open(upstream.origin)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokxx0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + b"X-T: a\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: " + b"a" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2;" + b"a" * 1_000_000,
    ],
    ids=[
        "short", "no last chunk", "no chunk size", "chunk too long", "endless trailers", "endless trailer",
        "endless extension",
    ],
)  # fmt: skip
def test_a_body_that_breaks_off_is_an_error_after_what_came(
    answer: bytes, client: Client, received: threading.Semaphore
) -> None:
    whole, _, _ = answer.partition(b"ok")

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(whole + b"ok")
        received.acquire()
        with contextlib.suppress(ConnectionError):
            peer.send(answer.removeprefix(whole + b"ok"))

    with ScriptedUpstream(script) as upstream:
        response = client.open(upstream.origin)
        assert response.raw.read1() == b"ok"
        with pytest.raises(RequestsConnectionError):
            response.raw.read1()
        response.raw.close()


def test_a_reset_within_the_body_is_an_error(client: Client, received: threading.Semaphore) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nok")
        received.acquire()
        peer.reset()

    with ScriptedUpstream(script) as upstream:
        response = client.open(upstream.origin)
        assert response.raw.read1() == b"ok"
        with pytest.raises(RequestsConnectionError):
            response.raw.read1()
        response.raw.close()


def test_a_closed_answer_cannot_be_read(client: Client) -> None:
    with ScriptedUpstream(keeping(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as upstream:
        response = client.open(upstream.origin)
        response.raw.close()
        with pytest.raises(RequestsConnectionError):
            response.raw.read1()


# Which connections are used again


def test_a_connection_is_used_again_after_a_clean_exchange(client: Client) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    old = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    with ScriptedUpstream(keeping(OK, chunked, empty, old, OK)) as upstream:
        bodies = [client.exchange(upstream.origin) for _ in range(5)]
        client.adapter.close()

    assert bodies == [b"ok", b"ok", b"", b"ok", b"ok"]


def test_a_connection_is_used_again_after_an_answer_to_head(client: Client) -> None:
    with ScriptedUpstream(keeping(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", OK)) as upstream:
        assert client.exchange(upstream.origin, method="HEAD") == b""
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


@pytest.mark.parametrize(
    ("first", "method"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "GET"),
        (b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok", "GET"),
        (OK + b"excess", "GET"),
        (OK + OK.replace(b"200 OK", b"500 No").replace(b"ok", b"no"), "GET"),
        (OK, "HEAD"),
    ],
    ids=["HTTP/1.0", "close", "close in a list", "excess", "two answers", "HEAD with a body"],
)
def test_a_connection_is_closed_after_an_exchange_that_leaves_doubt(
    first: bytes, method: str, client: Client
) -> None:
    with ScriptedUpstream(keeping(first), keeping(OK)) as upstream:
        response = client.open(upstream.origin, method=method)
        assert (response.status_code, response.reason) == (200, "OK")
        assert rest(response) == (b"" if method == "HEAD" else b"ok")
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_a_connection_whose_answer_was_not_read_to_its_end_is_closed(client: Client) -> None:
    with ScriptedUpstream(keeping(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), keeping(OK)) as upstream:
        response = client.open(upstream.origin)
        response.raw.read1()
        response.raw.close()
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_a_connection_goes_back_only_when_its_answer_is_closed(client: Client) -> None:
    """Whoever guards it must have let go of it first: an abort would hit the next caller's exchange."""
    with ScriptedUpstream(keeping(OK), keeping(OK)) as upstream:
        response = client.open(upstream.origin)
        assert (response.raw.read1(), response.raw.read1()) == (b"ok", b"")
        assert client.exchange(upstream.origin) == b"ok"
        response.raw.close()
        client.adapter.close()


def test_closing_an_answer_twice_gives_its_connection_back_once(client: Client) -> None:
    with ScriptedUpstream(keeping(OK, OK)) as upstream:
        response = client.open(upstream.origin)
        rest(response)
        response.raw.close()
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_a_connection_that_was_idle_for_too_long_is_not_used_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedUpstream(keeping(OK), keeping(OK)) as upstream:
        client.exchange(upstream.origin)
        later = time.monotonic() + pool.MAX_IDLE_S
        monkeypatch.setattr(pool.time, "monotonic", lambda: later)
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_the_oldest_connection_is_closed_when_too_many_are_idle(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE_PER_ORIGIN", 2)
    left = threading.Event()

    def oldest(peer: Peer) -> None:
        keeping(OK)(peer)
        left.set()

    with ScriptedUpstream(oldest, keeping(OK), keeping(OK, OK)) as upstream:
        for response in [client.open(upstream.origin) for _ in range(3)]:
            rest(response)

        assert left.wait(60)
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_idle_connections_are_closed_by_themselves_also_those_of_an_origin_that_is_never_called_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE_S", 0.02)
    left = threading.Semaphore(0)

    def waiting_to_be_left(peer: Peer) -> None:
        keeping(OK)(peer)
        left.release()

    with ScriptedUpstream(*[waiting_to_be_left] * 3) as one, ScriptedUpstream(waiting_to_be_left) as other:
        for response in [client.open(origin) for origin in [one.origin] * 3 + [other.origin]]:
            rest(response)
        assert client.adapter.count_idle() == 4
        with gevent.Timeout(60):
            while client.adapter.count_idle():
                gevent.sleep(0.01)

        assert all(left.acquire(timeout=60) for _ in range(4))
        assert client.adapter._pool._idle == {}


def test_a_connection_that_is_used_now_and_then_is_not_closed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pool, "MAX_IDLE_S", 0.02)
    with ScriptedUpstream(keeping(OK, OK, OK)) as upstream:
        for _ in range(3):
            assert client.exchange(upstream.origin) == b"ok"
            clock[0] += 0.01
            gevent.sleep(0.03)
        client.adapter.close()


def test_origins_do_not_share_connections(client: Client) -> None:
    with ScriptedUpstream(keeping(OK)) as one, ScriptedUpstream(keeping(OK)) as other:
        client.exchange(one.origin)
        client.exchange(other.origin)
        client.adapter.close()


def test_connections_are_counted(client: Client) -> None:
    before = client.adapter.count_open()
    with ScriptedUpstream(keeping(OK), keeping(OK)) as upstream:
        responses = [client.open(upstream.origin) for _ in range(2)]
        assert (client.adapter.count_open() - before, client.adapter.count_idle()) == (2, 0)
        for response in responses:
            rest(response)
        assert (client.adapter.count_open() - before, client.adapter.count_idle()) == (2, 2)
        client.adapter.close()

    with pytest.raises(RequestsConnectionError):
        client.open(upstream.origin._replace(scheme="https"))
    assert (client.adapter.count_open() - before, client.adapter.count_idle()) == (0, 0)


# What is repeated


def dies(peer: Peer) -> None:
    peer.read_request()


def silent(peer: Peer) -> None:
    peer.read_to_end()


def wait_for_the_end(client: Client, origin: Origin) -> None:
    """Until the end of its kept connection has come to this side, too."""
    [kept] = client.adapter._pool._idle[origin]
    assert select.select([kept._sock], [], [], 60)[0]


def closing(peer: Peer) -> None:
    peer.close()


def resetting(peer: Peer) -> None:
    peer.reset()


ENDS = pytest.mark.parametrize("end", [closing, resetting], ids=["fin", "reset"])
REPEATABLE = pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
ONCE_ONLY = pytest.mark.parametrize("method", ["POST", "PATCH", "FROBNICATE"])


def dying_under_the_second(end: Script) -> Script:
    """Answers once, reads another request, and is gone."""

    def script(peer: Peer) -> None:
        answering(OK)(peer)
        peer.read_request()
        end(peer)

    return script


@pytest.fixture
def unseen_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept connections look alive, as when their end is still under way while they are taken."""
    monkeypatch.setattr(Connection, "is_readable", lambda self: False)


@ENDS
@REPEATABLE
def test_a_request_without_effect_is_repeated_when_the_kept_connection_dies_under_it(
    method: str, end: Script, client: Client
) -> None:
    body = b"" if method == "HEAD" else b"ok"
    with ScriptedUpstream(dying_under_the_second(end), answering(OK)) as upstream:
        client.exchange(upstream.origin)
        assert client.exchange(upstream.origin, method=method) == body


@ENDS
@ONCE_ONLY
def test_what_has_reached_the_upstream_is_not_sent_twice(method: str, end: Script, client: Client) -> None:
    with ScriptedUpstream(dying_under_the_second(end)) as upstream:
        client.exchange(upstream.origin)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin, method=method, body=held(b"body"))

    assert upstream.connections == 1


@pytest.mark.usefixtures("unseen_end")
@ENDS
@ONCE_ONLY
def test_what_cannot_have_reached_the_upstream_is_sent_again(method: str, end: Script, client: Client) -> None:
    """It closed before the request was sent, which is seen by sending (reset) or by what was not confirmed (fin)."""
    asked: list[bytes] = []

    def first(peer: Peer) -> None:
        answering(OK)(peer)
        end(peer)

    def second(peer: Peer) -> None:
        asked.append(peer.read_request())
        peer.send(OK)

    with ScriptedUpstream(first, second) as upstream:
        client.exchange(upstream.origin)
        wait_for_the_end(client, upstream.origin)
        assert client.exchange(upstream.origin, method=method, body=held(b"body")) == b"ok"

    assert asked[0].endswith(b"\r\n\r\nbody")


def test_what_lay_unread_when_the_upstream_died_is_not_sent_twice(client: Client) -> None:
    """Its machine had the request, and nobody can know from here that nobody read it."""

    def script(peer: Peer) -> None:
        answering(OK)(peer)
        assert peer.socket.recv(1, socket.MSG_PEEK)
        peer.close()

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin, method="POST", body=held(b"body"))

    assert upstream.connections == 1


@pytest.mark.usefixtures("unseen_end")
def test_a_streamed_body_is_sent_whole_on_a_fresh_connection_when_not_even_its_head_could_leave(
    client: Client,
) -> None:

    def first(peer: Peer) -> None:
        answering(OK)(peer)
        peer.reset()

    with ScriptedUpstream(first, answering(OK)) as upstream:
        client.exchange(upstream.origin)
        wait_for_the_end(client, upstream.origin)
        assert client.exchange(upstream.origin, method="POST", body=streamed(b"x" * 100_000)) == b"ok"


def test_a_streamed_body_takes_no_connection_that_was_idle_for_long(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.monotonic()]
    monkeypatch.setattr(pool.time, "monotonic", lambda: clock[0])
    with ScriptedUpstream(keeping(OK, OK), keeping(OK)) as upstream:
        client.exchange(upstream.origin)
        client.exchange(upstream.origin, method="POST", body=streamed(b"x" * 100_000))
        clock[0] += pool.MAX_IDLE_FOR_STREAMED_S
        assert client.exchange(upstream.origin, method="POST", body=streamed(b"x" * 100_000)) == b"ok"
        client.adapter.close()


def test_a_request_is_not_repeated_twice(client: Client) -> None:
    def answers_then_dies(peer: Peer) -> None:
        answering(OK)(peer)
        dies(peer)

    with ScriptedUpstream(answers_then_dies, dies) as upstream:
        client.exchange(upstream.origin)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin)

    assert upstream.connections == 2


def test_a_connection_that_was_closed_while_idle_is_not_even_tried(client: Client) -> None:
    with ScriptedUpstream(answering(OK), answering(OK)) as upstream:
        client.exchange(upstream.origin)
        wait_for_the_end(client, upstream.origin)
        assert client.exchange(upstream.origin, method="POST", body=streamed(b"once only")) == b"ok"


@pytest.mark.parametrize(
    "second",
    [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"],
    ids=["one byte", "an interim answer", "half a head"],
)
def test_nothing_is_repeated_after_a_byte_of_an_answer(second: bytes, client: Client) -> None:
    with ScriptedUpstream(answering(OK, second)) as upstream:
        client.exchange(upstream.origin)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin)

    assert upstream.connections == 1


def test_nothing_is_repeated_on_a_fresh_connection(client: Client) -> None:
    with ScriptedUpstream(dies) as upstream, pytest.raises(RequestsConnectionError):
        client.open(upstream.origin)

    assert upstream.connections == 1


def test_a_body_that_cannot_be_sent_again_is_not_repeated(client: Client) -> None:
    def script(peer: Peer) -> None:
        answering(OK)(peer)
        peer.read_head()
        peer.reset()

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin, method="POST", body=streamed(b"x" * HELD_BYTES))

    assert upstream.connections == 1


def test_a_silent_upstream_is_not_asked_twice() -> None:
    client = Client()

    def script(peer: Peer) -> None:
        answering(OK)(peer)
        peer.read_request()
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin)
        client.adapter._timeouts = replace(PATIENT, first_byte_s=SHORT_S)
        with pytest.raises(ReadTimeout):
            client.open(upstream.origin)

    assert upstream.connections == 1


# What is sent


def test_target_and_headers_go_out_as_given(client: Client) -> None:
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        asked.append(peer.read_request())
        peer.send(OK)

    with ScriptedUpstream(script) as upstream:
        client.exchange(
            upstream.origin,
            target="/v1//a%2Fb/%7e?q=%zz&q",
            headers=[("X-Latin", "\xe9"), ("x-b", "1"), ("x-b", "2")],
        )
        host = upstream.origin.host_header.encode()

    assert asked == [
        b"GET /v1//a%2Fb/%7e?q=%zz&q HTTP/1.1\r\nHost: " + host + b"\r\nX-Latin: \xe9\r\nx-b: 1\r\nx-b: 2\r\n\r\n"
    ]


@pytest.mark.parametrize(
    ("method", "data", "framing"),
    [
        ("GET", b"", b""),
        ("POST", b"", b"Content-Length: 0\r\n"),
        ("PUT", b"", b"Content-Length: 0\r\n"),
        ("PATCH", b"", b"Content-Length: 0\r\n"),
        ("DELETE", b"", b""),
        ("DELETE", b"abc", b"Content-Length: 3\r\n"),
    ],
)
def test_a_held_body_is_sent_with_its_length(method: str, data: bytes, framing: bytes, client: Client) -> None:
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        asked.append(peer.read_request())
        peer.send(OK)

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin, method=method, body=held(data))

    assert asked[0].split(b"\r\n", 2)[2] == framing + b"\r\n" + data


def test_a_chunked_body_goes_out_in_chunks(client: Client) -> None:
    data = os.urandom(HELD_BYTES + 10)
    wire = b"10000\r\n" + data[:HELD_BYTES] + b"\r\na\r\n" + data[HELD_BYTES:] + b"\r\n0\r\n\r\n"
    sent: list[bytes] = []

    def script(peer: Peer) -> None:
        assert peer.read_head().endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent.append(peer.read_exactly(len(wire)))
        peer.send(OK)

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin, method="POST", body=streamed(data, chunked=True))

    assert sent == [wire]


def test_a_connection_is_used_again_after_a_streamed_body(client: Client) -> None:
    with ScriptedUpstream(keeping(OK, OK)) as upstream:
        client.exchange(upstream.origin, method="POST", body=streamed(b"x" * 200_000))
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


class PacedStream:
    """A client's body that comes in pieces, each when the test lets it."""

    def __init__(self, total: int) -> None:
        self._left = total
        self.allowed = threading.Semaphore(0)
        self.asked = 0

    def read1(self, size: int, /) -> bytes:
        self.asked += 1
        if self.asked > 1:
            assert self.allowed.acquire(timeout=60)
        size = min(size, self._left)
        self._left -= size
        return b"x" * size


def test_an_upload_stops_when_the_upstream_has_answered(client: Client) -> None:
    stream = PacedStream(64 * HELD_BYTES)
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(refusal)
        stream.allowed.release(1)
        peer.read_to_end()

    with ScriptedUpstream(script, keeping(OK)) as upstream:
        body = RequestBody(stream, length=64 * HELD_BYTES, max_bytes=1 << 30)
        response = client.open(upstream.origin, method="POST", body=body)
        assert (response.status_code, rest(response)) == (413, b"no")
        assert stream.asked <= 3
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_an_upload_goes_on_after_an_interim_answer(client: Client) -> None:
    size = 4 * HELD_BYTES
    stream = PacedStream(size)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        stream.allowed.release(10)
        peer.read_exactly(size)
        peer.send(OK)

    with ScriptedUpstream(script) as upstream:
        body = RequestBody(stream, length=size, max_bytes=1 << 30)
        assert client.exchange(upstream.origin, method="POST", body=body) == b"ok"


def test_an_answer_is_read_though_sending_the_rest_of_the_upload_fails(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered and closed between the look and the next piece."""
    monkeypatch.setattr(Connection, "receive_now", lambda self: None)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno")

    with ScriptedUpstream(script) as upstream:
        response = client.open(upstream.origin, method="POST", body=streamed(b"x" * 50_000_000))
        assert (response.status_code, rest(response)) == (400, b"no")


@pytest.mark.parametrize("error", [ClientGone(), BodyTooLarge(limit=1)])
def test_an_error_of_the_clients_body_ends_the_upstream_call(error: Exception, client: Client) -> None:
    class Broken(RequestBody):
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"
            raise error

    def script(peer: Peer) -> None:
        peer.read_head()
        assert peer.read_to_end() == b"x"

    with ScriptedUpstream(script) as upstream:
        broken = Broken(io.BytesIO(), length=9, max_bytes=9)
        with pytest.raises(type(error)):
            client.open(upstream.origin, method="POST", body=broken)


# Time limits


def test_no_connection_in_time_is_a_connect_timeout() -> None:
    """A listener whose backlog is full neither accepts nor refuses."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        try:
            client = Client(replace(PATIENT, connect_s=SHORT_S))
            with pytest.raises(ConnectTimeout):
                client.open(Origin("http", "127.0.0.1", port, "x", "/v1"))
        finally:
            for sock in waiting:
                sock.close()


def test_a_handshake_that_never_comes_is_a_connect_timeout() -> None:
    client = Client(replace(PATIENT, connect_s=SHORT_S))
    with ScriptedUpstream(silent) as upstream, pytest.raises(ConnectTimeout):
        client.open(upstream.origin._replace(scheme="https"))


def test_a_refused_connection_is_a_connection_error(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(RequestsConnectionError):
        client.open(Origin("http", "127.0.0.1", port, "x", "/v1"))


@pytest.mark.parametrize("host", ["", "a..b", "\x00", "x" * 70 + ".invalid"])
def test_a_name_that_cannot_be_looked_up_is_a_connection_error(host: str, client: Client) -> None:
    with pytest.raises(RequestsConnectionError):
        client.open(Origin("http", host, 1, "x", "/v1"))


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_no_head_in_time_is_a_read_timeout(sent: bytes) -> None:
    client = Client(replace(PATIENT, first_byte_s=SHORT_S))

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(sent)
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream, pytest.raises(ReadTimeout):
        client.open(upstream.origin)


def test_a_body_that_stalls_is_a_read_timeout() -> None:
    client = Client(replace(PATIENT, idle_s=SHORT_S))
    with ScriptedUpstream(keeping(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")) as upstream:
        response = client.open(upstream.origin)
        response.raw.read1()
        with pytest.raises(ReadTimeout):
            response.raw.read1()
        response.raw.close()


def test_an_upload_that_the_upstream_does_not_take_is_a_read_timeout() -> None:
    client = Client(replace(PATIENT, idle_s=SHORT_S))
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        assert over.wait(60)

    with ScriptedUpstream(script) as upstream:
        with pytest.raises(ReadTimeout):
            client.open(upstream.origin, method="POST", body=streamed(b"x" * 50_000_000))
        over.set()


# Aborts


def test_an_abort_wakes_whoever_waits_for_the_head(client: Client) -> None:
    guarded: list[Abortable] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        guarded[-1].abort()
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream, pytest.raises(RequestsConnectionError):
        client.open(upstream.origin, on_connection=guarded.append)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["close-delimited", "length", "chunked"],
)
def test_an_abort_never_looks_like_the_end_of_a_body(head: bytes, client: Client) -> None:
    guarded: list[Abortable] = []
    with ScriptedUpstream(keeping(head)) as upstream:
        response = client.open(upstream.origin, on_connection=guarded.append)
        threading.Timer(SHORT_S, guarded[-1].abort).start()
        with pytest.raises(RequestsConnectionError):
            response.raw.read1()
        response.raw.close()


def test_an_aborted_request_is_not_repeated(client: Client) -> None:
    guarded: list[Abortable] = []

    def script(peer: Peer) -> None:
        answering(OK)(peer)
        peer.read_request()
        guarded[-1].abort()
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream:
        client.exchange(upstream.origin, on_connection=guarded.append)
        with pytest.raises(RequestsConnectionError):
            client.open(upstream.origin, on_connection=guarded.append)

    assert upstream.connections == 1


def test_an_aborted_connection_is_not_used_again(client: Client) -> None:
    guarded: list[Abortable] = []
    with ScriptedUpstream(keeping(OK), keeping(OK)) as upstream:
        response = client.open(upstream.origin, on_connection=guarded.append)
        guarded[-1].abort()
        rest(response)
        assert client.exchange(upstream.origin) == b"ok"
        client.adapter.close()


def test_aborting_a_closed_connection_does_nothing(client: Client) -> None:
    guarded: list[Abortable] = []
    with ScriptedUpstream(answering(OK)) as upstream:
        client.exchange(upstream.origin, on_connection=guarded.append)
        client.adapter.close()
        guarded[-1].abort()


@pytest.mark.parametrize("made", [False, True], ids=["before it is made", "before it is used"])
def test_who_refuses_the_connection_ends_the_call_before_anything_is_sent(made: bool, client: Client) -> None:
    def refuse(connection: Abortable | None) -> None:
        if made is (connection is not None):
            raise ClientGone

    def script(peer: Peer) -> None:
        assert peer.read_to_end() == b""

    with ScriptedUpstream(*[script] * made) as upstream, pytest.raises(ClientGone):
        client.open(upstream.origin, on_connection=refuse)


# TLS and addresses


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_client(authority: trustme.CA) -> Iterator[Client]:
    context = verifying_context()
    authority.configure_trust(context)
    made = Client(context=context)
    yield made
    made.adapter.close()


def test_an_upstream_with_a_trusted_certificate_is_called_and_its_connection_kept(
    tls_client: Client, authority: trustme.CA
) -> None:
    context = server_context(authority, "localhost")
    named: list[str | None] = []
    context.sni_callback = lambda sock, name, context: named.append(name)
    with ScriptedUpstream(keeping(OK, OK), tls=context) as upstream:
        origin = upstream.origin._replace(host="localhost")
        assert [tls_client.exchange(origin), tls_client.exchange(origin)] == [b"ok", b"ok"]
        tls_client.adapter.close()

    assert named == ["localhost"]


def handshake_fails(peer: Peer) -> None:
    raise AssertionError("a request was about to be sent")


@pytest.mark.parametrize("name", ["other.example", "localhost.example"])
def test_a_certificate_for_another_name_is_refused(name: str, tls_client: Client, authority: trustme.CA) -> None:
    upstream = ScriptedUpstream(handshake_fails, tls=server_context(authority, name))
    with pytest.raises(RequestsConnectionError, match="certificate"), upstream:
        tls_client.open(upstream.origin._replace(host="localhost"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        upstream.finish()


def test_a_certificate_of_an_unknown_authority_is_refused(tls_client: Client) -> None:
    upstream = ScriptedUpstream(handshake_fails, tls=server_context(trustme.CA(), "localhost"))
    with pytest.raises(RequestsConnectionError, match="certificate"), upstream:
        tls_client.open(upstream.origin._replace(host="localhost"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        upstream.finish()


def test_an_upload_over_tls_is_not_stopped_by_the_sessions_own_messages(
    tls_client: Client, authority: trustme.CA
) -> None:
    """TLS 1.3 servers send session tickets after the handshake: readable, and no answer."""
    size = 10 * HELD_BYTES
    handshake_over = threading.Event()

    class Waiting(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            assert handshake_over.wait(60)
            return super().read1(size)

    def script(peer: Peer) -> None:
        handshake_over.set()
        peer.read_head()
        peer.read_exactly(size)
        peer.send(OK)

    with ScriptedUpstream(script, tls=server_context(authority, "localhost")) as upstream:
        body = RequestBody(Waiting(b"x" * size), length=size, max_bytes=1 << 30)
        origin = upstream.origin._replace(host="localhost")
        assert tls_client.exchange(origin, method="POST", body=body) == b"ok"


def test_an_upload_over_tls_stops_when_the_upstream_has_answered(tls_client: Client, authority: trustme.CA) -> None:
    stream = PacedStream(64 * HELD_BYTES)

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        stream.allowed.release(1)
        with contextlib.suppress(ssl.SSLError):
            peer.read_to_end()

    with ScriptedUpstream(script, tls=server_context(authority, "localhost")) as upstream:
        body = RequestBody(stream, length=64 * HELD_BYTES, max_bytes=1 << 30)
        response = tls_client.open(upstream.origin._replace(host="localhost"), method="POST", body=body)
        assert (response.status_code, rest(response)) == (413, b"no")
        assert stream.asked <= 3


def test_an_abort_wakes_a_reader_over_tls(tls_client: Client, authority: trustme.CA) -> None:
    guarded: list[Abortable] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        guarded[-1].abort()
        with contextlib.suppress(ssl.SSLError):
            peer.read_to_end()

    upstream = ScriptedUpstream(script, tls=server_context(authority, "localhost"))
    with upstream, pytest.raises(RequestsConnectionError):
        tls_client.open(upstream.origin._replace(host="localhost"), on_connection=guarded.append)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_ipv6_upstream_is_called_with_brackets_in_its_host_header(client: Client) -> None:
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        asked.append(peer.read_request())
        peer.send(OK)

    with ScriptedUpstream(script, family=socket.AF_INET6) as upstream:
        assert client.exchange(upstream.origin) == b"ok"
        port = upstream.origin.port

    assert f"\r\nHost: [::1]:{port}\r\n".encode() in asked[0]


@pytest.fixture
def directory_of_roots(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose roots are a directory and no file: empty so far."""
    directory = tmp_path / "roots"
    directory.mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(directory))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    return directory


def add_root(directory: Path, authority: trustme.CA) -> None:
    """Keep a root as OpenSSL looks for it: by the hash of its name."""
    pem = directory / "authority.pem"
    authority.cert_pem.write_to_path(str(pem))
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", str(pem)], capture_output=True, text=True, check=True
    )
    pem.rename(directory / f"{done.stdout.strip()}.0")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_machines_directory_of_roots_is_trusted_and_not_read_as_a_whole(
    directory_of_roots: Path, authority: trustme.CA
) -> None:
    add_root(directory_of_roots, authority)
    context = verifying_context()
    assert context.cert_store_stats()["x509_ca"] == 0
    client = Client(context=context)
    with ScriptedUpstream(answering(OK), tls=server_context(authority, "localhost")) as upstream:
        assert client.exchange(upstream.origin._replace(host="localhost")) == b"ok"
    client.adapter.close()


def test_certifis_roots_are_trusted_where_the_machine_has_no_directory_of_its_own(directory_of_roots: Path) -> None:
    assert verifying_context().cert_store_stats()["x509_ca"] > 100


def test_http_1_1_alone_is_offered_to_upstreams() -> None:
    context = verifying_context()

    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_an_answer_is_what_requests_expects(client: Client) -> None:
    with ScriptedUpstream(answering(OK)) as upstream:
        response = client.open(upstream.origin)
        assert response.headers["content-length"] == "2"
        assert isinstance(response.raw, WireResponse)
        assert response.url == f"{upstream.url}/v1/models"
        rest(response)
