"""
What this product changes in gunicorn's worker: it can tell idle connections from busy ones and leaves as `server.drain`
says. Its requests are those of `request`, its responses those of `response`. To be imported after
gevent's patch.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http as gunicorn_http
from gunicorn.http import wsgi as gunicorn_wsgi
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from llmproxy.transport.connection import shut_down
from server.gunicorn.request import OrdinaryRequest, Parser
from server.gunicorn.response import Response


class Worker(GeventWorker):
    """
    gunicorn's gevent worker, which leaves as `server.drain` says.

    Attributes:
        client_timeout_s: A client that neither reads nor sends for so long is cut off.
        stopping: Set before `run`.
        doors: The servers of the listening sockets.
        waiting: The connections that wait for a request, with the time since when.
    """

    client_timeout_s = 300.0
    stopping = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waiting = {}
        self.doors = ()

    def run(self):
        """Serve until the end; the base class's own would look for a stop once a second, and then close the door."""
        # libev's own handlers: Python's would wait for the loop to wake up.
        gevent.signal_handler(signal.SIGTERM, self.stopping.begin)
        gevent.signal_handler(signal.SIGINT, self.stopping.at_once)
        gevent.signal_handler(signal.SIGQUIT, self.stopping.at_once)
        if not self.alive:  # told to stop while it was starting; what it has accepted until the end is served
            self.alive = True
            self.stopping.begin()
        self.doors = [self._open(sock) for sock in self.sockets]
        gevent.spawn(self._beat)
        self.stopping.wait(self)

    def _open(self, sock):
        sock.setblocking(1)
        handle = partial(self.handle, _Listener(sock.getsockname()))
        door = StreamServer(sock, handle=handle, spawn=Pool(self.worker_connections))
        if self.cfg.workers > 1:
            door.max_accept = 1
        door.start()
        return door

    def _beat(self):
        while True:
            self.notify()
            self._hang_up_on_the_late()
            gevent.sleep(1.0)

    def _hang_up_on_the_late(self):
        late = time.monotonic() - self.cfg.keepalive
        for wait, since in list(self.waiting.items()):
            if since < late:
                shut_down(wait.client, socket.SHUT_RD)

    def notify(self):
        """Tell the master that this worker lives. Without a master, nobody would ever end it: it goes."""
        self.tmp.notify()
        if self.ppid != os.getppid():
            self.stopping.at_once()

    def handle(self, listener, client, addr):
        """Serve one connection; the base class's own would set the socket to wait for ever."""
        gevent.getcurrent().wait = _Wait(self, client)
        AsyncWorker.handle(self, listener, client, addr)

    def handle_request(self, listener_name, req, sock, addr):
        """Answer one request: the base class's own way, with hooks and clocks, where its access log is asked for."""
        if self.log.access_log_enabled:
            super().handle_request(listener_name, req, sock, addr)
            return
        response, environ = _create(req, sock, addr, listener_name, self.cfg)
        try:
            self._answer(response, environ)
        except (gevent.GreenletExit, SystemExit):
            pass
        except Exception as exc:
            # These two end the connection. Anything else is answered by a 500, unless something was sent already.
            if isinstance(exc, OSError | StopIteration) or not response.headers_sent:
                raise
            self.log.exception("Error handling request")
            raise StopIteration from None

    def _answer(self, response, environ):
        if not self.alive:
            response.force_close()
        body = self.wsgi(environ, response.start_response)
        try:
            for piece in body:
                response.write(piece)
            response.close()
        finally:
            if hasattr(body, "close"):
                body.close()
        if response.should_close():
            raise StopIteration

    def _try_h2c_upgrade(self, *_):
        """False: this worker's parser knows no HTTP/2."""
        return False

    def timeout_ctx(self):
        """The time that a connection may wait for a request, and that its head may take."""
        return gevent.getcurrent().wait

    def say_goodbye(self):
        """Let every answer from now on be the last one on its connection."""
        Response.is_last = True

    def hang_up_on_the_idle(self):
        """Close what waits for a request. One that has arrived meanwhile is still read, and answered."""
        self.alive = False
        for wait in list(self.waiting):
            shut_down(wait.client, socket.SHUT_RD)


class _Listener:
    """A listening socket's name. gunicorn asks for it late, when the socket may be closed: a call would be lost."""

    def __init__(self, name):
        self._name = name

    def getsockname(self):
        return self._name


class _Wait:
    """
    A connection's time between two requests, and for a request's head.

    Entered for each: a timer of its own would cost more than reading the request does.
    """

    def __init__(self, worker, client):
        self._waiting = worker.waiting
        self._worker = worker
        self.client = client

    def __enter__(self):
        self.client.settimeout(None)
        self._waiting[self] = time.monotonic()
        if not self._worker.alive:
            shut_down(self.client, socket.SHUT_RD)

    def __exit__(self, *exc_info):
        del self._waiting[self]
        self.client.settimeout(self._worker.client_timeout_s)


def _get_parser(cfg, source, source_addr, **_):
    return Parser(cfg, source, source_addr)


def _create(req, sock, client, server, cfg, **others):
    if isinstance(req, OrdinaryRequest):
        response, environ = Response(req, sock, cfg), req.environ(sock, client, server)
    else:
        response, environ = _gunicorns_create(req, sock, client, server, cfg, **others)
        environ["llmproxy.headers"] = req.received
    environ["llmproxy.trailers"] = response.trailers = []
    return response, environ


_gunicorns_create = gunicorn_wsgi.create
gunicorn_wsgi.create = _create
gunicorn_wsgi.Response = Response
gunicorn_http.get_parser = _get_parser
