"""ROOT_PATH: all of this below a path of a reverse proxy's. A layer of WSGI, there only when it is set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class BelowRootPath:
    """
    `app`, with its links, redirects and cookies below `root_path`.

    A request may come with that path or, where the reverse proxy has taken it off, without. Nothing else of its
    target is changed.
    """

    def __init__(self, app: WsgiApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path
        self._below = f"{root_path}/"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Route by what stands below the path."""
        # A target that spells the path by escapes is refused as any that is not below /v1/.
        for name in ("PATH_INFO", "RAW_URI"):
            if environ[name].startswith(self._below):
                environ[name] = environ[name].removeprefix(self._root_path)
        environ["SCRIPT_NAME"] = self._root_path
        return self._app(environ, start_response)
