"""An upstream that speaks WebSocket: the `websockets` library's own server, in a thread."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve


def echo(peer: ServerConnection) -> None:
    """Sends back what comes."""
    for message in peer:
        peer.send(message)


class WebSocketUpstream:
    """
    Runs `script` for each connection, for the length of a `with` block.

    Args:
        script: What to do with a peer; echoes without one.
        options: For the library's server: subprotocols, compression, ssl.

    Attributes:
        handshakes: The headers of each connection that was opened.
        ends: How each ended, by the library's word: the exception that the script saw, or None.
    """

    def __init__(self, script: Callable[[ServerConnection], None] = echo, **options: Any) -> None:
        self.handshakes: list[Headers] = []
        self.paths: list[str] = []
        self.ends: list[ConnectionClosed | None] = []
        self.ended = threading.Semaphore(0)
        self._script = script
        self._server = serve(self._serve, "127.0.0.1", 0, **{"compression": None, "ping_interval": None} | options)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"{'https' if options.get('ssl') else 'http'}://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)

    def wait_for_end(self) -> ConnectionClosed | None:
        """How the next connection ended, once it has."""
        assert self.ended.acquire(timeout=10), "the upstream's connection is still open"
        return self.ends.pop(0)

    def _serve(self, peer: ServerConnection) -> None:
        assert peer.request is not None
        self.handshakes.append(peer.request.headers)
        self.paths.append(peer.request.path)
        end: ConnectionClosed | None = None
        try:
            self._script(peer)
        except ConnectionClosed as exc:
            end = exc
        self.ends.append(end)
        self.ended.release()
