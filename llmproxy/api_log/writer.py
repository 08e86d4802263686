"""
Appends records to `api_logs.jsonl`: one write(2) per line, from any number of processes, never on the
client's time.

Guarantees:
* A record is written by a single write on an O_APPEND descriptor, so lines of several processes never mix,
  and a line that was written survives `kill -9`.
* `write` never raises and never waits. What cannot be written (disk full, read-only, directory gone) waits in
  `pending_bytes` of memory, in order, and is written before anything newer once there is room. Beyond that
  bound a record is lost, counted and warned about.
* A disk that fills up in the middle of a line leaves half of it. The whole line is written again later,
  after a newline that ends the half one; readers step over the half.
* A file that was renamed, deleted or replaced is noticed within RECHECK_S. Until then lines go to the old
  file, and are read there: a writer holds a shared flock on the file it writes to, so a reader that gets
  the exclusive one knows that nobody will append any more.
* A file that reached `max_file_bytes` is renamed to a segment by whichever process sees it first. That process
  also holds the log under `max_total_bytes` (see `retention`), in `enforce_cap`.
"""

import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from llmproxy.api_log.file_lock import is_file_at
from llmproxy.api_log.record import CallRecord
from llmproxy.api_log.refusals import Refusals
from llmproxy.api_log.retention import Dropped, enforce_cap
from llmproxy.api_log.segment import rotate

logger = logging.getLogger(__name__)

PENDING_BYTES = 16 << 20
# A stat costs as much as the write itself, so the path is compared with the open file ten times a second
# only.
RECHECK_S = 0.1
WARN_EVERY_S = 60.0
# Writing out what waited may not hold up the caller: this many lines at a time, about a millisecond.
FLUSH_LINES = 500
# Free space under which LOG_STRICT refuses calls: room for the records of the calls already under way.
STRICT_RESERVE_BYTES = 1 << 20


class LogWriter:
    """
    One process's end of the call log, which opens it with its first record: after the fork. Threads and greenlets may
    share it.

    The hot path touches one descriptor whose number never changes (a new file is put behind the same number
    by dup2), everything else happens under a lock.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_file_bytes: int,
        max_total_bytes: int,
        file_mode: int = 0o600,
        pending_bytes: int = PENDING_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path = path
        self._max_file_bytes = max_file_bytes
        self._max_total_bytes = max_total_bytes
        self._file_mode = file_mode
        self._max_pending_bytes = pending_bytes
        self._monotonic = monotonic
        self._now = now
        self._lock = threading.RLock()
        self._fd = -1
        self._is_open = False
        self._owes_newline = False
        self._is_plain = False  # open, nothing pending, nothing owed: a line may be written straight away
        self._check_at = -1.0
        self._warn_at = -1.0
        self._pending: deque[tuple[bytes, int]] = deque()  # lines, and how many calls each stands for
        self._pending_bytes = 0
        self._lost = 0
        self._is_cap_due = False  # this process has rotated the log since it was last held under its cap
        self._dropped = Dropped()
        self._refusals = Refusals(self.write, monotonic=monotonic)

    def write(self, record: CallRecord) -> bool:
        """True when the record is in the file now; False when it waits in memory or is lost (and counted)."""
        try:
            line = record.to_line()
            if not self._is_plain or self._monotonic() >= self._check_at:
                return self._write_in_turn(line, record.count)
            return self._append(line) or self._keep(line, record.count)
        except Exception:
            # The log may fail; the call that it describes may not.
            self._lost += record.count
            self._warn("A call record could not be written and is lost", exc_info=True)
            return False

    def write_refusal(self, record: CallRecord) -> None:
        """The same for a call that nobody was admitted for: written now, or counted in a line of the next seconds."""
        self._refusals.add(record)

    def can_write(self) -> bool:
        """Whether a record would be written now, for callers that refuse work that cannot be logged."""
        if self.flush_pending() or not self._is_open:
            return False
        try:
            space = os.fstatvfs(self._fd)
        except OSError:
            return False
        is_read_only = bool(space.f_flag & os.ST_RDONLY)
        return not is_read_only and space.f_bavail * space.f_frsize >= STRICT_RESERVE_BYTES

    def enforce_cap(self) -> None:
        """
        Deletes what the log has grown by too much since the last rotation of this process. May take a while.

        Meant to be called about once a second, beside calls: it is on no call's path.
        """
        if not self._is_cap_due:
            return
        dropped = enforce_cap(self.path, self.path.parent / "positions", self._max_total_bytes)
        if dropped is not None:
            self._is_cap_due = False
            self._dropped += dropped

    def flush_pending(self) -> int:
        """
        Writes some of what waits, and the refusals of seconds that are over; the number of lines that still wait.

        Meant to be called about once a second, so that an idle process lets go of a rotated file too.
        """
        self._refusals.flush()
        with self._lock:
            self._recheck()
            self._drain(FLUSH_LINES)
            return len(self._pending)

    def write_out(self) -> None:
        """Writes all that waits, as far as that goes: for the end of a process, when nobody is held up by it."""
        self._refusals.flush(at_once=True)
        with self._lock:
            self._check_at = -1.0
            self._recheck()
            self._drain(len(self._pending))

    def close(self) -> None:
        """
        Writes whatever still can be written and closes the file; what cannot be written is lost, counted and told.

        A request that outlives this is recorded all the same: its write opens the file again.
        """
        with self._lock:
            self.write_out()
            waiting = sum(count for _, count in self._pending)
            self._lost += waiting
            if waiting:
                logger.error(
                    "%d call records could not be written before the end; %d are lost since the start",
                    waiting, self._lost,
                )  # fmt: skip
            self._pending.clear()
            self._pending_bytes = 0
            self._is_plain = self._is_open = False
            self._check_at = -1.0
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @property
    def pending(self) -> int:
        """Lines that wait in memory for room."""
        return len(self._pending)

    @property
    def lost(self) -> int:
        """Records that are nowhere: there was neither room on the disk nor in `pending_bytes`."""
        return self._lost

    @property
    def dropped(self) -> Dropped:
        """What this process deleted for the cap on disk use before every reader had read it."""
        return self._dropped

    def _append(self, line: bytes) -> bool:
        """One write. False when the line as a whole must be written again."""
        try:
            missing = len(line) - os.write(self._fd, line)
        except OSError as exc:
            self._is_plain = False
            self._warn("Call records cannot be written and wait in memory: %s", exc.strerror)
            return False
        if missing:
            # All but the newline is a whole record already; a second copy would count it twice.
            self._owes_newline, self._is_plain = True, False
        if missing > 1:
            self._warn("Call records cannot be written and wait in memory: the disk is full")
            return False
        return True

    def _write_in_turn(self, line: bytes, count: int) -> bool:
        """The careful way: the right file, what waited first, then this line."""
        with self._lock:
            self._recheck()
            self._drain(FLUSH_LINES)
            return (self._is_plain and self._append(line)) or self._keep(line, count)

    def _keep(self, line: bytes, count: int) -> bool:
        """Holds a line in memory, or counts its calls as lost when the memory is full. Always False."""
        with self._lock:
            self._is_plain = False
            if self._pending_bytes + len(line) > self._max_pending_bytes:
                self._lost += count
                self._warn("The memory for waiting call records is full: %d lost so far", self._lost)
            else:
                self._pending.append((line, count))
                self._pending_bytes += len(line)
        return False

    def _drain(self, limit: int) -> None:
        """Writes up to `limit` waiting lines in order; stops at the first that does not go."""
        if not self._is_open or not self._ends_the_torn_line():
            return
        for _ in range(min(limit, len(self._pending))):
            if not self._append(self._pending[0][0]):
                return
            self._pending_bytes -= len(self._pending.popleft()[0])
        self._is_plain = not self._pending and not self._owes_newline

    def _ends_the_torn_line(self) -> bool:
        if self._owes_newline:
            with suppress(OSError):
                self._owes_newline = os.write(self._fd, b"\n") != 1
        return not self._owes_newline

    def _recheck(self) -> None:
        """At most every RECHECK_S: rotates a full file, and opens the path's file if that is another one now."""
        if self._monotonic() < self._check_at:
            return
        self._check_at = self._monotonic() + RECHECK_S
        try:
            if self._is_open and os.fstat(self._fd).st_size >= self._max_file_bytes:
                self._rotate()
            if not self._is_open or not is_file_at(self.path, self._fd):
                self._is_open = self._is_plain = False
                self._open()
        except OSError as exc:
            self._warn("The call log cannot be opened: %s", exc.strerror)

    def _rotate(self) -> None:
        try:
            self._is_cap_due |= rotate(self.path, self._fd, self._now()) is not None
        except OSError as exc:
            # The file grows on; that is better than a record that is not written.
            self._warn("The call log cannot be rotated: %s", exc.strerror)

    def _open(self) -> None:
        fd = _open_shared(self.path, self._file_mode)
        size = os.fstat(fd).st_size
        # Another process may have died in the middle of a line. A newline too many is only a blank line.
        self._owes_newline = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        if self._fd < 0:
            self._fd = fd
        else:
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        self._is_open = True

    def _warn(self, message: str, *args: object, exc_info: bool = False) -> None:
        """Logs at most once per WARN_EVERY_S: a full disk must not fill the process log as well."""
        if self._monotonic() >= self._warn_at:
            self._warn_at = self._monotonic() + WARN_EVERY_S
            logger.warning(message, *args, exc_info=exc_info)


def _open_shared(path: Path, mode: int) -> int:
    """
    The file at `path`, of that mode, open for appending and under a shared flock.

    The path is compared again once the lock is held: between opening and locking the file may have been
    rotated, and a reader may have found it unlocked and done with it.
    """
    for _ in range(10):
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
        # What the umask took away, or an older setting gave. Who may write it may not always change that.
        with suppress(OSError):
            os.fchmod(fd, mode)
        # A file system without flock leaves readers to their waiting time alone.
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if is_file_at(path, fd):
            return fd
        os.close(fd)
    raise OSError(0, "the file is replaced faster than it can be opened")
