"""OPS_BIND: what is for operators, on a listener of its own. A layer of WSGI, there only when it is set."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from blueprints import proxy

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

# Balancers ask on the one, orchestrators on either.
_ON_BOTH = frozenset({"/healthz", "/readyz"})
_OF_HOLDERS = "/self"
_NOWHERE = "/nowhere"
IS_OPS = "llmproxy.is_ops"


class OpsListener:
    """
    `app`, whose calls are forwarded on one listener alone, and whose management, admin pages and metrics are served
    on the other alone. Whatever is not served on a listener is as unknown there as any other path.

    Args:
        ports: Of the operators' listener, as text; its server adds it.
    """

    def __init__(self, app: WsgiApp, ports: Container[str]) -> None:
        self._app = app
        self._ports = ports

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve it, if it is served here."""
        path = environ["PATH_INFO"]
        is_ops = environ[IS_OPS] = environ["SERVER_PORT"] in self._ports
        if is_ops == (proxy.serves(path) or path == _OF_HOLDERS) and path not in _ON_BOTH:
            environ["PATH_INFO"] = _NOWHERE
        return self._app(environ, start_response)
