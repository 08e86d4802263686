"""A server on a real socket that takes POSTs: what stands in for a receiver of records or a collector of traces."""

import gzip
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, cast

NONE: Mapping[str, str] = MappingProxyType({})


class PostHandler(BaseHTTPRequestHandler):
    """Reads a POST and leaves its answer to whom its server belongs."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        cast("PostServer", self.server).take(self, body)

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = NONE) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence: the tests look at what was received."""


class PostServer(ThreadingHTTPServer):
    """
    Serves until it is closed.

    Args:
        take: Answers a POST, given its handler and its body unpacked.
        port: 0 for a free one.

    Attributes:
        url: Its address.
    """

    daemon_threads = True

    def __init__(self, take: Callable[[PostHandler, bytes], None], *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), PostHandler)
        self.take = take
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._connections: list[Any] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is a client that hung up: some tests want that."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop listening, and end the kept connections too, as the end of a process would."""
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
