"""Clients and upstreams that mean harm: they go on for as long as their block lasts, and read whatever comes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.upstream import Peer

REFUSED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"


class Attacker:
    """
    One connection that sends without a pause.

    Attributes:
        received: What has come back, as far as 64 KiB go.
        sent: How many bytes the server's machine has taken.
        is_cut: Set when the server has ended the connection.
    """

    def __init__(self, url: str, opening: bytes, piece: bytes) -> None:
        place = urlsplit(url)
        self.received = b""
        self.sent = 0
        self.is_cut = threading.Event()
        self._sock = socket.create_connection((place.hostname or "", place.port or 80), timeout=60)
        self._threads = [
            threading.Thread(target=self._send, args=(opening, piece), daemon=True),
            threading.Thread(target=self._read, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, opening: bytes, piece: bytes) -> None:
        with suppress(OSError):
            self._sock.sendall(opening)
            while piece:
                rest = memoryview(piece)
                while rest:
                    sent = self._sock.send(rest)
                    self.sent, rest = self.sent + sent, rest[sent:]

    def _read(self) -> None:
        with suppress(OSError):
            while data := self._sock.recv(1 << 20):
                self.received += data[: 65536 - len(self.received)]
        self.is_cut.set()

    def stop(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        self._sock.close()


@contextmanager
def attacking(url: str, opening: bytes, piece: bytes = b"") -> Iterator[Attacker]:
    """A client that sends its opening, then its piece again and again, as fast as it is taken."""
    attacker = Attacker(url, opening, piece)
    try:
        yield attacker
    finally:
        attacker.stop()


def answering_for_ever(head: bytes, piece: bytes) -> Callable[[Peer], None]:
    """The script of an upstream whose response has no end."""

    def answer(peer: Peer) -> None:
        with suppress(OSError):
            peer.read_request()
            peer.send(head)
            while True:
                peer.send(piece)

    return answer
