"""
CORS for pages of other origins that call `/v1/` (WHATWG Fetch): a layer of WSGI, there only when origins are named.

Tokens travel in headers that a page sets itself. Nothing here allows credentials, so no cookie is ever sent or taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from blueprints import proxy
from llmproxy.headers import Headers, is_token

ANY = "*"
# A browser asks again after two hours at the most.
MAX_AGE_S = 7200

_PREFIX = "access-control-"

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class CrossOrigin:
    """
    `app`, for pages of `origins` as well.

    Args:
        origins: As browsers write them, or `*` for all.
    """

    def __init__(self, app: WsgiApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a preflight; let any other call from a page through, and the page read what comes back."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or not proxy.serves(environ["PATH_INFO"]):
            return self._app(environ, start_response)
        allowed = self._allowed(origin)
        if allowed and environ["REQUEST_METHOD"] == "OPTIONS" and (preflight := _preflight(environ)) is not None:
            start_response("204 No Content", [*allowed, *preflight])
            return ()

        def start_readable(status: str, headers: Headers, *more: Any) -> Any:
            # What the upstream says of its own callers' origins does not hold here.
            own = [pair for pair in headers if not pair[0].lower().startswith(_PREFIX)]
            exposed = [("Access-Control-Expose-Headers", "*")] if allowed else []
            return start_response(status, [*own, *allowed, *exposed], *more)

        return self._app(environ, start_readable)

    def _allowed(self, origin: str) -> Headers:
        """The headers that let a page of this origin read a response; none where it may not."""
        if ANY in self._origins:
            return [("Access-Control-Allow-Origin", ANY)]
        if origin in self._origins:
            return [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        return []


def _preflight(environ: dict[str, Any]) -> Headers | None:
    """What else the answer to a preflight says: whatever is asked for may be sent. None when it is no preflight."""
    method = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
    if method is None or not is_token(method) or method in proxy.REFUSED_METHODS:
        return None
    asked = map(str.strip, environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").split(","))
    return [
        ("Access-Control-Allow-Methods", method),
        # Not `*`, which leaves out Authorization.
        ("Access-Control-Allow-Headers", ", ".join(filter(is_token, asked))),
        ("Access-Control-Max-Age", str(MAX_AGE_S)),
    ]
