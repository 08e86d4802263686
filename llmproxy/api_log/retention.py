"""
The cap on disk use: which rotated segments go when the call log has grown too large.

First those that hold nothing but refusals, so that no flood of them takes real calls along. Among them and among the
others, first what every registered reader has passed, and the oldest first. A segment that somebody still owes never
goes in silence: it is logged, and its unread bytes are counted.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmproxy.api_log.file_lock import FileLock
from llmproxy.api_log.lines import cut
from llmproxy.api_log.position import Position, registered_positions
from llmproxy.api_log.segment import Segment, list_segments
from llmproxy.turns import give_way

logger = logging.getLogger(__name__)

_SAMPLE_BYTES = 64 << 10
_PIECE_BYTES = 64 << 10
# What the line of a call that went on to its upstream holds. Within a text its quotes would be escaped.
_SIGNS_OF_A_CALL = (b'"outcome":"complete"', b'"outcome":"client_closed"', b'"outcome":"upstream_', b'"cut":true')


@dataclass(frozen=True, slots=True)
class Dropped:
    """
    What was deleted although a reader had not read it.

    Attributes:
        records: Estimated from the first lines: counting would read the whole segment.
    """

    bytes: int = 0
    records: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.bytes + other.bytes, self.records + other.records)

    def __sub__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.bytes - other.bytes, self.records - other.records)


def enforce_cap(active: Path, positions: Path, max_total_bytes: int) -> Dropped | None:
    """
    Deletes segments until the log at `active` fits; the file being written is never touched.

    None when another process does that now, or rotates: try again. Takes a while where segments hold no calls, and
    lets others run meanwhile.
    """
    lock = FileLock(active.with_name(f"{active.stem}.cap.lock"))
    if not lock.acquire():
        return None
    try:
        return _enforce_cap(active, positions, max_total_bytes)
    finally:
        lock.release()


def _enforce_cap(active: Path, positions: Path, max_total_bytes: int) -> Dropped:
    segments = list_segments(active)
    excess = sum(segment.size for segment in segments) - max_total_bytes
    if excess <= 0:
        return Dropped()
    readers = registered_positions(positions)
    dropped = Dropped()
    for segment in _in_order_of_loss([item for item in segments if item.path != active], readers):
        if excess <= 0:
            break
        dropped += _delete(segment, readers)
        excess -= segment.size
    return dropped


def _in_order_of_loss(segments: list[Segment], readers: dict[str, Position]) -> list[Segment]:
    def owed(segment: Segment) -> bool:
        return any(segment.id not in reader.done for reader in readers.values())

    # The sort keeps those that are alike in their order: oldest first.
    return sorted(segments, key=lambda segment: (_holds_calls(segment), owed(segment)))


def _holds_calls(segment: Segment) -> bool:
    """Whether any call in it went on to an upstream: nearly always one of the first lines tells."""
    return any(sign in piece for piece in _pieces(segment) for sign in _SIGNS_OF_A_CALL)


def _pieces(segment: Segment) -> Iterator[bytes]:
    """The segment's bytes, each piece with the end of the one before it. Nothing of a segment that is gone."""
    longest = max(map(len, _SIGNS_OF_A_CALL))
    with suppress(OSError), segment.path.open("rb") as file:
        before = b""
        while piece := file.read(_PIECE_BYTES):
            yield before + piece
            before = piece[-longest:]
            give_way()


def _delete(segment: Segment, readers: dict[str, Position]) -> Dropped:
    owed = {name: reader.owed_bytes(segment.id, segment.size) for name, reader in readers.items()}
    most = max(owed.values(), default=0)
    lost = Dropped(most, _estimate_records(segment, most)) if most else Dropped()
    segment.path.unlink(missing_ok=True)
    if most:
        names = ", ".join(name for name, size in owed.items() if size)
        logger.warning(
            "The cap on the call log's size deleted %s with %d bytes (about %d records) that %s had not read",
            segment.path.name, most, lost.records, names,
        )  # fmt: skip
    return lost


def _estimate_records(segment: Segment, size: int) -> int:
    try:
        with segment.path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
    except OSError:
        return 0
    found = cut(sample, max_lines=_SAMPLE_BYTES)
    calls = sum(record.count for record in found.records)
    return max(1, round(size * calls / found.used)) if found.used else 0
