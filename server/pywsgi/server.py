"""gevent's own WSGI server around the application: what `python wsgi.py` runs."""

from __future__ import annotations

import signal
import socket
import sys
from functools import partial

import gevent
from flask import Flask
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from llmproxy.fairness import most_connections
from llmproxy.sockets import shut_down
from llmproxy.telemetry import metrics
from llmproxy.urls import is_loopback
from server import boot, first_run, overrides
from server.background import Background
from server.drain import Stopping
from server.pywsgi import self_test
from server.pywsgi.handler import Handler
from server.pywsgi.listener import listener
from services import Services

MAX_CONNECTIONS = 4096


class Server(WSGIServer):  # type: ignore[misc]
    """
    gevent's server as `server.drain.Front` wants it.

    Attributes:
        parts: Of the application.
        ops: The listener of OPS_BIND.
        is_leaving: Every response closes its connection.
    """

    parts: Services
    is_leaving = False
    ops: Server | None = None

    @property
    def listeners(self) -> tuple[Server, ...]:
        """This one, and that for operators where they have one of their own."""
        return (self, self.ops) if self.ops else (self,)

    def send_connection_close(self) -> None:
        """Let every response from now on say `Connection: close`."""
        for each in self.listeners:
            each.is_leaving = True

    def hang_up_on_the_idle(self) -> None:
        """Close what waits for a request. One that has arrived meanwhile is still read, and answered."""
        for sock in Handler.between_requests:
            shut_down(sock, socket.SHUT_RD)


def require_loopback(host: str) -> None:
    """End the process, with the command to run in its place, where others than this machine could come in."""
    if not is_loopback(host):
        sys.exit(
            f"HOST={host}: this server is for the first run on loopback. To listen elsewhere, run\n"
            f"  HOST={host} .venv/bin/gunicorn -c gunicorn.conf.py wsgi:app"
        )


def serve(app: Flask) -> None:
    """Serve `app` until SIGTERM or SIGINT, on the address that its settings name."""
    parts = Services.of(app)
    settings = parts.settings
    Handler.client_timeout_s = settings.idle_timeout_s
    server, *ops = (_open(app, host, port) for host, port in settings.listeners)
    for server.ops in ops:
        parts.ops_ports.add(str(server.ops.socket.getsockname()[1]))
    ours = {"gevent": self_test.lost_of_gevent, "gunicorn": self_test.lost_of_gunicorn}
    overrides.require(settings.database_url, **{library: partial(lost, server) for library, lost in ours.items()})
    metrics.WORKERS_WANTED.set(1)
    stopping = Stopping(parts, Background(parts))
    _obey_signals(stopping)
    for each in server.listeners:
        each.start()
    parts.fairness.serves([each.pool for each in server.listeners])
    gevent.spawn(boot.warn_of_projects, parts)
    print(first_run.greeting(settings, server.socket.getsockname()[1]), flush=True)
    stopping.wait(server)


def _open(app: Flask, host: str, port: int) -> Server:
    try:
        sock = listener(host, port)
    except OSError as exc:
        sys.exit(f"cannot listen on {host}:{port}: {exc.strerror}")
    pool = Pool(min(MAX_CONNECTIONS, most_connections()))
    server = Server(sock, app, handler_class=Handler, log=None, spawn=pool)
    server.parts = Services.of(app)
    return server


def _obey_signals(stopping: Stopping) -> None:
    """SIGTERM and Ctrl-C leave gracefully, Ctrl-C without the overlap: nobody balances over a terminal."""
    numbers: list[int] = []

    def obey(number: int) -> None:
        numbers.append(number)
        if len(numbers) > 1:
            stopping.at_once()
        else:
            stopping.begin(overlap=number == signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, obey, number)
