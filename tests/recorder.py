"""An upstream that keeps what it is sent byte for byte, and answers with exactly the bytes it is given."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.upstream import Peer, ScriptedUpstream

WAIT_S = 60.0
Pairs = list[tuple[str, str]]
Piece = bytes | threading.Event


@dataclass
class Received:
    """One request as it arrived; `chunks` are the pieces of a chunked body, None for another."""

    line: str
    headers: Pairs
    body: bytes = b""
    chunks: list[bytes] | None = None
    trailers: Pairs = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class RecordingUpstream(ScriptedUpstream):
    """Takes any number of connections, each for as long as its client wants."""

    def __init__(self) -> None:
        super().__init__(every=self._serve)
        self._answer: tuple[Piece, ...] = ()
        self._closes = False
        self._received: queue.Queue[Received] = queue.Queue()

    def answers(self, *pieces: Piece, closes: bool = False) -> None:
        """What every request gets from now on; at an event it waits for that. `closes` ends the connection then."""
        self._answer, self._closes = pieces, closes

    def received(self) -> Received:
        """The next request that was not taken yet, as soon as it is whole."""
        return self._received.get(timeout=WAIT_S)

    def forget(self) -> None:
        """Drop what was not taken."""
        while self.has_received():
            self._received.get_nowait()

    def has_received(self) -> bool:
        """Whether a request is there that was not taken yet."""
        return not self._received.empty()

    def _serve(self, peer: Peer) -> None:
        # A client may leave; what came is kept.
        with suppress(OSError), peer.socket.makefile("rb") as reader:
            while request := _read(reader):
                # The next test may set others as soon as this answer is read.
                pieces, closes = self._answer, self._closes
                self._received.put(request)
                for piece in pieces:
                    if isinstance(piece, bytes):
                        peer.send(piece)
                    elif not piece.wait(WAIT_S):
                        return
                if closes:
                    return


def _read(reader: BinaryIO) -> Received | None:
    """The next request; None when the connection ends instead."""
    line = reader.readline()
    if not line:
        return None
    request = Received(_text(line), list(_fields(reader)))
    if request.all("transfer-encoding"):
        request.chunks = list(_chunks(reader))
        request.body = b"".join(request.chunks)
        request.trailers = list(_fields(reader))
    else:
        request.body = reader.read(int((request.all("content-length") or ["0"])[0]))
    return request


def _chunks(reader: BinaryIO) -> Iterator[bytes]:
    while size := int(reader.readline().partition(b";")[0], 16):
        yield reader.read(size)
        assert reader.read(2) == b"\r\n"


def _fields(reader: BinaryIO) -> Iterator[tuple[str, str]]:
    while (line := _text(reader.readline())) != "":
        name, _, value = line.partition(":")
        yield name, value.strip(" \t")


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r\n").decode("latin-1")
