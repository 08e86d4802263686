"""An upstream that speaks WebSocket, by the `websockets` library's own server."""

import threading
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from tests.upstream import WAIT_S, Peer, ScriptedUpstream


def echo(peer: ServerConnection) -> None:
    """Sends back what comes."""
    for message in peer:
        peer.send(message)


class WebSocketUpstream(ScriptedUpstream):
    """
    Runs `talk` on each connection that it opened.

    Args:
        talk: What to do with a peer; echoes without one.
        tls: Wraps every connection.
        options: For the library's server: subprotocols, compression.

    Attributes:
        handshakes: The headers of each connection that was opened.
        ends: How each ended, by the library's word: the exception that `talk` saw, or None.
    """

    def __init__(
        self, talk: Callable[[ServerConnection], None] = echo, *, tls: SSLContext | None = None, **options: Any
    ) -> None:
        super().__init__(every=self._serve, tls=tls)
        self.handshakes: list[Headers] = []
        self.paths: list[str] = []
        self.ends: list[ConnectionClosed | None] = []
        self.ended = threading.Semaphore(0)
        self._talk = talk
        usual = {"compression": None, "ping_interval": None, "open_timeout": WAIT_S, "close_timeout": WAIT_S}
        self._library = serve(
            lambda peer: None, sock=self._listener, create_connection=self._connection, **usual | options
        )

    def wait_for_end(self) -> ConnectionClosed | None:
        """How the next connection ended, once it has."""
        assert self.ended.acquire(timeout=WAIT_S), "the upstream's connection is still open"
        return self.ends.pop(0)

    def _serve(self, peer: Peer) -> None:
        self._library.handler(peer.socket, None)

    def _connection(self, *args: Any, **options: Any) -> ServerConnection:
        opened = self._opened

        class Connection(ServerConnection):
            """Talks as soon as it is open: the library's own way passes over a client that has left by then."""

            def handshake(self, *args: Any, **options: Any) -> None:
                super().handshake(*args, **options)
                if self.response and self.response.status_code == 101:
                    opened(self)

        return Connection(*args, **options)

    def _opened(self, peer: ServerConnection) -> None:
        assert peer.request is not None
        self.handshakes.append(peer.request.headers)
        self.paths.append(peer.request.path)
        end: ConnectionClosed | None = None
        try:
            self._talk(peer)
        except ConnectionClosed as exc:
            end = exc
        self.ends.append(end)
        self.ended.release()
