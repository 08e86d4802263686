"""How far a reader is behind. Needs no lock, so it can be asked while the reader works."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmproxy.api_log.lines import cut
from llmproxy.api_log.position import Position
from llmproxy.api_log.segment import Segment, distinct_segments

_CHUNK_BYTES = 1 << 20
# The last member of a record that stands for several (see `refusals`), without parsing all of them.
_counts_in = re.compile(rb',"count":([0-9]{1,9})}\n').findall


@dataclass(frozen=True, slots=True)
class Lag:
    """
    What a reader still has to read.

    Attributes:
        records: Records behind, each for as many as it stands for; None when they were not counted.
        oldest: When the first unread record arrived; None when there is none, or it does not tell.
    """

    bytes: int
    records: int | None
    oldest: datetime | None

    def age_s(self, now: datetime) -> float | None:
        """Seconds since the oldest arrived."""
        return (now - self.oldest).total_seconds() if self.oldest else None


def measure_lag(path: Path, position: Position, *, count_records: bool = False) -> Lag:
    """
    The lag of a position in the log at `path`.

    Args:
        count_records: Counts the unread records, by reading them; leave it out where a scrape must be quick.
    """
    owed = [(segment, position.owed_bytes(segment.id, segment.size)) for segment in distinct_segments(path)]
    behind = [(segment, size) for segment, size in owed if size]
    return Lag(
        bytes=sum(size for _, size in behind),
        records=sum(_count_records(segment, size) for segment, size in behind) if count_records else None,
        oldest=_first_arrival(*behind[0]) if behind else None,
    )


def _count_records(segment: Segment, owed: int) -> int:
    found, rest = 0, b""
    for chunk in _unread(segment, owed):
        *lines, rest = (rest + chunk).rsplit(b"\n", 1)
        whole = lines[0] + b"\n" if lines else b""
        found += whole.count(b"\n") + sum(int(count) - 1 for count in _counts_in(whole))
    return found


def _first_arrival(segment: Segment, owed: int) -> datetime | None:
    head = next(_unread(segment, owed), b"")
    found = cut(head, max_lines=10)
    return found.records[0].arrived_at if found.records else None


def _unread(segment: Segment, owed: int) -> Iterator[bytes]:
    """The last `owed` bytes of a segment in chunks; nothing when it is gone."""
    try:
        file = segment.path.open("rb")
    except OSError:
        return
    with file:
        file.seek(segment.size - owed, os.SEEK_SET)
        while owed > 0 and (chunk := file.read(min(_CHUNK_BYTES, owed))):
            owed -= len(chunk)
            yield chunk
