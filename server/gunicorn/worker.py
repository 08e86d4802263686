"""
What this product changes in gunicorn's worker: it can tell idle connections from busy ones and leaves as
`server.drain` says. Its requests are those of `request`, its responses those of `response`. To be imported after
gevent's patch.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http as gunicorn_http
from gunicorn.config import Config
from gunicorn.http import wsgi as gunicorn_wsgi
from gunicorn.workers import base_async
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from llmproxy.fairness import most_connections
from llmproxy.sockets import shut_down
from llmproxy.telemetry import shared_values
from server.drain import Stopping
from server.gunicorn import master
from server.gunicorn.booting import SharedNumber, tried_again
from server.gunicorn.exchange import create, leave, respond
from server.gunicorn.refusal import tell
from server.gunicorn.request import Address, Environ, OrdinaryRequest, Parser, Request
from server.gunicorn.response import Response
from services import Services


class Worker(GeventWorker):  # type: ignore[misc]
    """
    gunicorn's gevent worker, which leaves as `server.drain` says.

    Attributes:
        client_timeout_s: A client that neither reads nor sends for so long is cut off.
        parts: Of its application, set when that has been loaded.
        stopping: Set before `run`.
        listeners: The servers, one for each listening socket.
        serves: 1 once it does; the master sees it, too.
        waiting: The connections that wait for a request, with the time since when.
    """

    client_timeout_s = 300.0
    parts: Services
    stopping: Stopping
    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serves = SharedNumber()
        self.waiting: dict[_Wait, float] = {}
        self.listeners: Sequence[StreamServer] = ()

    def init_process(self) -> None:
        """Boot and run, counting together with the others; see `booting`."""
        with tried_again(self):
            shared_values.share_in(master.metrics_dir())
            super().init_process()

    def run(self) -> None:
        """Serve until the end; the base class's own would look for a stop once a second, and then end listening."""
        # libev's own handlers: Python's would wait for the loop to wake up.
        gevent.signal_handler(signal.SIGTERM, self.stopping.begin)
        gevent.signal_handler(signal.SIGINT, self.stopping.at_once)
        gevent.signal_handler(signal.SIGQUIT, self.stopping.at_once)
        if not self.alive:  # told to stop while it was starting; what it has accepted until the end is served
            self.alive = True
            self.stopping.begin()
        self.listeners = [self._open(sock) for sock in self.sockets]
        self.parts.fairness.serves([listener.pool for listener in self.listeners])
        gevent.spawn(self._beat)
        self.stopping.wait(self)

    def _open(self, sock: socket.socket) -> StreamServer:
        sock.setblocking(True)
        handle = partial(self.handle, _Listener(sock.getsockname()))
        # Whoever only connects may take no file that a call, the log or the database needs.
        pool = Pool(min(self.worker_connections, most_connections()))
        server = StreamServer(sock, handle=handle, spawn=pool)
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _beat(self) -> None:
        while True:
            self.notify()
            self._hang_up_on_the_late()
            gevent.sleep(1.0)

    def _hang_up_on_the_late(self) -> None:
        late = time.monotonic() - self.cfg.keepalive
        for wait, since in list(self.waiting.items()):
            if since < late:
                shut_down(wait.client, socket.SHUT_RD)

    def handle_abort(self, *_: object) -> NoReturn:
        """
        End this process, which the master has not heard of for too long; record its calls, and say where it stood.

        gunicorn's own raises SystemExit in whatever runs at that moment. In a connection's greenlet that ends the one
        connection, and leaves a worker that takes connections and closes them unanswered, for ever.
        """
        try:
            faulthandler.dump_traceback(all_threads=False)
            self.stopping.abort()
        finally:
            os._exit(1)

    def notify(self) -> None:
        """Tell the master that this worker lives. Without a master, nobody would ever end it: it goes."""
        self.tmp.notify()
        if self.ppid != os.getppid():
            self.stopping.at_once()

    def handle(self, listener: _Listener, client: socket.socket, addr: Address) -> None:
        """Serve one connection; the base class's own would set the socket to wait for ever."""
        gevent.getcurrent().wait = _Wait(self, client)
        AsyncWorker.handle(self, listener, client, addr)

    def handle_request(
        self, listener_name: Address, req: Request | OrdinaryRequest, sock: socket.socket, addr: Address
    ) -> None:
        """Answer one request: the base class's own way, with hooks and clocks, where its access log is asked for."""
        if self.log.access_log_enabled:
            try:
                super().handle_request(listener_name, req, sock, addr)
            except StopIteration:
                leave(req, sock)
                raise
            return
        response, environ = create(req, sock, addr, listener_name, self.cfg)
        try:
            self._respond(response, environ)
        except (gevent.GreenletExit, SystemExit):
            pass
        except Exception as exc:
            # These two end the connection. Anything else is answered by a 500, unless something was sent already.
            if isinstance(exc, OSError | StopIteration) or not response.headers_sent:
                raise
            self.log.exception("Error handling request")
            raise StopIteration from None

    def _respond(self, response: Response, environ: Environ) -> None:
        if not self.alive:
            response.force_close()
        if not respond(self.wsgi, response, environ):
            raise StopIteration

    def handle_error(self, req: object, client: socket.socket, addr: Address, exc: BaseException) -> None:
        """Tell the client what went wrong outside of the application; gunicorn's own does so in HTML."""
        if isinstance(exc, Exception) and not isinstance(exc, ssl.SSLError):
            tell(self.parts, client, addr, exc, self.log)
        else:
            super().handle_error(req, client, addr, exc)

    def _try_h2c_upgrade(self, *_: object) -> bool:
        """False: this worker's parser knows no HTTP/2."""
        return False

    def timeout_ctx(self) -> _Wait:
        """The time that a connection may wait for a request, and that its head may take."""
        wait: _Wait = gevent.getcurrent().wait
        return wait

    def send_connection_close(self) -> None:
        """Let every response from now on say `Connection: close`."""
        Response.is_last = True

    def hang_up_on_the_idle(self) -> None:
        """Close what waits for a request. One that has arrived meanwhile is still read, and answered."""
        self.alive = False
        for wait in list(self.waiting):
            shut_down(wait.client, socket.SHUT_RD)


class _Listener:
    """A listening socket's name. gunicorn asks for it late, when the socket may be closed: a call would be lost."""

    def __init__(self, name: Address) -> None:
        self._name = name

    def getsockname(self) -> Address:
        return self._name


class _Wait:
    """
    A connection's time between two requests, and for a request's head.

    Entered for each: a timer of its own would cost more than reading the request does.
    """

    def __init__(self, worker: Worker, client: socket.socket) -> None:
        self._waiting = worker.waiting
        self._worker = worker
        self.client = client

    def __enter__(self) -> None:
        self.client.settimeout(None)
        self._waiting[self] = time.monotonic()
        if not self._worker.alive:
            shut_down(self.client, socket.SHUT_RD)

    def __exit__(self, *exc_info: object) -> None:
        del self._waiting[self]
        self.client.settimeout(self._worker.client_timeout_s)


def _get_parser(cfg: Config, source: socket.socket, source_addr: Address, **_: object) -> Parser:
    return Parser(cfg, source, source_addr)


def lost() -> str | None:
    """What an upgrade of gunicorn took away from the way with an access log; see `server.overrides`."""
    is_ours = base_async.wsgi.create is create and "create" in AsyncWorker.handle_request.__code__.co_names
    return None if is_ours else "logs accesses past `server.gunicorn.worker`"


gunicorn_wsgi.create = create
gunicorn_http.get_parser = _get_parser
