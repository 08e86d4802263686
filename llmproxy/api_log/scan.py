"""Reads the whole ledger once, oldest segment first: for questions and recounts. Keeps no position, takes no lock."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmproxy.api_log.lines import cut
from llmproxy.api_log.record import MAX_LINE_BYTES
from llmproxy.api_log.segment import list_segments

_MANY_LINES = 1 << 30


def read_all(path: Path) -> Iterator[dict[str, Any]]:
    """
    Every record in the ledger at `path` at the time of the call.

    Damaged lines are left out, and so is a copy of a segment that was read already. Memory is bounded by the
    longest line. A segment that is deleted meanwhile is left out.
    """
    seen: set[str] = set()
    for segment in list_segments(path):
        if segment.id in seen:
            continue
        seen.add(segment.id)
        with suppress(FileNotFoundError):
            yield from _records(segment.path, segment.size)


def _records(path: Path, size: int) -> Iterator[dict[str, Any]]:
    with path.open("rb", buffering=0) as file:
        offset = 0
        while data := os.pread(file.fileno(), min(MAX_LINE_BYTES + 1, size - offset), offset):
            is_last = offset + len(data) >= size
            # Without a newline the stretch is longer than any record: stepped over, like every damaged line.
            found = cut(data, max_lines=_MANY_LINES, is_last=is_last or b"\n" not in data)
            yield from found.records
            offset += found.used
            if is_last:
                return
