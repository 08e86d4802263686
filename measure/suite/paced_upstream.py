"""
An upstream for one purpose: many streams of server-sent events at a pace, each event with the time when it was sent.

    python -m measure.suite.paced_upstream PORT

A request's query says what it wants: ``events`` in all, ``per_s`` of them. One loop over all connections, and the
streams take turns, so that it costs a tenth of what it measures. Whatever asks for no events gets the sample's
response.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import sys
import time
from urllib.parse import parse_qs, urlsplit

from measure.suite.sample import CHUNK, RESPONSE

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: req_0123456789abcdef\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(RESPONSE)
JSON += RESPONSE.encode()
EVENT = b'data: {"sent_ns":%d,' + json.dumps(CHUNK).encode()[1:] + b"\n\n"
# Sends of less than this lie together: the loop wakes up a thousand times a second at most.
TICK_S = 0.001


class Stream:
    """One response under way."""

    def __init__(self, sock: socket.socket, events: int, per_s: float) -> None:
        self.sock = sock
        self._left = events
        self._gap_s = 1 / per_s
        self.due = time.monotonic() + self._gap_s

    def __lt__(self, other: Stream) -> bool:
        return self.due < other.due

    def send(self) -> bool:
        """Send the event that is due; False when it was the last."""
        event = EVENT % time.monotonic_ns()
        self._left -= 1
        end = b"" if self._left else b"0\r\n\r\n"
        self.sock.send(b"%x\r\n%b\r\n%b" % (len(event), event, end))
        self.due += self._gap_s
        return self._left > 0


class PacedUpstream:
    """The server's one loop."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._streams: list[Stream] = []

    def serve(self) -> None:
        """Until the process is ended."""
        while True:
            wait_s = max(TICK_S, self._streams[0].due - time.monotonic()) if self._streams else None
            for key, _ in self._selector.select(wait_s):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.fileobj, key.data)  # type: ignore[arg-type]
            now = time.monotonic()
            while self._streams and self._streams[0].due <= now:
                stream = heapq.heappop(self._streams)
                try:
                    if stream.send():
                        heapq.heappush(self._streams, stream)
                except OSError:
                    pass  # its reader has gone, or reads too slowly to be one

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, bytearray())

    def _read(self, sock: socket.socket, received: bytearray) -> None:
        try:
            piece = sock.recv(65536)
        except OSError:
            piece = b""
        if not piece:
            self._selector.unregister(sock)
            sock.close()
            return
        received += piece
        head, end, body = received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or 0):
            received.clear()
            self._answer(sock, head.split(b" ", 2)[1].decode())

    def _answer(self, sock: socket.socket, target: str) -> None:
        asked = parse_qs(urlsplit(target).query)
        if "events" not in asked:
            sock.send(JSON)
            return
        sock.send(HEAD)
        heapq.heappush(self._streams, Stream(sock, int(asked["events"][0]), float(asked["per_s"][0])))


if __name__ == "__main__":
    PacedUpstream(int(sys.argv[1])).serve()
