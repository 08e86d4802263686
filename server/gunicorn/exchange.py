"""One request and its response, on a connection that any server has accepted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import cache

from gunicorn.config import Config
from gunicorn.http import wsgi

from server.gunicorn.request import (
    MAX_FIELDS,
    MAX_LINE_BYTES,
    Address,
    Environ,
    OrdinaryRequest,
    Parser,
    Request,
    unread_bytes,
)
from server.gunicorn.response import Response
from server.lingering import linger

# What gunicorn.conf.py says of requests, for a server that gunicorn does not run.
_READING = {
    "http_parser": "python",
    "limit_request_line": MAX_LINE_BYTES,
    "limit_request_field_size": MAX_LINE_BYTES,
    "limit_request_fields": MAX_FIELDS,
    "forwarder_headers": "",
}

Application = Callable[[Environ, Callable[..., object]], Iterable[bytes]]


def parser_of(sock: socket.socket, peer: Address) -> Parser:
    """Reads the requests of a connection that another server than gunicorn has accepted, as that would."""
    return Parser(_config(), sock, peer)


@cache
def _config() -> Config:
    config = Config()
    for name, value in _READING.items():
        config.set(name, value)
    return config


def next_request(parser: Parser) -> Request | OrdinaryRequest | None:
    """The next request; None at the connection's end, even within one. Raises what `refusal.tell` tells."""
    try:
        return next(parser)  # type: ignore[no-any-return]
    except (StopIteration, OSError):  # gunicorn's word for an end within a request is one of the latter
        return None


def create(
    req: Request | OrdinaryRequest, sock: socket.socket, client: Address, server: Address, cfg: Config
) -> tuple[Response, Environ]:
    """
    The response to a request, to be filled, and the environ for the application.

    Args:
        client, server: Names of the connection's ends, as sockets tell them.
    """
    if isinstance(req, OrdinaryRequest):
        response, environ = Response(req, sock, cfg), req.environ(sock, client, server)
    else:
        response, environ = _gunicorns_create(req, sock, client, server, cfg, response_class=Response)
        environ["llmproxy.headers"] = req.received
    environ["llmproxy.trailers"] = response.trailers = []
    environ["llmproxy.sender"] = response.sender
    return response, environ


def respond(application: Application, response: Response, environ: Environ) -> bool:
    """
    Let the application fill the response; whether the connection may go on. Raises what the application does.

    Returns when a client that has not sent its whole request has had time to see the response.
    """
    body = application(environ, response.start_response)
    if response.headers_sent:
        # Of a stream, which may stay for long after what asked for it.
        environ.clear()
        response.let_go_of_heads()
    try:
        for piece in body:
            response.write(piece)
        response.close()
    finally:
        if hasattr(body, "close"):
            body.close()
    if response.should_close():
        leave(response.req, response.sock)
        return False
    return True


def leave(req: Request | OrdinaryRequest, sock: socket.socket) -> None:
    """Let the client see the response that was its connection's last, though it may still be sending this request."""
    if unread_bytes(req.body):
        linger(sock)


# The worker puts ours in its place.
_gunicorns_create = wsgi.create
