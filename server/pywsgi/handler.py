"""What is done with a connection that gevent's server has accepted: read and written as the deployed one's are."""

from __future__ import annotations

import errno
import logging
import socket
from typing import ClassVar

import gevent
from gevent.pywsgi import WSGIServer

from llmproxy.sockets import shut_down
from server.gunicorn.exchange import create, next_request, parser_of, respond
from server.gunicorn.refusal import tell
from server.gunicorn.request import Address, OrdinaryRequest, Parser, Request

log = logging.getLogger(__name__)

HEAD_DEADLINE_S = 15.0
# How a connection ends of which the other side has gone.
_ENDS = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class Handler:
    """
    Serves the requests of one connection; what `handler_class` is to gevent's server.

    Its own would read more leniently than a front server does, and go on after a request that nobody could read.
    """

    # A client that neither reads nor sends for so long is cut off as one that left.
    client_timeout_s: ClassVar[float] = 300.0
    between_requests: ClassVar[set[socket.socket]] = set()

    def __init__(self, sock: socket.socket, address: Address, server: WSGIServer) -> None:
        self._sock = sock
        self._address = address
        self._server = server

    def handle(self) -> None:
        """Serve the connection until it ends."""
        parser = parser_of(self._sock, self._address)
        try:
            while (request := self._next(parser)) is not None and self._answer(request, parser):
                pass
        except OSError as exc:  # the client has left, or the upstream broke off
            if exc.errno not in _ENDS:
                log.exception("a connection failed")
        except Exception as exc:
            tell(self._server.parts, self._sock, self._address, exc)
        finally:
            self._sock.close()

    def _next(self, parser: Parser) -> Request | OrdinaryRequest | None:
        """The next request; None where its head is not complete in time, or not there at the end."""
        deadline = gevent.Timeout.start_new(HEAD_DEADLINE_S)
        self.between_requests.add(self._sock)
        self._sock.settimeout(self.client_timeout_s)
        if self._server.closed:
            shut_down(self._sock, socket.SHUT_RD)
        try:
            return next_request(parser)
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            return None
        finally:
            deadline.close()
            self.between_requests.discard(self._sock)

    def _answer(self, request: Request | OrdinaryRequest, parser: Parser) -> bool:
        """Whether the connection may go on."""
        response, environ = create(request, self._sock, self._address, self._server.address, parser.cfg)
        if self._server.is_leaving:
            response.force_close()
        try:
            return respond(self._server.application, response, environ)
        except Exception as exc:
            if isinstance(exc, OSError) or not response.headers_sent:
                raise
            log.exception("a response failed")
            return False
