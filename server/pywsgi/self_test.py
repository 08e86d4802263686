"""Whether gevent's server hands connections to us, and gunicorn still reads and writes them by what is ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

from server.overrides import exchange

_REQUEST = b"GET /1 HTTP/1.1\r\nHost: x\r\nX_A: 1\r\n\r\n"
_RECEIVED = [("Host", "x"), ("X_A", "1")]


def lost_of_gevent(server: WSGIServer) -> str | None:
    """What an upgrade of gevent took away; see `server.overrides`. To be asked before `server` starts."""
    received, _ = _serve_one(server)
    return "serves connections past `server.pywsgi.handler`" if received == [None] else None


def lost_of_gunicorn(server: WSGIServer) -> str | None:
    """What an upgrade of gunicorn took away, likewise."""
    received, response = _serve_one(server)
    if received != [_RECEIVED]:
        return "reads requests past `server.gunicorn.request`"
    if not response.endswith(b"\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"):
        return "writes responses past `server.gunicorn.response`"
    return None


def _serve_one(server: WSGIServer) -> tuple[list[object], bytes]:
    """The headers that the application was shown, and the response."""
    received: list[object] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        received.append(environ.get("llmproxy.headers"))
        environ.get("llmproxy.trailers", []).append(("X-T", "1"))
        start_response("200 OK", [])
        return iter([b"ok"])

    application, server.application = server.application, app
    try:
        return received, exchange(_REQUEST, lambda sock: server.handle(sock, ("127.0.0.1", 0)))
    finally:
        server.application = application
