"""The client's request body on its way up: read once, in pieces, within a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import SEEK_END
from itertools import chain
from typing import BinaryIO, Protocol

from llmproxy.errors import BadRequest, BodyTooLarge, ClientGone, SpoolUnavailable

PIECE_BYTES = 64 * 1024
# A body up to this size is read before the upstream is called: head and body then leave in one packet, and
# can be sent again when a pooled connection turns out to be dead.
HELD_BYTES = 64 * 1024


class ByteStream(Protocol):
    """What both servers give as ``wsgi.input``."""

    def read1(self, size: int, /) -> bytes:
        """
        What has arrived, up to `size` bytes, once there is any; b"" at the end.

        Raises:
            BadRequest: the chunks are malformed.
            ClientGone: the connection broke.
        """


class RequestBody:
    """
    A body of known length, or a chunked one.

    Args:
        stream: Where the client's bytes come from.
        length: Content-Length; None for a chunked body.
        is_announced: The client sent a Content-Length, maybe one of 0.
        max_bytes: More than this raises BodyTooLarge, at once where the length is known.
        client_is_gone: Tells a client that hung up from one that sent a broken body.
        on_end: Called once the client has sent everything.

    Attributes:
        bytes_read: What has been read of the client so far.
        waited_s: How long `hold_if_small` waited for the client.
        held: The whole body once `hold_if_small` has read it; None where it must be streamed.
    """

    __slots__ = (
        "_ahead", "_client_is_gone", "_give_back", "_max_bytes", "_on_end", "_spooled", "_stream", "bytes_read",
        "held", "is_announced", "length", "waited_s",
    )  # fmt: skip

    def __init__(
        self,
        stream: ByteStream,
        *,
        length: int | None,
        max_bytes: int,
        is_announced: bool = False,
        client_is_gone: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        if length is not None and length > max_bytes:
            raise BodyTooLarge(limit=max_bytes)
        self._stream = stream
        self._max_bytes = max_bytes
        self._client_is_gone = client_is_gone
        self._on_end = on_end
        self._give_back: Callable[[], None] | None = None
        self._ahead = bytearray()  # what was read of a chunked body that was too long to be held
        self._spooled: BinaryIO | None = None
        self.length = length
        self.is_announced = is_announced
        self.bytes_read = 0
        self.waited_s = 0.0
        self.held: bytes | None = None

    @property
    def has_arrived(self) -> bool:
        """The client has sent everything, and it is here."""
        return self.held is not None or self._spooled is not None

    def spool(self, file: BinaryIO, most: int) -> Iterator[bytes]:
        """
        Each piece of the body, on its way into a file from which all of it then goes up. Raises as iterating over it
        does, BodyTooLarge for more than `most` bytes, and SpoolUnavailable where the file takes no more.

        The file is closed where it does not come to its end.
        """
        began = time.perf_counter()
        size = 0
        try:
            for piece in self:
                size += len(piece)
                if size > most:
                    raise BodyTooLarge(limit=most)
                with spooling():
                    file.write(piece)
                yield piece
            with spooling():
                file.seek(0)  # writes what is still buffered
        except BaseException:
            with suppress(OSError):  # of what it could not write, which nobody wants
                file.close()
            raise
        self._spooled = file
        self.waited_s += time.perf_counter() - began

    def hold_if_small(self, most: int = HELD_BYTES) -> None:
        """Read a body of known length, up to `most` bytes, as a whole. Raises as iterating over it does."""
        if self.held is not None or self.length is None or self.length > most:
            return
        if self._spooled is not None:
            self.held = self._spooled.read()
            return
        began = time.perf_counter()
        held = self._read() if self.length else b""
        if len(held) == self.length:
            self.bytes_read = self.length
            self._on_end()
        else:
            self.bytes_read = len(held)
            whole = bytearray(held)  # a list of pieces, each of a few bytes, would take many times their size
            for piece in self:
                whole += piece
            held = bytes(whole)
        self.waited_s += time.perf_counter() - began
        self.held = held

    def gather(self, most: int) -> bool:
        """
        Hold a chunked body if it has `most` bytes at most; whether it is held. Raises as iterating over it does.

        What was read of a longer one stays: iterating over it begins with that, and a second call goes on from there.
        """
        if self.held is not None:
            return True
        if self._spooled is not None:
            return self._hold_spooled(self._spooled, most)
        if len(self._ahead) > most:
            return False
        began = time.perf_counter()
        for piece in self._arriving():
            self._ahead += piece
            if len(self._ahead) > most:
                break
        else:
            self.held, self._ahead = bytes(self._ahead), bytearray()
        self.waited_s += time.perf_counter() - began
        return self.held is not None

    def _hold_spooled(self, file: BinaryIO, most: int) -> bool:
        size = file.seek(0, SEEK_END)
        file.seek(0)
        self.held = file.read() if size <= most else None
        return self.held is not None

    def hold_in(self, room: Callable[[], None], most: int) -> None:
        """As `hold_if_small` or `gather`, in a room that was lent for that; given back by calling it, at `let_go`."""
        self._give_back = room
        if self.length is None:
            self.gather(most)
        else:
            self.hold_if_small(most)

    def let_go(self) -> None:
        """Drop what a room was lent for, or was spooled. Further calls do nothing."""
        if self._spooled is not None:
            self._spooled.close()
        if self._give_back is not None:
            give_back, self._give_back, self.held = self._give_back, None, None
            give_back()

    def __iter__(self) -> Iterator[bytes]:
        """
        The body in pieces, as they arrive.

        Raises:
            ClientGone: the client hung up before its body was complete.
            BadRequest: the chunks are malformed.
            BodyTooLarge: a chunked body went over the limit.
            BodyTooSlow: it did not keep to its pace.
        """
        if self._spooled is not None:
            self._spooled.seek(0)
            return iter(partial(self._spooled.read, PIECE_BYTES), b"")
        if not self._ahead:
            return self._arriving()
        ahead, self._ahead = bytes(self._ahead), bytearray()
        return chain((ahead,), self._arriving())

    def _arriving(self) -> Iterator[bytes]:
        while self.length is None or self.bytes_read < self.length:
            piece = self._read()
            if not piece:
                break
            self.bytes_read += len(piece)
            if self.bytes_read > self._max_bytes:
                raise BodyTooLarge(limit=self._max_bytes)
            yield piece
        if self.length is not None and self.bytes_read < self.length:
            raise ClientGone
        self._on_end()

    def _read(self) -> bytes:
        wanted = PIECE_BYTES if self.length is None else min(PIECE_BYTES, self.length - self.bytes_read)
        try:
            return self._stream.read1(wanted)
        except BadRequest as exc:
            # A body that breaks off within its framing looks like one whose framing is broken.
            if self._client_is_gone():
                raise ClientGone from exc
            raise


@contextmanager
def spooling() -> Iterator[None]:
    """Whatever a file refuses in here is SpoolUnavailable."""
    try:
        yield
    except OSError as exc:
        reason = SpoolUnavailable()
        reason.detail = str(exc)
        raise reason from exc
