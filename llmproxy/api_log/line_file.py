"""
Files of lines that only grow, beside the call log: adding to them whole lines alone, and measuring them again and
again without reading anything twice.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from llmproxy.turns import give_way

# Longer than any line. Between two pieces calls that are being forwarded get their turn.
_PIECE_BYTES = 2 << 20
# What stands at a file's start tells it from another one of its name: a time and an id.
_HEAD_BYTES = 256


def append(path: Path, lines: bytes, *, fsync: Callable[[int], None] = lambda _: None) -> None:
    """
    Add whole lines, after a newline where the last one was left torn.

    Raises:
        OSError: the disk does not take them; what it took is left, to be added again as a whole.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(fd, lines) != len(lines):
            raise OSError(28, f"no space for {path.name}")
        fsync(fd)
    finally:
        os.close(fd)


class Addable(Protocol):
    """What can be summed up."""

    def __add__(self, other: Self, /) -> Self: ...


T = TypeVar("T", bound=Addable)


class Tally(Generic[T]):
    """
    What the lines of a file come to. Each is read once, however often it is asked.

    Args:
        measure: What some whole lines come to.
        nothing: What no line comes to.
    """

    def __init__(self, path: Path, measure: Callable[[bytes], T], nothing: T) -> None:
        self._path = path
        self._measure = measure
        self._nothing = self._sum = nothing
        self._head = b""
        self._offset = 0

    def total(self) -> T:
        """The sum by now; that of the last time where the file cannot be read, and nothing where there is none."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._restart(b"")
            return self._sum
        except OSError:
            return self._sum
        try:
            self._read_on(fd)
        except OSError:
            pass
        finally:
            os.close(fd)
        return self._sum

    def _read_on(self, fd: int) -> None:
        head = os.pread(fd, _HEAD_BYTES, 0)
        if not head.startswith(self._head) or os.fstat(fd).st_size < self._offset:
            self._restart(head)
        self._head = head
        while piece := self._next_piece(fd):
            self._sum += self._measure(piece)
            self._offset += len(piece)
            give_way()

    def _next_piece(self, fd: int) -> bytes:
        """Whole lines that were not read yet; a piece that has no end of a line is passed over as it is."""
        piece = os.pread(fd, _PIECE_BYTES, self._offset)
        end = piece.rfind(b"\n") + 1
        return piece if not end and len(piece) == _PIECE_BYTES else piece[:end]

    def _restart(self, head: bytes) -> None:
        self._head, self._offset, self._sum = head, 0, self._nothing
