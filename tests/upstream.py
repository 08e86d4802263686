"""
The tests' upstream whose every byte a test decides: a real TCP server that runs a script on each connection.

A script is a function of a Peer. It runs in a thread of its own; what it raises fails the test at the end of
the `with` block, and so does a script that never ran. What an upstream of OpenAI's does is `mock_openai`'s.
"""

import itertools
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

import trustme

from llmproxy.headers import Origin

WAIT_S = 60.0


class Peer:
    """
    The upstream's end of one connection.

    Attributes:
        socket: For what no method does.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_head(self) -> bytes:
        """A request's head, with the empty line that ends it."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.socket.recv(1)
            assert byte, f"the connection ended within a head: {head!r}"
            head += byte
        return head

    def read_exactly(self, size: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, "the connection ended early"
            data += piece
        return data

    def read_request(self) -> bytes:
        """A request with a body of known length, head and body."""
        head = self.read_head()
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b": ")
            if name.lower() == b"content-length":
                return head + self.read_exactly(int(value))
        return head

    def read_to_end(self) -> bytes:
        """Everything until the other side closes."""
        data = b""
        while piece := self.socket.recv(65536):
            data += piece
        return data

    def is_closed_by_other_side(self) -> bool:
        """Waits until the other side has closed its end."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def finish_sending(self) -> None:
        """Close this direction, and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()


Script = Callable[[Peer], None]


class ScriptedUpstream:
    """
    Listens for the length of a `with` block, running one of `scripts` for each connection in their order.

    Args:
        every: Instead of them, one script for as many connections as come; those still open at the end are cut.
        tls: Wraps every connection.
        family: AF_INET6 for [::1].

    Attributes:
        connections: How many came.
    """

    def __init__(
        self,
        *scripts: Script,
        every: Script | None = None,
        tls: ssl.SSLContext | None = None,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> None:
        self._scripts: Iterable[Script] = itertools.repeat(every) if every else scripts
        self._timeout_s = None if every else WAIT_S
        self._is_cut = False
        self._tls = tls
        self._errors: list[BaseException] = []
        self.connections = 0
        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._listener = socket.create_server((host, 0), family=family)
        self._listener.settimeout(self._timeout_s)
        port = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if tls else "http"
        self.origin = Origin(scheme, host, port, f"{shown}:{port}", "/v1")
        self.url = f"{scheme}://{self.origin.host_header}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._open: dict[threading.Thread, socket.socket] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timeout_s is None:
            self._cut()
        if error is not None:
            self._listener.close()
            return
        self.finish()

    def finish(self) -> None:
        """Wait until every script has run, and raise what one of them raised."""
        self._thread.join(WAIT_S)
        for worker in list(self._open):
            worker.join(WAIT_S)
        self._listener.close()
        if self._errors:
            raise self._errors[0]

    def _cut(self) -> None:
        """End what waits for a connection or for its other side."""
        self._is_cut = True
        for sock in [self._listener, *self._open.values()]:
            # Closing a socket does not wake who waits for it; shutting it down does.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        try:
            for script in self._scripts:
                sock, _ = self._listener.accept()
                sock.settimeout(self._timeout_s)
                self.connections += 1
                worker = threading.Thread(target=self._run, args=(script, sock), daemon=True)
                self._open[worker] = sock
                worker.start()
        except OSError as exc:
            self._failed(exc)

    def _run(self, script: Script, sock: socket.socket) -> None:
        try:
            with sock:
                wrapped = self._tls.wrap_socket(sock, server_side=True) if self._tls else sock
                with wrapped:
                    self._open[threading.current_thread()] = wrapped
                    if not self._is_cut:
                        script(Peer(wrapped))
        except BaseException as exc:
            self._failed(exc)
        finally:
            del self._open[threading.current_thread()]

    def _failed(self, error: BaseException) -> None:
        # What is cut off fails, and should.
        if not self._is_cut:
            self._errors.append(error)


def answering(*answers: bytes) -> Script:
    """A script that reads a request before each of its answers, then closes."""

    def script(peer: Peer) -> None:
        for answer in answers:
            peer.read_request()
            peer.send(answer)

    return script


def answering_json(body: bytes) -> Script:
    """A script that reads a request, answers 200 with such a body, then closes."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return answering(head % len(body) + body)


def keeping(*answers: bytes) -> Script:
    """A script that reads a request before each of its answers, then waits for the other side to close."""

    def script(peer: Peer) -> None:
        answering(*answers)(peer)
        assert peer.is_closed_by_other_side()

    return script


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """TLS for a ScriptedUpstream that calls itself by these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
