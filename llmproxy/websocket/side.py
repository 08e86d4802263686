"""One end of a WebSocket: a socket that is read and written by two greenlets, and may be aborted by a third."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress

from gevent.socket import wait_read, wait_write

from llmproxy.sockets import prepare, real, shut_down

# Of frames without a payload, some thousands: more would take too long to be followed in one go.
READ_BYTES = 16 * 1024
# While the peer does not read, this often is looked whether sending to it still makes sense.
LOOK_S = 0.5
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)  # Linux alone
_ESTABLISHED = 1


class Side:
    """
    A connected socket of gevent's, plain or TLS.

    It never blocks; waiting is done here. gevent's own waiting is governed by the socket's one timeout, which would
    be the same for who reads and who writes.

    Args:
        early: What was read from it before.
    """

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self._sock = sock
        self._raw = real(sock)
        self._early = early

    def begin(self) -> None:
        """Make it ready; to be called before anything else is done with it."""
        self._sock.settimeout(0)
        with suppress(OSError):  # a Unix socket knows nothing of it
            prepare(self._sock)

    def receive(self) -> bytes:
        """What one read brings, however long it takes; b"" at the end, whatever kind of end it is."""
        if self._early:
            data, self._early = self._early, b""
            return data
        while True:
            try:
                return self._sock.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                wait_read(self._raw.fileno())
            except OSError:
                return b""

    def send(self, data: bytes, *, stall_s: float, gives_up: Callable[[], bool] = lambda: False) -> None:
        """
        Send all of it.

        Args:
            stall_s: The peer may take nothing for so long.
            gives_up: Asked now and then while it takes nothing.

        Raises:
            TimeoutError: it took nothing for too long, or `gives_up` said so.
            OSError: the connection has ended.
        """
        rest = memoryview(data)
        moved_at = time.monotonic()
        while rest:
            if sent := self._send_some(rest):
                rest, moved_at = rest[sent:], time.monotonic()
            elif gives_up() or time.monotonic() - moved_at > stall_s:
                raise TimeoutError("the other side does not read")

    def _send_some(self, data: memoryview) -> int:
        """How many bytes were sent; 0 when there was no room, for LOOK_S at most."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if not sent:  # gevent's way to say so for TLS
            with suppress(TimeoutError):
                wait_write(self._raw.fileno(), timeout=LOOK_S)
        return sent

    def say(self, data: bytes) -> None:
        """Send a few last bytes if there is room for them. Never waits."""
        with suppress(OSError):
            self._sock.send(data)

    def has_left(self) -> bool:
        """True when the peer is known to have closed its end, though not all that it sent may have been read."""
        if _TCP_INFO is None:
            return False
        try:
            return bool(self._raw.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] != _ESTABLISHED)
        except OSError:
            return False

    def finish(self) -> None:
        """Tell the peer that nothing more will come."""
        shut_down(self._raw, socket.SHUT_WR)

    def abort(self) -> None:
        """End it from outside: whoever waits here stops waiting. Never waits."""
        shut_down(self._raw)

    def close(self) -> None:
        """Give the socket back; nobody may wait here any more."""
        shut_down(self._raw)
        with suppress(OSError):
            self._sock.close()
