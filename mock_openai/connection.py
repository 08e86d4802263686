"""One accepted connection: the parser's events, and who hung up."""

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import httptools

from mock_openai.request import Ledger, Request

READ_BYTES = 64 * 1024
# A client may send its next request early; what it sends while a response waits is kept up to here.
PENDING_BYTES = 1024 * 1024
DRAIN_S = 5.0


class Connection:
    """One accepted socket. Also the parser's protocol: its `on_…` methods build the requests."""

    def __init__(self, sock: Any, number: int, ledger: Ledger) -> None:
        self.sock = sock
        self.number = number
        self.is_control = False
        self.gone = gevent.event.Event()
        self._ledger = ledger
        self._parser = httptools.HttpRequestParser(self)
        self._ready: deque[Request] = deque()
        self._current: Request | None = None
        self._turns = 0
        self._pending = bytearray()
        self._watcher: gevent.Greenlet | None = None

    # --- the parser's events ---

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._current = None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        pairs = self._headers if self._current is None else self._current.trailers
        pairs.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        request = self._current = Request(
            method=parser.get_method().decode("latin-1"),
            target=self._target,
            version=parser.get_http_version(),
            headers=self._headers,
        )
        self._turns += 1
        request.keep_alive = parser.should_keep_alive()
        request.connection, request.turn = self.number, self._turns
        if request.target.startswith(b"/__mock__/"):
            self.is_control = True
        else:
            self._ledger.add(request)

    def on_body(self, data: bytes) -> None:
        assert self._current is not None
        self._current.take_body(data)

    def on_message_complete(self) -> None:
        request = self._current
        assert request is not None
        if request.form is not None:
            request.form.feed(None)
        request.complete = True
        self._ready.append(request)

    # --- reading ---

    def next_request(self, before_body: Callable[[Request], None]) -> Request | None:
        """
        The next request, its body read unless it wants to be answered early; None when the client closed.

        `before_body` is called once for a request whose head came before its whole body. Bytes that are no
        HTTP raise httptools.HttpParserError.
        """
        introduced: Request | None = None
        while not self._ready:
            current = self._current
            if current is not None and not current.complete and current is not introduced:
                introduced = current
                before_body(current)
                if "early" in current.controls:
                    return current
            if not self._feed():
                return None
        return self._ready.popleft()

    def _feed(self) -> bool:
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
        else:
            data = self.sock.recv(READ_BYTES)
        if data:
            self._parser.feed_data(data)
        return bool(data)

    def abandon(self) -> None:
        """Marks a request that was still on its way in when the client left."""
        if self._current is not None:
            self._ledger.set_outcome(self._current, "client_gone")

    # --- noticing that the client left while nothing is sent ---

    def watch(self) -> gevent.event.Event:
        """An event that is set when the client hangs up. Reads ahead meanwhile, so end it with `unwatch`."""
        if self._watcher is None:
            self._watcher = gevent.spawn(self._read_ahead)
        return self.gone

    def _read_ahead(self) -> None:
        while len(self._pending) < PENDING_BYTES:
            try:
                data = self.sock.recv(READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self.gone.set()
                return
            self._pending += data

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher = None

    def close(self, *, reset: bool = False) -> None:
        """Ends the connection, at once and without a goodbye when `reset`."""
        self.unwatch()
        with contextlib.suppress(OSError):
            if reset:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif self._current is not None and not self._current.complete:
                self._drain()
        self.sock.close()

    def _drain(self) -> None:
        # Closing with unread bytes resets the connection, and the client could lose an early response to that.
        self.sock.shutdown(socket.SHUT_WR)
        self.sock.settimeout(DRAIN_S)
        while self.sock.recv(READ_BYTES):
            pass
