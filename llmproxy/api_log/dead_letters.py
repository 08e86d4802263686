"""
Records that a receiver will never take, set aside with the reason instead of holding up the rest or being dropped.

One line of JSON each in `dead_letters.jsonl`: {"set_aside_at", "sink", "reason", "record"}. It is on the disk
before the shipper's position passes the record. Nothing deletes the file; it is the operator's to read and clear.
"""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from llmproxy.api_log.sink import Rejection
from llmproxy.times import iso_utc

_CHUNK_BYTES = 1 << 20


class DeadLetters:
    """The file at `path`. `fsync` can be handed to a thread by a process that must not stand still."""

    def __init__(self, path: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        self.path = path
        self._fsync = fsync

    def add(self, rejections: Sequence[Rejection], *, sink: str, now_s: float) -> None:
        """Keeps the records with why and when. OSError when the disk does not take them."""
        data = b"".join(_line(rejection, sink, now_s) for rejection in rejections)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                # A full disk cut the last one short; it was added again, or will be now.
                data = b"\n" + data
            if os.write(fd, data) != len(data):
                raise OSError(28, "no space for the dead letters")
            self._fsync(fd)
        finally:
            os.close(fd)

    def count(self) -> int:
        """How many were set aside and not cleared away."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))


def _line(rejection: Rejection, sink: str, now_s: float) -> bytes:
    letter = {
        "set_aside_at": iso_utc(datetime.fromtimestamp(now_s, UTC), timespec="milliseconds"),
        "sink": sink,
        "reason": rejection.reason,
        "record": orjson.Fragment(rejection.record.line),
    }
    return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
