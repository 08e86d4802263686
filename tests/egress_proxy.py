"""An egress proxy of the tests: it knows every name, and takes it for this machine."""

import base64
import re
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit

from tests.upstream import Peer, ScriptedUpstream

CREDENTIALS = "planted-user:planted-p%40ssword"
_BASIC = base64.b64encode(b"planted-user:planted-p@ssword")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)\r\n")
_OWN_FIELD = re.compile(rb"(?i)\r\nproxy-[^\r]*")


class EgressProxyServer(ScriptedUpstream):
    """
    Passes on requests in absolute form, and opens tunnels, for whoever has its credentials.

    Attributes:
        asked: The request lines of all that came.
        refuses: A status to answer to everybody, instead.
        is_silent: It never answers.
        proxy_url: What HTTPS_PROXY is set to.
    """

    def __init__(self) -> None:
        super().__init__(every=self._serve)
        self.asked: list[str] = []
        self.refuses: int | None = None
        self.is_silent = False
        self.proxy_url = self.url.replace("://", f"://{CREDENTIALS}@")

    def _serve(self, peer: Peer) -> None:
        # Clients and servers leave as they like.
        with suppress(OSError, AssertionError):
            self._pass_on(peer)

    def _pass_on(self, peer: Peer) -> None:
        upstream: socket.socket | None = None
        while True:
            head = peer.read_head()
            self.asked.append(head.partition(b"\r\n")[0].decode())
            if self.is_silent:
                peer.read_to_end()
            if status := self._refusal(head):
                peer.send(
                    b"HTTP/1.1 %d planted-reason\r\nContent-Length: 7\r\nConnection: close\r\n\r\nplanted" % status
                )
                return
            method, target, _ = head.split(b" ", 2)
            if method == b"CONNECT":
                upstream = self._connect(peer, target.decode())
                peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                _copy(peer.socket, upstream)
                return
            url = urlsplit(target.decode())
            upstream = upstream or self._connect(peer, url.netloc)
            origin_form = target.split(b"/", 3)[3]
            upstream.sendall(_OWN_FIELD.sub(b"", head).replace(target, b"/" + origin_form, 1))
            if length := _LENGTH.search(head):
                upstream.sendall(peer.read_exactly(int(length[1])))

    def _refusal(self, head: bytes) -> int | None:
        is_known = b"\r\nProxy-Authorization: Basic " + _BASIC + b"\r\n" in head
        return self.refuses or (None if is_known else 407)

    def _connect(self, peer: Peer, place: str) -> socket.socket:
        upstream = socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])))
        threading.Thread(target=_copy, args=(upstream, peer.socket), daemon=True).start()
        return upstream


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """What comes from the one goes to the other, and so does its end."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (sink, source):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
