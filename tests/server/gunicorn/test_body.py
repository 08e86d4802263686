"""Bodies as they arrive: what is refused is what gunicorn refuses, and what has arrived is not waited for."""

from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn.config import Config
from gunicorn.http import message
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import SocketUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy.errors import BadRequest, ClientGone, ProxyError
from server.gunicorn.body import Body, ChunkedReader
from server.gunicorn.request import Request

PEER = ("192.0.2.1", 50000)
CHUNKED = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
WIRE = [
    b"1\r\na\r\n", b"2\r\nab\r\n", b"0A\r\n0123456789\r\n", b"3;a=b\r\nabc\r\n", b'3 ; a ; b="c;\\"d"\r\nabc\r\n',
    b"000000000000000002\r\nab\r\n", b"100\r\n" + 256 * b"x" + b"\r\n",
    b"0\r\n\r\n", b"0;a\r\n\r\n", b"00\r\nX-T: 1\r\n\r\n", b"0\r\nHost: y\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
    b"\r\n", b"\n", b"\r", b"1", b";", b"g", b" 2\r\nab\r\n", b"2 \r\nab\r\n", b"2;\r\nab\r\n", b"2;a\rb\r\nab\r\n",
    b"2\r\nabc\r\n", b"-2\r\nab\r\n", b"0x2\r\nab\r\n", b"2_0\r\nab\r\n", b"fffffffffffffffff\r\nab",
]  # fmt: skip


class Source:
    """A connection that brings these pieces, each in as many reads as it takes, and then waits for ever."""

    def __init__(self, pieces: list[bytes], *, ends: bool = True) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._ends = ends

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            assert self._ends, "nobody may wait here"
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


def request_of(kind: type[Any], pieces: list[bytes], *, ends: bool = True) -> Any:
    return kind(Config(), SocketUnreader(Source(pieces, ends=ends)), PEER, 1)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    inside = sorted(place % (len(data) + 1) for place in places)
    return [data[begin:end] for begin, end in pairwise([0, *inside, None])]


def outcome(request: Any, name: str, size: int) -> tuple[bytes, type[Exception] | None, bytes]:
    """The whole body, or what ended it, and what is left for the next request."""
    data = b""
    try:
        while piece := getattr(request.body, name)(size):
            data += piece
    except (ParseException, OSError, ProxyError) as exc:
        return b"", type(exc.__cause__ or exc), b""
    return data, None, b"".join(iter(request.unreader.read, b""))


@given(
    wire=st.lists(st.sampled_from(WIRE), max_size=8).map(b"".join),
    places=st.lists(st.integers(0, 400), max_size=6),
    size=st.sampled_from([1, 2, 7, 64, 65536]),
)
@example(wire=b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", places=[], size=65536)
@example(wire=b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", places=list(range(30)), size=65536)
def test_a_chunked_body_is_what_gunicorn_makes_of_it(wire: bytes, places: list[int], size: int) -> None:
    pieces = [CHUNKED, *cut(wire, places)]
    gunicorns = outcome(request_of(message.Request, pieces), "read", size)

    assert outcome(request_of(Request, pieces), "read", size) == gunicorns
    assert outcome(request_of(Request, pieces), "read1", size) == gunicorns


@given(
    length=st.integers(0, 300),
    places=st.lists(st.integers(0, 400), max_size=6),
    size=st.sampled_from([1, 7, 64, 65536]),
)
def test_a_body_of_known_length_is_what_gunicorn_makes_of_it(length: int, places: list[int], size: int) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    pieces = [head, *cut(200 * b"x", places)]
    gunicorns = outcome(request_of(message.Request, pieces), "read", size)

    assert outcome(request_of(Request, pieces), "read1", size) == gunicorns


@pytest.mark.parametrize(
    ("head", "wire"),
    [
        (CHUNKED, b"1\r\na\r\n"),
        (CHUNKED, b"1\r\na"),
        (CHUNKED, b"2\r\na"),
        (CHUNKED, b"1\r\na\r\n2;b"),
        (CHUNKED, b"1\r\na\r\n0\r\n"),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"a"),
    ],
)
def test_what_has_arrived_is_read_without_a_wait_for_more(head: bytes, wire: bytes) -> None:
    assert request_of(Request, [head, wire], ends=False).body.read1(65536) == b"a"


def test_chunks_that_arrived_together_are_read_together() -> None:
    wire = b"".join(b"%x;n=%d\r\n%b\r\n" % (size, size, size * b"a") for size in range(1, 50))

    assert request_of(Request, [CHUNKED, wire], ends=False).body.read1(65536) == sum(range(1, 50)) * b"a"


def test_read_gives_what_read1_would_and_the_other_way_round() -> None:
    body = request_of(Request, [CHUNKED, b"a\r\n0123456789\r\n0\r\n\r\n"]).body

    assert [body.read(2), body.read1(3), body.read1(65536), body.read(1), body.read1(1)] == [
        b"01", b"234", b"56789", b"", b""
    ]  # fmt: skip


def test_nothing_is_read_behind_a_body_that_is_broken() -> None:
    body: Body = request_of(Request, [CHUNKED, b"1\r\na\r\ng\r\n"]).body

    assert isinstance(body.reader, ChunkedReader) and body.read1(10) == b"a"
    with pytest.raises(BadRequest):
        body.read1(10)
    assert body.failed


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), TimeoutError()])
@pytest.mark.parametrize("name", ["read", "read1"])
def test_an_error_of_the_connection_means_that_the_client_is_gone(name: str, error: OSError) -> None:
    request = request_of(Request, [CHUNKED, b"1\r\na\r\n"])
    request.unreader.sock = Mock(recv=Mock(side_effect=error))

    with pytest.raises(ClientGone):
        list(iter(partial(getattr(request.body, name), 10), b""))
    assert request.body.failed
