"""A client that sends exactly the bytes it is told to, and hides nothing of what comes back."""

import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
Pairs = list[tuple[str, str]]


class Broken(Exception):
    """The connection ended within an answer; `body` is what had come of it."""

    def __init__(self, body: bytes = b"") -> None:
        self.body = body
        super().__init__(f"the connection ended within an answer, after {len(body)} bytes of its body")


@dataclass
class Answer:
    """An answer as it came. `framing` is length, chunked, close or none; `length` is what came of the body."""

    version: str
    status: int
    reason: str
    headers: Pairs
    framing: str
    chunks: list[bytes] = field(default_factory=list)
    trailers: Pairs = field(default_factory=list)
    length: int = 0
    is_whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        """The value of a header that must be there exactly once."""
        (value,) = self.all(name)
        return value


class HandClient:
    """
    One connection.

    Args:
        url: Of the server.
        receive_buffer: Bytes that the kernel may hold for a client that does not read.
        source: The address to come from; all of 127.0.0.0/8 are this machine's.
    """

    def __init__(self, url: str, *, receive_buffer: int | None = None, source: str | None = None) -> None:
        place = urlsplit(url)
        self.host = place.netloc
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.sock.bind((source, 0))
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect((place.hostname or "", place.port or 80))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """These bytes."""
        self.sock.sendall(data)

    def finish_sending(self) -> None:
        """Close this direction, and go on reading. A server that has ended the connection already does not mind."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def send_request(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        body: bytes | None = None,
        version: str = "1.1",
    ) -> None:
        """A request with a Host header, these, and a Content-Length where there is a body."""
        lines = [f"{method} {target} HTTP/{version}", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [] if body is None else [f"Content-Length: {len(body)}"]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def call(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        body: bytes | None = None,
        version: str = "1.1",
    ) -> Answer:
        """Send a request, and read the whole answer."""
        self.send_request(method, target, *headers, body=body, version=version)
        return self.read_answer(method)

    def read_answer(self, method: str = "GET") -> Answer:
        """The next answer, whole, without informational ones before it. Raises Broken when it is cut off."""
        while (answer := self.read_head(method)).status < 200:
            pass
        return self.read_rest(answer)

    def read_rest(self, answer: Answer) -> Answer:
        """The same answer, its body read to the end. Raises Broken."""
        while self.read_chunk(answer):
            pass
        return answer

    def read_head(self, method: str = "GET") -> Answer:
        """The next answer without its body. Raises Broken."""
        version, _, rest = self._line().partition(" ")
        status, _, reason = rest.partition(" ")
        answer = Answer(version, int(status), reason, self._fields(), "close")
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            answer.framing = "none"
        elif answer.all("transfer-encoding") == ["chunked"]:
            answer.framing = "chunked"
        elif answer.all("content-length"):
            answer.framing = "length"
        return answer

    def read_chunk(self, answer: Answer) -> bytes:
        """More of the body: one chunk, or what one read brings; b"" at its clean end. Raises Broken."""
        if answer.is_whole:
            return b""
        match answer.framing:
            case "none":
                piece = b""
            case "chunked":
                piece = self._wire_chunk(answer)
            case "length":
                left = int(answer["content-length"]) - answer.length
                piece = self._some(left, answer) if left else b""
            case _:
                piece = self._some(65536, answer, may_end=True)
        answer.is_whole = not piece
        if piece:
            answer.length += len(piece)
            answer.chunks.append(piece)
        return piece

    def read_to_end(self) -> bytes:
        """All that still comes, whatever it is, until the connection ends in whatever way."""
        data = b""
        try:
            while piece := self._reader.read1(65536):
                data += piece
        except ConnectionError:
            pass
        return data

    def _wire_chunk(self, answer: Answer) -> bytes:
        size = int(self._line(answer).partition(";")[0], 16)
        if size == 0:
            answer.trailers = self._fields()
            return b""
        piece = self._reader_read(size)
        if len(piece) < size or self._line(answer):
            raise Broken(answer.body + piece)
        return piece

    def _some(self, size: int, answer: Answer, *, may_end: bool = False) -> bytes:
        try:
            piece = self._reader.read1(min(size, 65536))
        except ConnectionError:
            raise Broken(answer.body) from None
        if not piece and not may_end:
            raise Broken(answer.body)
        return piece

    def _reader_read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except ConnectionError:
            return b""

    def _line(self, answer: Answer | None = None) -> str:
        try:
            line = self._reader.readline()
        except ConnectionError:
            line = b""
        if not line.endswith(b"\r\n"):
            raise Broken(answer.body if answer else b"")
        return line[:-2].decode("latin-1")

    def _fields(self) -> Pairs:
        pairs = []
        while line := self._line():
            name, _, value = line.partition(":")
            pairs.append((name, value.strip(" \t")))
        return pairs

    def has_ended(self) -> bool:
        """Waits for whatever the server does next; True when that is closing the connection."""
        try:
            return not self._reader.read1(1)
        except ConnectionError:
            return True

    def close(self, *, reset: bool = False) -> None:
        """Hang up; by RST when `reset`."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._reader.close()
        self.sock.close()


def call(
    url: str,
    method: str,
    target: str,
    *headers: tuple[str, str],
    body: bytes | None = None,
    version: str = "1.1",
    source: str | None = None,
) -> Answer:
    """One call on a connection of its own."""
    with HandClient(url, source=source) as client:
        return client.call(method, target, *headers, body=body, version=version)
