"""One connection to an upstream, over TCP or TLS."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import certifi
import gevent.socket

from llmproxy.egress import EgressProxy
from llmproxy.headers import Origin
from llmproxy.sockets import poll, prepare, real, send_ready, shut_down, unacknowledged_bytes
from llmproxy.transport.names import NAMES, Address, numeric_addresses
from llmproxy.transport.readiness import Readiness
from llmproxy.transport.tunnel import open_tunnel
from llmproxy.turns import give_way
from llmproxy.urls import is_off_limits

READ_BYTES = 64 * 1024
# A read that brings so much, which is all that TLS ever brings, is seldom the last of what is there.
MUCH_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for a connection, for the first byte of a response, and between two bytes of it."""

    connect_s: float
    first_byte_s: float
    idle_s: float


class NothingSent(ConnectionError):
    """The connection was dead already: nothing of what was to be sent has left this machine."""


class Connection:
    """
    One connection to an origin; at most one exchange at a time.

    Args:
        proxy: The egress proxy on the way, if there is one.
        tunnels: That proxy passes on bytes of any kind, and not requests.

    Attributes:
        open_now: How many this process has; what was detached is not in it.
        forwarder: The egress proxy that requests are addressed to; None when the origin itself reads them.
    """

    open_now: ClassVar[int] = 0

    __slots__ = (
        "_more_is_there", "_poll", "_read_ready", "_readiness", "_real", "_sock", "forwarder", "idle_since",
        "is_aborted", "origin", "was_used",
    )  # fmt: skip

    def __init__(
        self,
        origin: Origin,
        timeout_s: float,
        context: ssl.SSLContext,
        proxy: EgressProxy | None = None,
        *,
        tunnels: bool = False,
    ) -> None:
        self.origin = origin
        self.forwarder = None if tunnels else proxy
        self.was_used = False
        self.is_aborted = False
        self.idle_since = 0.0
        host, port = (origin.host, origin.port) if proxy is None else (proxy.host, proxy.port)
        addresses = NAMES.addresses(host)
        if proxy is None:
            addresses = _allowed(addresses, host)
        else:  # it looks names up by itself, but an address is known here
            _allowed(numeric_addresses(origin.host), origin.host)
        try:
            sock = _connected(addresses, port, timeout_s)
        except OSError:
            NAMES.doubt(host)
            raise
        try:
            if proxy is not None and tunnels:
                open_tunnel(sock, origin, proxy)
            if origin.scheme == "https":
                sock = context.wrap_socket(sock, server_hostname=origin.host, do_handshake_on_connect=False)
                sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        # gevent's socket would always try to read first, in vain, and set a timer for each wait.
        self._readiness = Readiness(sock) if isinstance(sock, gevent.socket.socket) else None
        # What need not wait goes past gevent's, which takes twice as long. Under TLS there is no going past it: it
        # does not wait where it has no time for that.
        self._real = real(sock) if self._readiness is not None and origin.scheme != "https" else None
        self._read_ready: Callable[[int], bytes] = sock.recv if origin.scheme == "https" else real(sock).recv
        self._more_is_there = False
        self._poll = poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        Connection.open_now += 1

    def send(self, data: bytes, timeout_s: float) -> None:
        """
        Send all of `data`.

        Raises:
            TimeoutError: `timeout_s` passed without progress.
            NothingSent, OSError: the connection is dead.
        """
        # Most requests fit the socket's buffer; gevent's sendall asks for its size first, every time.
        rest = data if self._real is None else send_ready(self._real, data)
        if not rest:
            return
        self._sock.settimeout(timeout_s)
        try:
            sent = self._sock.send(rest)
        except (BrokenPipeError, ConnectionResetError) as exc:
            if len(rest) < len(data):
                raise
            raise NothingSent(str(exc)) from exc
        if sent < len(rest):
            self._sock.sendall(memoryview(rest)[sent:])

    def receive(self, timeout_s: float) -> bytes:
        """What one read brings; b"" at the end of the stream, unless an abort was what ended it."""
        if timeout_s and self._readiness is not None and not self._more_is_there:
            timeout_s = self._readiness.wait(timeout_s)
        elif timeout_s:
            give_way()
        data = self._read(timeout_s)
        self._more_is_there = len(data) >= MUCH_BYTES
        if not data and self.is_aborted:
            raise ConnectionAbortedError("the exchange was aborted")
        return data

    def _read(self, timeout_s: float) -> bytes:
        if self._real is not None:
            try:
                return self._real.recv(READ_BYTES)
            except BlockingIOError:
                pass  # not suppressed: that would be seen in a call's time
        self._sock.settimeout(timeout_s)
        return self._sock.recv(READ_BYTES)

    def watch(self, on_readable: Callable[[], None], timeout_s: float) -> None:
        """
        Have the event loop call `on_readable`, which is to read by `receive_ready`, until somebody calls `wake`.

        Returns at once where no event loop can do that. Raises what `wake` is given, and TimeoutError after as many
        seconds without anything to read.
        """
        if self._readiness is not None:
            self._sock.settimeout(0)
            self._readiness.watch(on_readable, timeout_s)

    def wake(self, error: Exception | None = None) -> None:
        """End `watch`, or have it raise."""
        if self._readiness is not None:
            self._readiness.wake(error)

    def receive_ready(self, timeout_s: float) -> bytes | None:
        """
        What one read brings while this is watched, as `receive` does; None for a message of TLS itself. Never waits.

        Args:
            timeout_s: How long what comes next may take from now on.
        """
        try:
            data = self._read_ready(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:  # which is for a greenlet to wait for, and to be gone on with
            self._more_is_there = True
            self.wake()
            return None
        if not data and self.is_aborted:
            raise ConnectionAbortedError("the exchange was aborted")
        if self._readiness is not None:
            self._readiness.deadline = time.monotonic() + timeout_s
        return data

    def receive_now(self) -> bytes | None:
        """What has arrived already; None when nothing has. Never waits."""
        if not self.is_readable():
            return None
        try:
            return self.receive(0)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # a message of TLS itself, such as the session tickets that follow a handshake

    def is_readable(self) -> bool:
        """True when there is something to read, the end of the stream included. Never waits."""
        return bool(self._poll.poll(0))

    def unacknowledged(self) -> int:
        """Bytes sent, TLS's own included, that the peer's machine has not confirmed; 0 where nobody can tell."""
        try:
            return unacknowledged_bytes(self._sock)
        except (OSError, ValueError):
            return 0

    def abort(self) -> None:
        """End the exchange from outside: whoever waits in `send` or `receive` gets an OSError. Never waits."""
        self.is_aborted = True
        shut_down(self._sock)

    def detach(self) -> socket.socket:
        """Its socket, which is the caller's from here on."""
        Connection.open_now -= 1
        self._stop_waiting()
        return self._sock

    def close(self) -> None:
        """Close without waiting for the peer."""
        if self._sock.fileno() >= 0:
            Connection.open_now -= 1
            self._stop_waiting()
        with suppress(OSError):
            self._sock.close()

    def _stop_waiting(self) -> None:
        if self._readiness is not None:
            self._readiness.close()


def _allowed(addresses: list[Address], host: str) -> list[Address]:
    """Those that an upstream may have, whatever led to them at this moment. Raises OSError when none is left."""
    allowed = [each for each in addresses if not is_off_limits(each.host)]
    if addresses and not allowed:
        raise OSError(f"{host} leads to a link-local address or a cloud's metadata alone")
    return allowed


def _connected(addresses: Sequence[Address], port: int, timeout_s: float) -> socket.socket:
    """A socket to the first address, one of at least one, that takes the connection."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return _connected([address], port, timeout_s)
    (address,) = addresses[-1:]
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        prepare(sock)
        sock.settimeout(timeout_s)
        sock.connect(address.at(port))
    except BaseException:
        sock.close()
        raise
    return sock


def verifying_context() -> ssl.SSLContext:
    """
    Trusts the machine's roots, or those that OpenSSL's own SSL_CERT_FILE and SSL_CERT_DIR name in their place.

    Where there is no directory of roots, certifi's are trusted beside what else is there.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL looks a root up in the directory when it meets its name. certifi's file would be read as a whole: 4 MB.
    if not _has_roots(ssl.get_default_verify_paths().capath):
        context.load_verify_locations(cafile=certifi.where())
    return context


def _has_roots(directory: str | None) -> bool:
    return directory is not None and any(Path(directory).glob("????????.0"))
