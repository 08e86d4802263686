"""What is read at a glance is read as gunicorn reads it, and refused as gunicorn refuses it."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from server.gunicorn.request import OrdinaryRequest, Parser, Request

PEER, SERVER = ("127.0.0.1", 50000), ("127.0.0.1", 8080)
# Of each kind one that is ordinary, and the doubtful ones.
REQUEST_LINES = [
    "GET /v1/models HTTP/1.1", "POST /v1/chat/completions?a=%2F&b HTTP/1.1", "GET /v1/%2e%2e/x HTTP/1.1",
    "GET /v1/a:b//c;d=\"e HTTP/1.1", "GET / HTTP/1.1", "GET /? HTTP/1.1", "GET /a??b HTTP/1.1",
    "GET /v1/x#part HTTP/1.1", "GET //v1/x HTTP/1.1", "GET http://localhost/v1/x HTTP/1.1", "OPTIONS * HTTP/1.1",
    "CONNECT /v1/x HTTP/1.1", "CONNECT localhost:1 HTTP/1.1", "get /v1/x HTTP/1.1", "GE /v1/x HTTP/1.1",
    "GET /v1/\xe9 HTTP/1.1", "GET /v1/x HTTP/1.0", "GET /v1/x HTTP/2.0", "GET  /v1/x HTTP/1.1", "GET /v1/x",
    "GET /v1/x y HTTP/1.1", "GET\t/v1/x HTTP/1.1", "GET /" + "a" * 8180 + " HTTP/1.1", "",
]  # fmt: skip
FIELDS = [
    "Host: localhost", "Authorization: Bearer x", "Content-Type: application/json", "X-A:", "X-A: 1", "x-a: \t 2 \t",
    "X-B: \xe9", "Connection: close", "Connection: Keep-Alive", "connection: x, close", "Content-Length: 4",
    "Content-Length: 0", "Content-Length: +4", "Content-Length: \xb2", "Content-Length: " + "0" * 30,
    "Content-Length: 99", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Expect: 100-continue",
    "Expect: x", "Upgrade: websocket", "X-Forwarded-Proto: https", "X-Forwarded-Proto: http", "X-Forwarded-Ssl: on",
    "X-Forwarded-For: 192.0.2.1", "SCRIPT_NAME: /v1", "X_A: 1", "Bad Name: 1", "X-A : 1", ": 1", "no colon",
    " folded", "\tfolded", "X-C: a\x00b", "X-C: a\x7fb", "X-C: a\rb", "X-C: a\nb", "X-D: " + "d" * 8190,
]  # fmt: skip
BODIES = ["", "abcd", "abcdGET /next HTTP/1.1\r\n\r\n", "ab", "4\r\nabcd\r\n0\r\n\r\n"]


class Source:
    """A connection that brings these pieces, and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def recv(self, _size: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def config(**settings: Any) -> Config:
    made = Config()
    for name, value in ({"limit_request_line": 8190, "forwarder_headers": ""} | settings).items():
        made.set(name, value)
    return made


def seen_by(parser: Any, cfg: Config) -> Any:
    """All that an application can see of the first request, and what is left for the second."""
    try:
        request = next(parser)
        environ = (
            request.environ(None, PEER, SERVER)
            if isinstance(request, OrdinaryRequest)
            else wsgi.create(request, None, PEER, SERVER, cfg)[1] | {"wsgi.multithread": True}
        )
        environ["llmproxy.headers"] = request.received
        environ["wsgi.input"] = environ["wsgi.input"].read()
    except Exception as exc:
        return type(exc), str(exc)
    environ = {name: value for name, value in environ.items() if name not in ("wsgi.errors", "wsgi.early_hints")}
    return environ, request.headers, request.should_close(), parser.unreader.take_buffered()


class GunicornsOwn(RequestParser):
    """gunicorn's parser, with the headers as sent."""

    mesg_class = Request


@given(
    line=st.sampled_from(REQUEST_LINES),
    fields=st.lists(st.sampled_from(FIELDS), max_size=6),
    body=st.sampled_from(BODIES),
    trusts=st.booleans(),
)
@example(line="GET /v1/x HTTP/1.1", fields=[f"X-{number}: 1" for number in range(100)], body="", trusts=True)
@example(line="GET /v1/x HTTP/1.1", fields=[f"X-{number}: 1" for number in range(101)], body="", trusts=True)
@example(line="GET /v1/x HTTP/1.1", fields=["X-A: " + "a" * 8150], body="", trusts=True)
@example(line="GET /v1/x HTTP/1.1", fields=["X-Forwarded-Proto: https"], body="", trusts=True)
@example(line="GET /v1/x HTTP/1.1", fields=["X-Forwarded-Proto: https"], body="", trusts=False)
def test_a_request_is_what_gunicorn_makes_of_it(line: str, fields: list[str], body: str, trusts: bool) -> None:
    cfg = config(forwarded_allow_ips="127.0.0.1" if trusts else "192.0.2.1")
    data = "\r\n".join([line, *fields, "", body]).encode("latin-1")

    ours, gunicorns = (seen_by(kind(cfg, Source(data), PEER), cfg) for kind in (Parser, GunicornsOwn))
    assert ours == gunicorns


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUser-Agent: OpenAI/Python 2.0\r\n\r\n",
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"x" * 5000,
    ],
)
def test_an_ordinary_request_is_read_at_a_glance(data: bytes) -> None:
    assert isinstance(next(Parser(config(), Source(data), PEER)), OrdinaryRequest)


@pytest.mark.parametrize("split", range(1, 60))
def test_a_head_in_pieces_is_read_all_the_same(split: int) -> None:
    data = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcdGET"
    request = next(Parser(config(), Source(data[:split], data[split:]), PEER))

    assert (request.uri, request.body.read(4)) == ("/v1/x", b"abcd")


@pytest.mark.parametrize(
    "settings", [{"limit_request_fields": 1}, {"limit_request_line": 20}, {"proxy_protocol": "v1"}]
)
def test_what_is_set_otherwise_is_left_to_gunicorn(settings: dict[str, Any]) -> None:
    data = b"GET /v1/models?a=b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n\r\n"
    cfg = config(**settings)

    ours, gunicorns = (seen_by(kind(cfg, Source(data), PEER), cfg) for kind in (Parser, GunicornsOwn))
    assert ours == gunicorns


def test_requests_that_came_together_are_read_one_after_the_other() -> None:
    one = b"POST /v1/%d HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
    parser = Parser(config(), Source(b"".join(one % number for number in range(3))), PEER)

    assert [request.uri for request in parser] == ["/v1/0", "/v1/1", "/v1/2"]
