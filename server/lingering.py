"""The end of a connection whose client may still be sending, when its response has gone."""

from __future__ import annotations

import select
import socket
import time
from contextlib import suppress

import gevent

from llmproxy.sockets import poll, real, shut_down

# What is left of a request's body is read up to this size, for so long: a client that sent it all may go on with its
# connection. Of one that goes on sending nothing more is read, or it would be read for ever.
DRAINED_BYTES = 64 * 1024
LINGER_S = 5.0
_LOOK_EVERY_S = 0.25
_PEER_LEFT = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def linger(sock: socket.socket) -> None:
    """
    Send the end of this side, and give the client time to see it; the connection is the caller's to close then.

    Closed with unread bytes a connection is reset, and a reset may throw away the response on its way.
    """
    deadline = time.monotonic() + LINGER_S
    shut_down(sock, socket.SHUT_WR)
    with suppress(OSError):
        if not _drain(sock, deadline):
            _wait_for_end(sock, deadline)


def _drain(sock: socket.socket, deadline: float) -> bool:
    """Whether the client has ended its side, too."""
    missing = DRAINED_BYTES
    while missing > 0:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(missing)
        if not data:
            return True
        missing -= len(data)
    return False


def _wait_for_end(sock: socket.socket, deadline: float) -> None:
    """Without reading: a client that cannot send on looks for a response."""
    look = poll()
    look.register(real(sock).fileno(), _PEER_LEFT)
    while time.monotonic() < deadline and not look.poll(0):
        gevent.sleep(_LOOK_EVERY_S)
