"""Odd shapes of requests and answers: one test for each line of the page's table, and no line without one."""

import gzip
import hashlib
import threading
from collections.abc import Callable

import pytest

from tests.http_by_hand import Answer, Broken, HandClient
from tests.servers import on_both_servers
from tests.transparency.exchange import Exchange, Sent, Twice, answer
from tests.transparency.page import rows

pytestmark = on_both_servers
MIB = 1024 * 1024
HUGE = 64 * MIB
JSON = ("Content-Type", "application/json")
MANY = [(f"X-Header-{number}", "v" * 7500) for number in range(8)]

Shape = Callable[[Twice], object]
SHAPES: dict[str, Shape] = {}


def shape(name: str) -> Callable[[Shape], Shape]:
    """The test of one line of the page."""

    def keep(test: Shape) -> Shape:
        SHAPES[name] = test
        return test

    return keep


def simple(name: str, sent: Sent, *lines: str, **told: object) -> None:
    """A line whose test is one comparison."""

    @shape(name)
    def compare(twice: Twice) -> Exchange:
        twice.recorder.answers(answer(*lines, **told))
        return twice.same(sent)


def test_every_line_of_the_page_is_tried_and_nothing_is_tried_that_the_page_does_not_name() -> None:
    assert sorted(SHAPES) == sorted(name for name, _ in rows("Shapes"))


@pytest.mark.parametrize("name", [name for name, _ in rows("Shapes")])
def test_a_shape_passes_as_the_page_says(twice: Twice, name: str) -> None:
    SHAPES[name](twice)


# Requests

simple("percent-encoding", Sent("GET", "/v1/models/org%2Fa%20b%7e~%C3%BC;x=1//c?q=%zz"))
simple("repeated query keys", Sent("GET", "/v1/files?include[]=b&include[]=a&limit=1&limit=2&&="))
simple("an empty query", Sent("GET", "/v1/models?"))
simple("GET with a body", Sent("GET", "/v1/models", [JSON], b'{"a": 1}'))
simple("DELETE with a body", Sent("DELETE", "/v1/files/file-1", [JSON], b'{"force": true}'))
simple("OPTIONS", Sent("OPTIONS", "/v1/models", [("Origin", "https://a.example")]), "Allow: GET", body=b"ok")
simple("an unknown method", Sent("FROBNICATE", "/v1/models", body=b"x"), body=b"ok")


@shape("an empty body")
def _(twice: Twice) -> None:
    for method in ("POST", "DELETE", "GET", "PATCH"):
        twice.recorder.answers(answer(body=b"{}"))
        assert twice.same(Sent(method, "/v1/batches", [JSON], b"")).up.all("content-length") == ["0"]
    twice.recorder.answers(answer(body=b"{}"))
    assert twice.same(Sent("DELETE", "/v1/batches")).up.all("content-length") == []


simple(
    "a multipart form with an odd boundary",
    Sent("POST", "/v1/files", [("Content-Type", "multipart/form-data; boundary=\"a'()+_,-./:=? b\"")],
         b"preamble\r\n--a'()+_,-./:=? b\r\n\r\n\r\nbody\r\n--a'()+_,-./:=? b--epilogue"),
    body=b"{}",
)  # fmt: skip
simple(
    "names in any case",
    Sent("GET", "/v1/models", [("x-LoWeR", "1"), ("ACCEPT", "*/*"), ("uSER-aGENT", "me")]),
    "x-LoWeR: 1", "CONTENT-TYPE: text/plain",
)  # fmt: skip
simple(
    "repeated headers",
    Sent("GET", "/v1/models", [("X-A", "1"), ("x-b", "2"), ("X-A", "3"), ("Via", "a"), ("x-a", "1"), ("Via", "b")]),
    "Vary: a", "X-B: 1", "Vary: b", "vary: a",
)  # fmt: skip
simple("empty headers", Sent("GET", "/v1/models", [("X-Empty", ""), ("Accept", "")]), "X-Empty:", "X-Empty: ")
simple("latin-1 values", Sent("GET", "/v1/models", [("X-Name", "caf\xe9 \xff")]), "X-Name: caf\xe9 \xff")


@shape("60 KB of headers")
def _(twice: Twice) -> None:
    twice.recorder.answers(answer(*[f"{name}: {value}" for name, value in MANY]))

    assert [pair for pair in twice.same(Sent("GET", "/v1/models", MANY)).up.headers if pair in MANY] == MANY


@shape("a chunked upload")
def _(twice: Twice) -> None:
    body = bytes(range(256)) * 600
    sizes = [1, 2, 255, 4097, 65535, 65536, 1]
    wire, at = b"", 0
    for number, size in enumerate([*sizes, len(body) - sum(sizes)]):
        # Sizes in either case and with zeros before them, extensions with and without a value.
        line = (b"%x;a", b"%X", b"000%x;b=1", b'%x;c="d;e"')[number % 4] % size
        wire += line + b"\r\n" + body[at : at + size] + b"\r\n"
        at += size
    twice.recorder.answers(answer(body=b"{}"))
    up = twice.same(Sent("POST", "/v1/files", [("Transfer-Encoding", "chunked")], body, wire=wire + b"0\r\n\r\n")).up

    assert up.body == body and up.all("transfer-encoding") == ["chunked"]
    sent = Sent("POST", "/v1/files", [("Transfer-Encoding", "chunked")], wire=b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n")
    up = twice.proxied(sent).up
    assert (up.body, up.trailers) == (b"ok", [])


@shape("a huge upload")
def _(twice: Twice) -> None:
    piece = bytes(range(256)) * 4096
    twice.recorder.answers(answer(body=b"{}"))
    with HandClient(twice.proxy_url) as client:
        client.send(Sent("POST", "/v1/files", [("Content-Length", str(HUGE))]).bytes_for(client.host, twice.token))
        for _ in range(HUGE // len(piece)):
            client.send(piece)
        assert client.read_answer().status == 200

    up = twice.recorder.received()
    assert up.all("content-length") == [str(HUGE)]
    assert hashlib.sha256(up.body).digest() == hashlib.sha256(piece * (HUGE // len(piece))).digest()


@shape("a client that expects 100-continue")
def _(twice: Twice) -> None:
    twice.recorder.answers(answer(body=b"{}"))
    sent = Sent("POST", "/v1/files", [("Expect", "100-continue"), ("Content-Length", "4")])
    with HandClient(twice.proxy_url) as client:
        client.send(sent.bytes_for(client.host, twice.token))
        assert client.read_head().status == 100
        assert not twice.recorder.has_received()
        client.send(b"body")
        assert client.read_answer().body == b"{}"

    up = twice.recorder.received()
    assert (up.body, up.all("expect")) == (b"body", [])


# Answers

simple("HEAD", Sent("HEAD", "/v1/models"), "Content-Length: 1234", framing="none")
simple("a binary answer", Sent("GET", "/v1/files/file-1/content"), body=bytes(range(256)) * 999)
simple(
    "a range", Sent("GET", "/v1/videos/v-1/content", [("Range", "bytes=5-9,20-")]),
    "Content-Range: bytes 5-9/100", "Accept-Ranges: bytes", status="206 Partial Content", body=b"56789",
)  # fmt: skip
simple(
    "an unchanged ETag", Sent("GET", "/v1/models", [("If-None-Match", 'W/"a"')]),
    'ETag: W/"a"', status="304 Not Modified", framing="none",
)  # fmt: skip
simple(
    "303 with a Location", Sent("POST", "/v1/files", [JSON], b"{}"),
    "Location: /v1/files/file%2F1?a=b#c", status="303 See Other", body=b"moved",
)  # fmt: skip
simple("a compressed answer", Sent("GET", "/v1/models", [("Accept-Encoding", "gzip;q=0.9, br")]),
       "Content-Encoding: gzip", body=gzip.compress(b'{"object": "list"}'))  # fmt: skip
simple("a chunked answer", Sent("GET", "/v1/models"), framing="chunked", body=bytes(range(256)) * 600)


@shape("a huge download")
def _(twice: Twice) -> None:
    piece = bytes(range(256)) * 4096
    begin = answer(f"Content-Length: {HUGE}", framing="none")
    twice.recorder.answers(begin, *[piece] * (HUGE // len(piece)))
    digest = hashlib.sha256()
    with HandClient(twice.proxy_url) as client:
        client.send(Sent("GET", "/v1/files/file-1/content").bytes_for(client.host, twice.token))
        down = client.read_head()
        while part := client.read_chunk(down):
            digest.update(part)
            down.chunks.clear()
    twice.recorder.received()

    assert down.length == HUGE
    assert digest.digest() == hashlib.sha256(piece * (HUGE // len(piece))).digest()


@shape("204")
def _(twice: Twice) -> None:
    twice.recorder.answers(answer(status="204 No Content", framing="none"))
    twice.same(Sent("DELETE", "/v1/files/file-1"))
    with HandClient(twice.proxy_url) as client:
        for _ in range(2):
            client.send(Sent("DELETE", "/v1/files/file-1").bytes_for(client.host, twice.token))
            assert client.read_answer().status == 204
            twice.recorder.received()


@shape("307 to another host")
def _(twice: Twice) -> None:
    elsewhere = f"Location: {twice.recorder.url}/v1/elsewhere"
    twice.recorder.answers(answer(elsewhere, status="307 Temporary Redirect"))
    twice.same(Sent("POST", "/v1/files", [JSON], b"{}"))

    assert not twice.recorder.has_received()


@shape("an error")
def _(twice: Twice) -> None:
    for status in ("400 Bad Request", "403 No", "404 Not Found", "409 Conflict", "429 Slow", "500 Oops", "529 Odd"):
        told = ("Retry-After: 2", "retry-after-ms: 1500", "x-should-retry: false")
        twice.recorder.answers(answer(*told, status=status, body=b'{"error": {}}'))
        twice.same(Sent("POST", "/v1/files", [JSON], b"{}"))
    twice.recorder.answers(answer(status="401 Unauthorized", body=b'{"error": {}}'))
    down = twice.proxied(Sent("GET", "/v1/models")).down
    assert (down.status, down.json["error"]["code"]) == (502, "upstream_auth_failed")


@shape("trailers")
def _(twice: Twice) -> None:
    trailers = b"X-Sum: abc\r\nx-sum: \r\nSet-Cookie: a=b\r\nServer-Timing: db;dur=1\r\n"
    twice.recorder.answers(answer("Trailer: X-Sum", framing="chunked", body=b"hello", trailers=trailers))
    down = twice.same(Sent("GET", "/v1/models")).down

    assert (down.body, down.all("trailer")) == (b"hello", ["X-Sum"])
    assert down.trailers == [("X-Sum", "abc"), ("x-sum", ""), ("Server-Timing", "db;dur=1")]
    assert twice.proxied(Sent("GET", "/v1/models", version="1.0")).down.trailers == []


@shape("an answer that the end of its connection ends")
def _(twice: Twice) -> None:
    twice.recorder.answers(answer(framing="none", body=b"all there is"), closes=True)
    down = twice.same(Sent("GET", "/v1/models")).down

    assert (down.framing, down.body) == ("chunked", b"all there is")


@shape("100, 102 and 103 before the answer")
def _(twice: Twice) -> None:
    gate = threading.Event()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\nSet-Cookie: a=b\r\n\r\n"
    twice.recorder.answers(hints, b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 \r\n\r\n", gate, answer(body=b"ok"))

    def read(client: HandClient, method: str) -> tuple[list[Answer], Answer]:
        interim = [client.read_head(method) for _ in range(3)]
        gate.set()
        return interim, client.read_answer(method)

    exchange = twice.proxied(Sent("POST", "/v1/files", [JSON], b"{}"), read)
    assert [each.status for each in exchange.interim] == [103, 102, 100]
    assert [each.reason for each in exchange.interim] == ["Early Hints", "Processing", "Continue"]
    assert exchange.interim[0].headers == [("Link", "</a>"), ("Link", "</b>")]
    assert (exchange.down.status, exchange.down.body) == (200, b"ok")


@shape("a client of HTTP/1.0")
def _(twice: Twice) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    twice.recorder.answers(hint, answer(framing="chunked", body=b"hello", trailers=b"X-T: 1\r\n"))
    exchange = twice.proxied(Sent("GET", "/v1/models", version="1.0"))
    assert (exchange.interim, exchange.down.framing, exchange.down.body) == ([], "close", b"hello")
    twice.recorder.answers(answer(body=b"hello"))
    down = twice.proxied(Sent("POST", "/v1/files", [("Connection", "keep-alive"), JSON], b"{}", version="1.0")).down
    assert (down["connection"], down.framing, down.body) == ("keep-alive", "length", b"hello")


# What is doubtful is refused, and the client learns it


@pytest.mark.parametrize(
    "headers",
    [[("X-Large", "v" * 70_000)], [(f"X-{number}", "v") for number in range(101)]],
    ids=["one of 70 KB", "101"],
)
def test_more_headers_than_the_page_allows_are_refused(twice: Twice, headers) -> None:
    with HandClient(twice.proxy_url) as client:
        try:
            client.send(Sent("GET", "/v1/models", headers).bytes_for(client.host, twice.token))
            status = client.read_answer().status
        except (Broken, ConnectionError):
            status = 431

    assert status in (400, 431)
    assert not twice.recorder.has_received()
