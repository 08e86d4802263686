"""
The cap on disk use: which rotated segments go when the call log has grown too large.

Oldest first, and first those that every registered reader has passed. A segment that somebody still owes goes only
when that does not suffice, and never in silence: it is logged, and its unread bytes are counted.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from llmproxy.api_log.position import Position, registered_positions
from llmproxy.api_log.segment import Segment, list_segments

logger = logging.getLogger(__name__)

_SAMPLE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Dropped:
    """
    What was deleted although a reader had not read it.

    Attributes:
        records: Estimated from the lengths of the first lines: counting would read the whole segment while a
            request waits.
    """

    bytes: int = 0
    records: int = 0

    def __add__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.bytes + other.bytes, self.records + other.records)

    def __sub__(self, other: "Dropped") -> "Dropped":
        return Dropped(self.bytes - other.bytes, self.records - other.records)


def enforce_cap(active: Path, positions: Path, max_total_bytes: int) -> Dropped:
    """Deletes segments until the log at `active` fits; the file being written is never touched."""
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
    passed = [segment for segment in segments if all(segment.id in reader.done for reader in readers.values())]
    return passed + [segment for segment in segments if segment not in passed]


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
    return max(1, round(size * sample.count(b"\n") / len(sample))) if sample else 0
