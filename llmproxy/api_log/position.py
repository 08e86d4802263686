"""
How far a reader has come, and where that is kept.

A position names a segment by its identity (see `segment`), the offset of the first unread byte in it, and
the segments that were read to their end. So a reader finds its place again after renames, copies and
deletions, and no order of file names can make it skip one. `tail` is a digest of the bytes just before the
offset: when they changed, somebody edited the file, and the segment is read again from its start.

A position kept in `positions/<name>.json` also *registers* the reader: the cap on disk use (see
`retention`) spares what registered readers have not passed. A reader that keeps its position elsewhere (in
a database, in the transaction of its sums) saves a copy here after each commit; an old copy only keeps
files longer.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson

logger = logging.getLogger(__name__)

# Longer than a usual line, so that the id of the last record read is in it.
_TAIL_BYTES = 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
# Segments that are gone are forgotten, but not at once: one that is being renamed may be missing from a
# listing of the directory, and would be read a second time.
_MAX_DONE = 64


@dataclass(frozen=True, slots=True)
class Position:
    """The start of the first unread line. The default is the start of everything."""

    segment: str | None = None
    offset: int = 0
    tail: str = ""
    done: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        return orjson.dumps({"version": 1, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> "Position":
        """The position in a file's or a row's bytes; ValueError when they hold none."""
        match orjson.loads(data):
            case {
                "version": 1,
                "segment": str() | None as segment,
                "offset": int(offset),
                "tail": str(tail),
                "done": [*done],
            }:
                if offset >= 0 and all(isinstance(item, str) for item in done):
                    return cls(segment, offset, tail, tuple(done))
        raise ValueError("this is no position of version 1")

    def moved_to(self, segment: str, *, finished: bool, existing: set[str]) -> "Position":
        """The start of another segment; the present one is not read again when it is finished."""
        done = [*self.done, self.segment] if self.segment and finished else list(self.done)
        recent = set(done[-_MAX_DONE:])
        return Position(segment, 0, "", tuple(item for item in done if item in existing or item in recent))

    def owed_bytes(self, segment: str, size: int) -> int:
        """Bytes of a segment that are not read yet."""
        if segment in self.done:
            return 0
        return max(0, size - self.offset) if segment == self.segment else size


def tail_of(fd: int, offset: int) -> str:
    """The digest of the bytes just before an offset; empty at the start of a file."""
    start = max(0, offset - _TAIL_BYTES)
    return hashlib.sha256(os.pread(fd, offset - start, start)).hexdigest()[:16] if offset else ""


class PositionStore(Protocol):
    """Where a reader's position is kept. `load` gives the start of everything when there is none."""

    def load(self) -> Position: ...

    def save(self, position: Position) -> None: ...


class FilePositions:
    """
    A position in `<directory>/<name>.json`, replaced as a whole: after a crash it is the old one or the new
    one.

    A file that cannot be understood is warned about and means the start of everything: records are then read
    again, none is skipped. `fsync` can be handed to a thread by a process that must not stand still.
    """

    def __init__(self, directory: Path, name: str, *, fsync: Callable[[int], None] = os.fsync) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a reader is named in lower-case letters, digits, dot, dash, underscore: {name!r}")
        self.path = directory / f"{name}.json"
        self._fsync = fsync

    def load(self) -> Position:
        try:
            return Position.from_json(self.path.read_bytes())
        except FileNotFoundError:
            return Position()
        except ValueError as exc:
            logger.warning("%s is damaged (%s): reading every record again", self.path.name, exc)
            return Position()

    def save(self, position: Position) -> None:
        """OSError when the disk does not take it; the old position stays then."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One holder of the reader's lock writes here, so one temporary name is enough.
        temporary = self.path.with_suffix(".tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = position.to_json()
            if os.write(fd, data) != len(data):
                raise OSError(28, "no space for the position")
            self._fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self.path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fsync(fd)
        finally:
            os.close(fd)


def registered_positions(directory: Path) -> dict[str, Position]:
    """The last saved position of every registered reader, by its name."""
    names = sorted(path.stem for path in directory.glob("*.json") if _NAME.fullmatch(path.stem))
    return {name: FilePositions(directory, name).load() for name in names}
