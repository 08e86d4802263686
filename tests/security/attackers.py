"""Clients that mean harm, each a thread that goes on until its block ends."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

REFUSED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"


@contextmanager
def sending_for_ever(url: str, opening: bytes, piece: bytes) -> Iterator[None]:
    """One client that sends its opening, then its piece again and again, as fast as it is taken, and reads."""
    place = urlsplit(url)
    over = threading.Event()
    sock = socket.create_connection((place.hostname or "", place.port or 80), timeout=20)

    def send() -> None:
        with suppress(OSError):
            sock.sendall(opening)
            while not over.is_set():
                sock.sendall(piece)

    def read() -> None:
        with suppress(OSError):
            while sock.recv(1 << 20):
                pass

    threads = [threading.Thread(target=work, daemon=True) for work in (send, read)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)
        sock.close()
