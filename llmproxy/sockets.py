"""gevent's sockets from underneath: the one of Python that each wraps. Read in gevent 26.9.0."""

from __future__ import annotations

import _socket
import fcntl
import socket
import ssl
import termios
from array import array
from contextlib import closing, suppress

import gevent.socket
import gevent.ssl
from gevent import monkey

RealSocket = _socket.socket
READ = 1  # libev's EV_READ
# A peer that vanished without a word would be waited for for ever, and firewalls and NATs forget a connection after
# minutes of silence, which a long answer may well take. Asked after a minute, then every 15 s, a peer may miss four
# times. Not every system can be told so.
_KEEPALIVE = tuple(
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
)
# gevent's poll would go through the hub; a look that never waits need not.
poll = monkey.get_original("select", "poll")


def real(sock: socket.socket | RealSocket) -> RealSocket:
    """Past TLS and gevent, down to the socket: the others may switch greenlets, or wait for the peer."""
    inner: RealSocket = getattr(sock, "_sock", sock)
    return inner


def prepare(sock: socket.socket) -> None:
    """Let TCP send at once what is to be sent, and ask the peer in a silence whether it is still there."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def shut_down(sock: socket.socket | RealSocket, how: int = socket.SHUT_RDWR) -> None:
    """
    End both directions of a connection, or the one that `how` names, under whoever uses it. Never waits.

    Who reads from it finds its end. gevent's own way would throw an error at them, and TLS's wait for the peer.
    """
    if sock.fileno() < 0:  # closed, and then gevent's socket has no real one inside
        return
    with suppress(OSError):
        real(sock).shutdown(how)


def send_ready(sock: RealSocket, data: bytes) -> bytes:
    """Send what fits without waiting. What is left; all of it at an error, which whoever sends it then meets too."""
    try:
        return data[sock.send(data) :]
    except OSError:
        return data


def waiting_bytes(sock: RealSocket) -> int:
    """How much has arrived that nobody has read yet."""
    return _counted(sock, termios.FIONREAD)


def unacknowledged_bytes(sock: RealSocket) -> int:
    """How much was sent that the peer's machine has not confirmed. Raises OSError where nobody can tell."""
    return _counted(sock, termios.TIOCOUTQ)


def _counted(sock: RealSocket, what: int) -> int:
    count = array("i", [0])
    fcntl.ioctl(sock.fileno(), what, count)
    return count[0]


def lost() -> str | None:
    """What an upgrade of gevent took away from here; see `server.overrides`."""
    plain, peer = gevent.socket.socketpair()
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls = context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
    with closing(tls), closing(peer):
        if not all(isinstance(real(sock), RealSocket) for sock in (peer, tls)):
            return "keeps the real socket elsewhere than in `_sock`"
    return None
