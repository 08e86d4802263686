"""What an exchange keeps of its request while its response goes on."""

import socket

import pytest
from gunicorn.config import Config

from server.gunicorn.exchange import create, respond
from server.gunicorn.request import Parser

PEER, SERVER = ("127.0.0.1", 50000), ("127.0.0.1", 8080)


def exchange(application, *lines):
    """Whether the connection may go on after a request with these headers, and what its client got."""
    cfg = Config()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        head = "\r\n".join(["GET /v1/x HTTP/1.1", "Host: localhost", *lines, "", ""])
        theirs.sendall(head.encode())
        response, environ = create(next(Parser(cfg, ours, PEER)), ours, PEER, SERVER, cfg)
        goes_on = respond(application, response, environ)
        return goes_on, theirs.recv(65536)


@pytest.mark.parametrize(("lines", "goes_on"), [(["X-A: 1"], True), (["X-A: 1", "Connection: close"], False)])
def test_a_stream_keeps_nothing_of_what_asked_for_it_but_whether_its_connection_goes_on(lines, goes_on):
    kept = []

    def application(environ, start_response):
        start_response("200 OK", [("X-B", "2")])(b"")

        def body():
            kept.append(dict(environ))
            yield b"x"

        return body()

    assert exchange(application, *lines)[0] is goes_on
    assert kept == [{}]


def test_what_is_answered_in_one_go_keeps_it_to_the_end():
    kept = []

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "1")])

        def body():
            kept.append(environ["HTTP_X_A"])
            yield b"x"

        return body()

    goes_on, sent = exchange(application, "X-A: 1")
    assert goes_on and sent.endswith(b"\r\n\r\nx")
    assert kept == ["1"]
