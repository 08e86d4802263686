"""Whether gunicorn still reads and writes by what is ours: two requests, served by a worker that is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from gunicorn.config import Config

from server.gunicorn import master, worker
from server.gunicorn.request import Environ
from server.overrides import exchange

# One is read and answered at a glance, one by gunicorn.
_REQUESTS = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /2 HTTP/1.1\r\nHost: x\r\nX_A: 1\r\n\r\n"
_RECEIVED = [[("Host", "x")], [("Host", "x"), ("X_A", "1")]]
_HEADERS = [("Server", "x"), ("Date", "now"), ("Content-Length", "2")]
_HEAD = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nServer: x\r\nDate: now\r\nContent-Length: 2\r\n\r\n"
_RESPONSES = _HEAD + b"ok" + _HEAD
_PEER = ("127.0.0.1", 0)


class _NoLog:
    """gunicorn's log meanwhile."""

    access_log_enabled = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _ToNobody(worker.Worker):
    """Serves, and tells of no failure: it shows in what is missing."""

    def handle_error(self, *_: object) -> None:
        pass


def lost() -> str | None:
    """What an upgrade of gunicorn took away; see `server.overrides`. For the master, before it forks."""
    received, timeouts = [], set()

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        received.append(environ["llmproxy.headers"])
        timeouts.add(environ["gunicorn.socket"].gettimeout())
        start_response("200 OK", _HEADERS)
        return [b"ok"] if environ["REQUEST_METHOD"] == "GET" else []

    listener: Any = SimpleNamespace(getsockname=lambda: _PEER)
    # Not the operator's settings: without keep-alive, say, the second request would not be read.
    own = _ToNobody(0, os.getpid(), [], None, 0, Config(), _NoLog())
    own.wsgi = app
    responses = exchange(_REQUESTS, lambda sock: own.handle(listener, sock, _PEER))
    own.tmp.close()
    if received != _RECEIVED:
        return "reads requests past `server.gunicorn.request`"
    if responses != _RESPONSES:
        return "writes responses past `server.gunicorn.response`"
    if timeouts != {own.client_timeout_s}:
        return "serves connections past the times of `server.gunicorn.worker`"
    return worker.lost() or master.lost()
