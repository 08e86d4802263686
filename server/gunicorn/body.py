"""
Request bodies, of which what has arrived can be read without waiting for more. gunicorn's wait until as much is there
as was asked for, and a live upload would go up in lumps.

What is refused is what gunicorn refuses: a chunk's size is recognised as a whole by one regular expression, and what
differs from it in the least, the last chunk and its trailers among it, goes to gunicorn's parser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Protocol

from gunicorn.http import body
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData, ParseException
from gunicorn.http.unreader import Unreader

from llmproxy.errors import BadRequest, ClientGone

MAX_SIZE_DIGITS = 8
# The end of a chunk, and the size of the next, which is not the last one, with its extensions.
_next_size = re.compile(
    rb"\r\n0*+([1-9A-Fa-f][0-9A-Fa-f]{0,%d})(?:%b)\r\n" % (MAX_SIZE_DIGITS - 1, body.CHUNK_EXT_RE.pattern)
).match


class Reader(Protocol):
    """Where a body's bytes come from."""

    def read(self, size: int, /) -> bytes:
        """So many bytes; fewer at the end."""

    def read1(self, size: int, /) -> bytes:
        """What has arrived, up to `size` bytes, once there is any; b"" at the end."""

    @property
    def unread_bytes(self) -> float:
        """How much may still be to come; infinity where nobody can tell."""


class Body(body.Body):  # type: ignore[misc]
    """gunicorn's body of a Reader. Reading raises BadRequest where it is malformed, ClientGone where it breaks."""

    reader: Reader

    @property
    def unread_bytes(self) -> float:
        """As a Reader has it."""
        return math.inf if self.failed else self.reader.unread_bytes

    def read1(self, size: int, /) -> bytes:
        """As a Reader has it."""
        if held := self.buf.tell():  # by `read`
            return bytes(self.read(min(size, held)))
        return self._ask(self.reader.read1, size)

    def _read_reader(self, size: int) -> bytes:
        return self._ask(self.reader.read, size)

    def _ask(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except BaseException as exc:
            self.failed = True  # whatever it was, where the next request begins is not known
            if isinstance(exc, ParseException):
                raise BadRequest("The request body does not keep to its framing.") from exc
            if isinstance(exc, OSError):
                raise ClientGone from exc
            raise


class LengthReader(body.LengthReader):  # type: ignore[misc]
    """gunicorn's reader of a body of known length."""

    @property
    def unread_bytes(self) -> float:
        """As a Reader has it."""
        length: int = self.length
        return length

    def read1(self, size: int, /) -> bytes:
        """As a Reader has it."""
        wanted = min(size, self.length)
        data: bytes = self.unreader.read(None, read_ahead=wanted) if wanted else b""
        if len(data) > wanted:
            self.unreader.unread(data[wanted:])
            data = data[:wanted]
        self.length -= len(data)
        return data


class ChunkedReader(body.ChunkedReader):  # type: ignore[misc]
    """gunicorn's reader of a chunked body, with a loop of its own around gunicorn's parser."""

    def __init__(self, req: Any, unreader: Unreader) -> None:
        super().__init__(req, unreader)
        self.parser = None  # gunicorn's loop
        self._unreader = unreader
        self._left = 0  # of the present chunk
        self._has_begun = self._is_over = False

    @property
    def unread_bytes(self) -> float:
        """As a Reader has it."""
        return 0 if self._is_over else math.inf

    def read(self, size: int, /) -> bytes:
        """As a Reader has it."""
        pieces, wanted = [], size
        while wanted and (piece := self.read1(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def read1(self, size: int, /) -> bytes:
        """As a Reader has it: the data of all chunks that have arrived, together."""
        if not self._left and not self._begin_chunk():
            return b""
        data = self._unreader.read(None, read_ahead=size)
        if not data:
            raise NoMoreData
        pieces, position, wanted = [], 0, size
        while True:
            piece = data[position : position + min(wanted, self._left)]
            pieces.append(piece)
            position += len(piece)
            wanted -= len(piece)
            self._left -= len(piece)
            if self._left or not wanted or (found := _next_size(data, position)) is None:
                break
            position, self._left = found.end(), int(found[1], 16)
        if position < len(data):
            self._unreader.unread(data[position:])
        return b"".join(pieces)

    def _begin_chunk(self) -> bool:
        """Read up to the data of the next chunk. False when there is none."""
        if self._is_over:
            return False
        rest = self._after_chunk() if self._has_begun else b""
        self._has_begun = True
        self._left, rest = self.parse_chunk_size(self._unreader, data=rest)
        self._is_over = not self._left
        if rest:  # what follows the last chunk has gone to the unreader already
            self._unreader.unread(rest)
        return not self._is_over

    def _after_chunk(self) -> bytes:
        """What has arrived behind the end of a chunk."""
        data = b""
        while len(data) < 2 and (more := self._unreader.read()):
            data += more
        if not data.startswith(b"\r\n"):
            raise ChunkMissingTerminator(data[:2])
        return data[2:]
