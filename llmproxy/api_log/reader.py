"""
Reads the call log from a saved position, over rotated segments, at least once.

Guarantees:
* A batch is read again until its position is saved, so a `kill -9` at any instant skips nothing. A store that
  saves the position in the transaction that uses the records (see `PositionStore`) gets every record exactly
  once.
* Records of one segment come in the order of the file, segments oldest first.
* A line counts once its newline is there. In a segment that nobody appends to any more a last line without
  one is read too, or counted as torn. Lines that are no record are counted and stepped over.
* Rotation by renaming or by copytruncate is followed. A file that was cut or edited by hand is read again
  from its start. One that vanished before it was read to its end is warned about and counted.
* One process at a time: a second one gets ReaderBusy, and may take over when the first one ends.

A segment is left behind only when it is not the file at the path any more *and* nobody writes to it: every
writer holds a shared flock on its file, so the exclusive one proves that. Where it cannot be had (an idle
process, a file system without flock), SETTLE_S without a change must do.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmproxy.api_log.file_lock import FileLock, is_file_at
from llmproxy.api_log.lag import Lag, measure_lag
from llmproxy.api_log.lines import Cut, cut
from llmproxy.api_log.position import FilePositions, Position, PositionStore, tail_of
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import MAX_LINE_BYTES
from llmproxy.api_log.segment import list_segments, open_segment, segment_id

logger = logging.getLogger(__name__)

SETTLE_S = 60.0
# To replace a file, some file systems wait for the disk. A copy of a position that is a second old will do.
REGISTER_S = 1.0
MAX_BATCH_RECORDS = 1000
MAX_BATCH_BYTES = 1 << 20
# More than most have. A mebibyte read for the sake of fifty lines takes longer than all that is done with them.
USUAL_LINE_BYTES = 1 << 10
# Pieces of lines that were no record; segments read again from their start because somebody changed them; segments
# that vanished under the position.
Damage = Literal["torn", "changed", "missing"]


class ReaderBusy(Exception):
    """Another process reads under this name. Stand by, or leave it to that one."""


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Records in order, and the position after them.

    Attributes:
        size: Bytes of the segment that this batch covers; 0 means that there was nothing new.
        torn: Pieces of lines that were no record.
        offsets: Where the line of each record begins in the segment of the position.
    """

    records: list[ReadRecord]
    position: Position
    size: int = 0
    torn: int = 0
    offsets: tuple[int, ...] = ()


class LogReader:
    """
    One named reader of the log at `path`.

    `read_batch` gives the same records again until `commit` (which saves the position) or `advance` moves on.
    Positions and locks are kept in `positions/` beside the log.

    Args:
        positions: Keeps the position instead.
        on_damage: Is told what was wrong with the log, and how often.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        positions: PositionStore | None = None,
        on_damage: Callable[[Damage, int], object] = lambda _kind, _count: None,
        fsync: Callable[[int], None] = os.fsync,
        settle_s: float = SETTLE_S,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.name = name
        directory = path.parent / "positions"
        # A position kept elsewhere is copied here, for the cap on disk use; the copy may be old, so no fsync.
        self._registration = FilePositions(directory, name, fsync=_no_sync if positions else fsync)
        self.positions: PositionStore = positions or self._registration
        self._is_copied = positions is not None
        self._lock = FileLock(directory / f"{name}.lock")
        self._on_damage = on_damage
        self._fsync = fsync
        self._settle_s = settle_s
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._position = Position()
        self._registered: Position | None = None
        self._register_at = 0.0
        self._fd = -1

    def acquire(self) -> None:
        """Becomes the only reader of this name; ReaderBusy when another process is."""
        if self._lock.is_held:
            return
        self._lock.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            raise ReaderBusy(f"another process reads the call log as {self.name!r}")
        try:
            self._position = self.positions.load()
        except BaseException:
            self._lock.release()
            raise
        # At once, so that nothing is deleted which this reader has not seen yet.
        self._register()

    def register(self) -> None:
        """
        From now on nothing is deleted in silence which this reader has not seen, though it has never read yet.

        Whoever reads under this name at this moment has done that. OSError: it could not be noted.
        """
        if self._registration.path.exists():
            return
        self._lock.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._lock.acquire():
            return
        try:
            if not self._registration.path.exists():
                self._registration.save(Position())
        finally:
            self._lock.release()

    def read_batch(self, *, max_records: int = MAX_BATCH_RECORDS, max_bytes: int = MAX_BATCH_BYTES) -> Batch:
        """
        What follows the position, from one segment, at least one line where there is one; empty at the end. Where
        lines are long, fewer than `max_records` of them.

        A batch without records may still have a new position (damaged lines were stepped over): commit it
        too.
        """
        self.acquire()
        max_bytes = min(max_bytes, max_records * USUAL_LINE_BYTES)
        while self._is_open_at_the_position() or self._has_another_to_open():
            if self._fd < 0:
                continue
            found, is_finished = self._read(max_records, max_bytes)
            if found.used or not is_finished or not self._moves_on(finished=True):
                return self._batch(found)
        return Batch([], self._position)

    def commit(self, batch: Batch) -> None:
        """Saves the batch's position in the store and moves on. OSError: not saved, and not moved on."""
        if self._fd >= 0:
            # First, so that a power cut cannot leave a position past the file's end.
            self._fsync(self._fd)
        self.positions.save(batch.position)
        self.advance(batch)

    def advance(self, batch: Batch) -> None:
        """Moves on in memory only: after a crash, the batch comes again."""
        self._position = batch.position
        if batch.torn:
            self._on_damage("torn", batch.torn)
        if self._is_copied and self._monotonic() >= self._register_at:
            self._register_at = self._monotonic() + REGISTER_S
            self._register()

    def lag(self, *, count_records: bool = False) -> Lag:
        """How far this reader is behind; asked without the lock it speaks of the stored position."""
        position = self._position if self._lock.is_held else self.positions.load()
        return measure_lag(self.path, position, count_records=count_records)

    def close(self) -> None:
        """Lets another process read. What was not committed will be read again."""
        if self._lock.is_held and self._is_copied and self._position != self._registered:
            self._register()
        self._close_file()
        self._lock.release()

    def _register(self) -> None:
        # An old or missing copy keeps more on the disk than needed; that is no reason to stop reading.
        with suppress(OSError):
            self._registration.save(self._position)
            self._registered = self._position

    def _batch(self, found: Cut) -> Batch:
        offset = self._position.offset + found.used
        position = self._position
        if found.used:
            position = replace(position, offset=offset, tail=tail_of(self._fd, offset))
        offsets = tuple(map(self._position.offset.__add__, found.offsets))
        return Batch(found.records, position, found.used, found.torn, offsets)

    def _read(self, max_records: int, max_bytes: int) -> tuple[Cut, bool]:
        """What can be cut at the position, and whether nothing will ever be added to the segment."""
        found = cut(self._stretch(max_bytes), max_lines=max_records)
        if found.used or not self._is_finished():
            return found, False
        # Read again: the last line may have come between the first look and the proof that nobody writes.
        data = self._stretch(max_bytes)
        is_last = self._position.offset + len(data) >= os.fstat(self._fd).st_size
        return cut(data, max_lines=max_records, is_last=is_last), True

    def _stretch(self, max_bytes: int) -> bytes:
        """Bytes from the position on: `max_bytes`, or one line where that is longer."""
        data = os.pread(self._fd, max_bytes, self._position.offset)
        if len(data) < max_bytes or b"\n" in data:
            return data
        data = os.pread(self._fd, MAX_LINE_BYTES + 1, self._position.offset)
        end = data.find(b"\n")
        if end < 0 and len(data) > MAX_LINE_BYTES:
            # Longer than any record: not ours. Taken as a line, it counts as torn and is stepped over.
            return data[:-1] + b"\n"
        return data[: end + 1] if end >= 0 else data

    def _is_open_at_the_position(self) -> bool:
        """Whether the open file is still the position's segment; opens that wherever it is now."""
        wanted = self._position.segment
        if wanted is None:
            return False
        if self._fd < 0 or segment_id(self._fd) != wanted:
            self._close_file()
            self._fd = open_segment(self.path, wanted)
        if self._fd < 0:
            return False
        if os.fstat(self._fd).st_size < self._position.offset or not self._has_its_tail():
            self._restart()
        return True

    def _has_its_tail(self) -> bool:
        return tail_of(self._fd, self._position.offset) == self._position.tail

    def _restart(self) -> None:
        self._on_damage("changed", 1)
        logger.warning("A call log was changed by hand: %r reads it again from its start", self.name)
        self._position = replace(self._position, offset=0, tail="")

    def _has_another_to_open(self) -> bool:
        """
        For a position whose segment is nowhere: whether there is another one to go on with.

        While there is none the position stays: the directory may be away for a moment only.
        """
        was = self._position.segment
        if not self._moves_on(finished=False):
            return False
        if was is not None:
            self._on_damage("missing", 1)
            logger.warning("A call log is gone that %r was reading: unread records may be lost", self.name)
        return True

    def _moves_on(self, *, finished: bool) -> bool:
        """Whether there is an unread segment to go to; the position is its start then."""
        segments = list_segments(self.path)
        read = {*self._position.done, self._position.segment}
        following = next((segment for segment in segments if segment.id not in read), None)
        if following is None:
            return False
        self._close_file()
        existing = {segment.id for segment in segments}
        self._position = self._position.moved_to(following.id, finished=finished, existing=existing)
        return True

    def _is_finished(self) -> bool:
        if is_file_at(self.path, self._fd):
            return False
        return _has_no_writer(self._fd) or self._has_settled()

    def _has_settled(self) -> bool:
        status = os.fstat(self._fd)
        return self._wall_clock() - max(status.st_mtime, status.st_ctime) >= self._settle_s

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _has_no_writer(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _no_sync(fd: int) -> None:
    """For files whose old content is as good as the new."""
