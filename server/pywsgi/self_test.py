"""Whether gevent's server still reads and writes by what is ours: a request and a hostile one, before the first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gevent.pywsgi import WSGIServer

from server.overrides import exchange

_REQUEST = b"GET /1 HTTP/1.1\r\nHost: x\r\nX_A: 1\r\n\r\n"
_RECEIVED = [("Host", "x"), ("X_A", "1")]
_TWO_FRAMINGS = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def lost(server: WSGIServer) -> str | None:
    """What an upgrade of gevent took away; see `server.overrides`. To be asked before `server` starts."""
    received = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        received.append(environ["llmproxy.headers"])
        environ["llmproxy.trailers"].append(("X-T", "1"))
        start_response("200 OK", [])
        return iter([b"ok"])

    application, server.application = server.application, app
    try:
        response, refusal = (
            exchange(sent, lambda sock: server.handle(sock, ("127.0.0.1", 0))) for sent in (_REQUEST, _TWO_FRAMINGS)
        )
    finally:
        server.application = application
    if received != [_RECEIVED] or not refusal.startswith(b"HTTP/1.1 400 "):
        return "reads requests past `server.pywsgi.handler`"
    if not response.endswith(b"\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"):
        return "writes responses past `server.pywsgi.handler`"
    return None
