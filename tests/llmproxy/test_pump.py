"""
A body passed on by the event loop comes out as it does by the greenlet, whatever its reads and the client's are like.

Everything between two sockets is real: the parser, the relay, the usage observer, gunicorn's response. The sockets
are lists of what happens, so that every course can be taken twice.
"""

import errno
import io
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproxy.client.guard import CallGuard
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import ProxyError
from llmproxy.headers import Origin
from llmproxy.observe.usage import observe
from llmproxy.relay import Relay
from llmproxy.transport.connection import Timeouts
from llmproxy.transport.request import UpstreamRequest
from llmproxy.transport.response import WireResponse
from server.gunicorn.response import Response

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
EVENT = b'data: {"id":"c-1","model":"gpt-4o","choices":[{"delta":{"content":"Hello"}}],"usage":null}\n\n'
USAGE = b'data: {"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}\n\n'
FAILURE = b'data: {"error":{"code":"server_error","type":"server_error"}}\n\n'
DONE = b"data: [DONE]\n\n"

# What one read brings: bytes, b"" for the end, a message of TLS itself (None), or what goes wrong.
Read = bytes | OSError | None


class UpstreamEnd:
    """A connection to the upstream that brings `reads`, one after the other."""

    was_used = False

    def __init__(self, reads: list[Read], *, watches: bool) -> None:
        self._reads = reads
        self._watches = watches
        self._is_awake = False
        self._error: Exception | None = None
        self.read_by_loop = 0
        self.end = ""

    def receive(self, _: float) -> bytes:
        while (read := self._reads.pop(0)) is None:
            pass
        if isinstance(read, OSError):
            raise read
        return read

    def watch(self, on_readable: Callable[[], None], _: float) -> None:
        if not self._watches:
            return
        self._is_awake, self._error = False, None
        while not self._is_awake:
            if isinstance(self._reads[0], TimeoutError):
                raise self._reads.pop(0)
            self.read_by_loop += 1
            on_readable()
        if self._error is not None:
            raise self._error

    def wake(self, error: Exception | None = None) -> None:
        assert not self._is_awake
        self._is_awake, self._error = True, error

    def receive_ready(self, _: float) -> bytes | None:
        return None if self._reads[0] is None and self._reads.pop(0) is None else self.receive(0)

    def close(self) -> None:
        self.end = "closed"


class ClientEnd:
    """
    A client's socket from underneath, which never waits.

    Args:
        takes: How many bytes it takes at each try; 0 while it is full. All of them when there are no more of these.
        leaves_after: The client has gone when it has so many.
    """

    def __init__(self, takes: list[int], leaves_after: int | None) -> None:
        self._takes = list(takes)
        self._leaves_after = leaves_after
        self.received = b""

    def send(self, data: bytes) -> int:
        if self._leaves_after is not None and len(self.received) >= self._leaves_after:
            raise ConnectionResetError(errno.ECONNRESET, "gone")
        taken = self._takes.pop(0) if self._takes else len(data)
        if not taken:
            raise BlockingIOError(errno.EAGAIN, "full")
        self.received += data[:taken]
        return min(taken, len(data))


class GeventsClientEnd:
    """The same as gevent shows it, which waits while it is full."""

    def __init__(self, sock: ClientEnd) -> None:
        self._sock = sock

    def send(self, data: bytes) -> int:
        while True:
            with suppress(BlockingIOError):
                return self._sock.send(data)

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[self.send(data) :]


class RunningCall:
    """A call as far as relaying sees it."""

    def __init__(self) -> None:
        self.guard = CallGuard(None)
        self.first_bytes = 0
        self.ends: list[tuple[str, int]] = []

    def first_byte_came(self) -> None:
        self.first_bytes += 1

    def end(self, cut: ProxyError | None, *, bytes_out: int) -> None:
        self.ends.append((cut.code if cut else "complete", bytes_out))


class Pool:
    """Keeps a connection."""

    def put_back(self, connection: UpstreamEnd) -> None:
        connection.end = "kept"


@dataclass(frozen=True)
class Course:
    """What happens to one response; `takes` and `leaves_after` are the client's."""

    reads: list[Read]
    framing: bytes = CHUNKED
    takes: list[int] = field(default_factory=list)
    leaves_after: int | None = None


@dataclass
class Outcome:
    """What there is to see afterwards; `by_loop` is how many reads the event loop made."""

    wire: bytes
    ends: list[tuple[str, int]]
    first_bytes: int
    told: tuple[object, ...]
    connection: str
    by_loop: int = field(compare=False)


def run(course: Course, *, pumps: bool) -> Outcome:
    upstream = UpstreamEnd([HEAD % course.framing, *course.reads], watches=pumps)
    origin = Origin("http", "127.0.0.1", 80, "127.0.0.1", "")
    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    raw = WireResponse(UpstreamRequest("GET", origin, "/", [], body, lambda _: None), Pool(), Timeouts(1, 1, 1))
    raw.receive_head(upstream, body_sent=True)
    client, call = ClientEnd(course.takes, course.leaves_after), RunningCall()
    response = Response(request(), GeventsClientEnd(client), SimpleNamespace())
    response.trailers = []
    observer = observe("/v1/responses", status=200, content_type="text/event-stream", content_encoding=None)
    relay = Relay(call, raw, observer=observer, trailers=response.trailers, sender=response.sender)
    _serve(response, relay)
    told = (observer.facts.metadata(), observer.facts.usage_source, observer.facts.error)
    return Outcome(client.received, call.ends, call.first_bytes, told, upstream.end, upstream.read_by_loop)


def request(**differently: object) -> SimpleNamespace:
    """A request as far as responding to it looks at it."""
    ordinary = {"method": "POST", "version": (1, 1), "should_close": lambda: False, "body": io.BytesIO()}
    return SimpleNamespace(**ordinary | differently)


def _serve(response: Response, relay: Relay) -> None:
    """As gunicorn's worker does."""
    try:
        response.start_response("200 OK", [("server", "u"), ("date", "d")])(b"")
        for piece in relay:
            response.write(piece)
        response.close()
    except OSError:
        pass
    finally:
        relay.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_whole_events_that_tell_nothing_are_passed_on_by_the_event_loop() -> None:
    course = Course([chunk(EVENT)] * 10 + [chunk(USAGE) + chunk(DONE) + END])
    outcome = run(course, pumps=True)

    assert outcome.by_loop == 10  # all but the first
    assert outcome.wire.count(EVENT) == 10
    assert outcome.told == ({"prompt_tokens": 9, "completion_tokens": 12, "model": "gpt-4o"}, "reported", None)
    assert (outcome.ends, outcome.connection) == ([("complete", 10 * len(EVENT) + len(USAGE + DONE))], "kept")


def test_a_full_pipe_is_waited_for_by_the_greenlet_and_then_the_event_loop_goes_on() -> None:
    course = Course([chunk(EVENT)] * 6 + [END], takes=[1000, 1000, 1000, 20, 5, 0, 0, 1000, 0])
    outcome = run(course, pumps=True)

    assert outcome.by_loop == 6  # the end among them
    assert outcome.wire.partition(b"\r\n\r\n")[2] == chunk(EVENT) * 6 + END


@pytest.mark.parametrize("cannot", [{"version": (1, 0)}, {"method": "HEAD"}])
def test_a_response_without_chunks_is_left_to_the_greenlet(cannot) -> None:
    response = Response(request(**cannot), ClientEnd([], None), SimpleNamespace(protocol="http"))
    response.start_response("200 OK", [("server", "u"), ("date", "d")])

    assert response.sender() is None


def test_a_client_over_tls_is_left_to_the_greenlet() -> None:
    near, far = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with far, context.wrap_socket(near, server_side=True, do_handshake_on_connect=False) as client:
        response = Response(request(), client, SimpleNamespace())
        response.start_response("200 OK", [])

        assert response.sender() is None


def test_a_response_of_a_known_length_is_left_to_the_greenlet() -> None:
    response = Response(request(), ClientEnd([], None), SimpleNamespace())
    response.start_response("200 OK", [("content-length", "5")])

    assert response.sender() is None


events = st.sampled_from([EVENT, EVENT, EVENT, USAGE, FAILURE, DONE, b": ping\n\n", b"data: broken", b"\r\n\r\n"])
chunked_ends = st.sampled_from([END, b"0\r\nX-Sum: 1\r\n\r\n", END + b"HTTP/1.1 200 OK\r\n\r\n", b"zz\r\n"])
reads_that_end: st.SearchStrategy[Read] = st.sampled_from(
    [b"", ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionAbortedError("aborted"), TimeoutError()]
)


def cut(pieces: list[bytes], places: list[int] | None) -> list[bytes]:
    """The same bytes, cut at these places instead; None leaves the pieces as they are."""
    if places is None:
        return pieces
    data = b"".join(pieces)
    edges = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@st.composite
def courses(draw: st.DrawFn) -> Course:
    """Any body in any chunks and any reads, whole or broken off, to a client of any pace that may leave."""
    places = st.none() | st.lists(st.integers(0, 2000), max_size=8)
    framing = draw(st.sampled_from([CHUNKED, b""]))
    pieces = [EVENT, EVENT, *draw(st.lists(events, max_size=8))]
    if framing:
        pieces = [*map(chunk, cut(pieces, draw(places))), draw(chunked_ends)]
    reads: list[Read] = list(cut(pieces, draw(places)))
    for place in draw(st.lists(st.integers(0, len(reads)), max_size=2)):
        reads.insert(place, None)
    reads = reads[: draw(st.integers(0, len(reads)) | st.just(len(reads)))]
    takes = draw(st.lists(st.sampled_from([0, 1, 7, 100, 1000]), max_size=20))
    return Course([*reads, draw(reads_that_end)], framing, takes, draw(st.none() | st.integers(0, 2000)))


@settings(max_examples=400)
@given(courses())
def test_the_same_comes_out_whoever_passes_it_on(course: Course) -> None:
    assert run(course, pumps=True) == run(course, pumps=False)
