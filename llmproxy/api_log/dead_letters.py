"""
Records that a receiver will never take, set aside with the reason instead of holding up the rest or being dropped.

One line of JSON each in `dead_letters.jsonl`: {"set_aside_at", "sink", "reason", "record"}. It is on the disk
before the shipper's position passes the record. The file is the operator's to read and clear. At half of its bound it
becomes `dead_letters.1.jsonl`, in the place of the one before, which is lost then: a warning says so.
"""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from llmproxy.api_log.line_file import Tally, append
from llmproxy.api_log.sink import Rejection
from llmproxy.times import iso_utc

logger = logging.getLogger(__name__)

# Some hundred thousand of them: who has not looked by then learns nothing from more.
MAX_BYTES = 64 << 20


class DeadLetters:
    """
    The file at `path`, and the older one.

    Args:
        max_bytes: The bound of both files together.
        fsync: Can be handed to a thread by a process that must not stand still.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, fsync: Callable[[int], None] = os.fsync) -> None:
        self.path = path
        self.older_path = path.with_suffix(f".1{path.suffix}")
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._tallies = [Tally(each, _count_lines, 0) for each in (self.path, self.older_path)]

    def add(self, rejections: Sequence[Rejection], *, sink: str, now_s: float) -> None:
        """Keeps the records with why and when. OSError when the disk does not take them."""
        lines = b"".join(_line(rejection, sink, now_s) for rejection in rejections)
        self._make_room(len(lines))
        append(self.path, lines, fsync=self._fsync)

    def count(self) -> int:
        """How many were set aside, and neither cleared away nor lost to the bound."""
        return sum(tally.total() for tally in self._tallies)

    def _make_room(self, size: int) -> None:
        if not self.path.exists() or self.path.stat().st_size + size <= self._max_bytes // 2:
            return
        if self.older_path.exists():
            lost = self.older_path.stat().st_size
            logger.warning("%s had grown too large: %d bytes of older dead letters are deleted", self.path.name, lost)
        os.replace(self.path, self.older_path)


def _count_lines(piece: bytes) -> int:
    return piece.count(b"\n")


def _line(rejection: Rejection, sink: str, now_s: float) -> bytes:
    letter = {
        "set_aside_at": iso_utc(datetime.fromtimestamp(now_s, UTC), timespec="milliseconds"),
        "sink": sink,
        "reason": rejection.reason,
        "record": orjson.Fragment(rejection.record.line),
    }
    return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)
