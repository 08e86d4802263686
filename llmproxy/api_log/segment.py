"""
The files that the call log is made of: the one being written, `api_logs.jsonl`, and the segments that were rotated
away.

Our own rotation names a segment by the moment it was closed, `api_logs.20261123T101530123456Z.jsonl`, so
names sort in order; the clock going back cannot break that, a new name is always later than every existing
one. Files that others rotated (`api_logs.jsonl.1`, `api_logs-20261123.jsonl`) are segments too, ordered by
their last change. Compressed ones are not read.

A segment is known by its *first record*, not by name or inode: each holds a fresh UUID, so the identity
survives renames, copies (logrotate's copytruncate) and restored backups, and is never taken over by a
reused inode.
"""

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmproxy.api_log.file_lock import FileLock, is_file_at

_STAMP = "%Y%m%dT%H%M%S%fZ"
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
# The identity is everything up to the end of the first line that can hold a whole id (timestamp and UUID are
# 90 bytes). Shorter lines are leftovers of torn ones, which two files may have in common.
_HEAD_BYTES = 4096
_IDENTITY = re.compile(rb"(?:[^\n]{0,99}\n)*[^\n]{100,}\n")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log as it was when the directory was read."""

    path: Path
    id: str
    size: int
    closed_ns: int
    """Epoch nanoseconds of the rotation, or of the last change where the name does not tell."""


def segment_id(fd: int) -> str | None:
    """The identity of an open file; None while its first record is not complete."""
    head = os.pread(fd, _HEAD_BYTES, 0)
    found = _IDENTITY.match(head)
    if found is None and len(head) < _HEAD_BYTES:
        return None
    return hashlib.sha256(found.group() if found else head).hexdigest()[:24]


def list_segments(active: Path) -> list[Segment]:
    """Every readable segment of the log at `active`, oldest first, the file being written last."""
    found = [segment for path in _candidates(active) if (segment := _look_at(active, path)) is not None]
    return sorted(found, key=lambda segment: (segment.path == active, segment.closed_ns, segment.path.name))


def distinct_segments(active: Path) -> list[Segment]:
    """The same, where a copy that another tool made of a segment is none of its own; the longer one is complete."""
    found: dict[str, Segment] = {}
    for segment in list_segments(active):
        if segment.id not in found or segment.size > found[segment.id].size:
            found[segment.id] = segment
    return list(found.values())


def open_segment(active: Path, wanted: str) -> int:
    """
    The segment of that identity, opened for reading; -1 when there is none.

    Looked for three times: a file that is being renamed may be missing from a listing of its directory.
    """
    for _ in range(3):
        # While logrotate copies, two files have the same first line; the longer one is complete.
        matching = [segment for segment in list_segments(active) if segment.id == wanted]
        for segment in sorted(matching, key=lambda segment: segment.size, reverse=True):
            with suppress(OSError):
                fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
                if segment_id(fd) == wanted:
                    return fd
                os.close(fd)
    return -1


def rotate(active: Path, fd: int, now: datetime) -> Path | None:
    """
    Renames the file behind `fd` to its segment name; the new name, or None when another process came first.

    Never waits: a held lock means that someone else is rotating.
    """
    lock = FileLock(active.with_name(f"{active.stem}.lock"))
    if not lock.acquire():
        return None
    try:
        if not is_file_at(active, fd):
            return None
        target = _segment_name(active, now)
        os.rename(active, target)
        return target
    finally:
        lock.release()


def _candidates(active: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(active.parent) as entries:
        return [Path(entry.path) for entry in entries if _is_ours(active, entry.name)]
    return []


def _is_ours(active: Path, name: str) -> bool:
    rest = name.removeprefix(active.stem)
    return name != rest and active.suffix in rest and not name.endswith(_COMPRESSED)


def _look_at(active: Path, path: Path) -> Segment | None:
    """The segment at a path; None when it is gone again, holds no complete line yet, or is no regular file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        identity = segment_id(fd)
        status = os.fstat(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    if identity is None:
        return None
    stamp = _stamp_of(active, path.name)
    closed_ns = int(stamp.timestamp() * 1e6) * 1000 if stamp else status.st_mtime_ns
    return Segment(path, identity, status.st_size, closed_ns)


def _segment_name(active: Path, now: datetime) -> Path:
    """A name that sorts after every segment there is."""
    stamps = [stamp for path in _candidates(active) if (stamp := _stamp_of(active, path.name))]
    moment = max([now, *(stamp + timedelta(microseconds=1) for stamp in stamps)])
    return active.with_name(f"{active.stem}.{moment.strftime(_STAMP)}{active.suffix}")


def _stamp_of(active: Path, name: str) -> datetime | None:
    """The moment in a name that our own rotation gave."""
    middle = name.removeprefix(f"{active.stem}.").removesuffix(active.suffix)
    try:
        return datetime.strptime(middle, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
