"""
Looks for records from the end of the call log backwards, a bounded stretch at a time: for people who look at the
latest calls. Keeps no position and takes no lock.

A filter becomes byte strings that a record's line must hold, so that stretches without them are passed over at
the speed of memory; only lines that hold them are parsed. Lines are written compact (see `record`), so the
strings are exact; what a line says is checked again after parsing.

Damaged lines are stepped over.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import orjson

from llmproxy.api_log.read_record import ReadRecord, parse_line
from llmproxy.api_log.record import MAX_LINE_BYTES
from llmproxy.api_log.segment import Segment, list_segments, open_segment
from llmproxy.turns import give_way

# One search reads at most so much of the log: a few tens of milliseconds where the filter is rare.
SEARCH_BYTES = 64 << 20
# ...and parses at most so many lines, for filters that nearly every line passes at first sight.
SEARCH_LINES = 20_000
_BLOCK_BYTES = 1 << 20
# Few lines are longer.
_USUAL_BYTES = 2048

Lack = Literal["price", "usage"]


@dataclass(frozen=True, slots=True)
class Place:
    """The start of a line: a segment's identity and an offset in it."""

    segment: str
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """The place in a text that `str` made; None for any other text."""
        segment, _, offset = text.partition(".")
        if not segment.isalnum() or not offset.isdecimal() or not offset.isascii() or len(offset) > 18:
            return None
        return cls(segment, int(offset))


@dataclass(frozen=True, slots=True)
class Filter:
    """
    Which records to find; what is None does not matter.

    Attributes:
        project_id: '' for those that name none, like `token_id`, `billed_model` and `code`.
        status: An exact status, or a class of them: "429" or "4".
        failed: Only what was refused or went wrong.
        errors: Only what went wrong and was not refused: what usage counts as errors.
        code: Of the error.
        secret: "retired" for what came with a secret that has been replaced.
        would_refuse: The code that rules in mode `report` would have refused it with.
        websocket: The id of one, for the responses that were made in it.
        model: How the name of the model begins that the response named, or else the request.
        billed_model: What usage counts under this model: see `ReadRecord.billed_model`.
        lacks: "price" for calls whose usage had none, "usage" for streams that came well and told none.
        begin: The first moment of arrival to find; aware, like `end`, the first one after those.
    """

    project_id: str | None = None
    token_id: str | None = None
    status: str | None = None
    outcome: str | None = None
    model: str | None = None
    billed_model: str | None = None
    request_id: str | None = None
    websocket: str | None = None
    code: str | None = None
    would_refuse: str | None = None
    secret: str | None = None
    client_address: str | None = None
    lacks: Lack | None = None
    failed: bool = False
    errors: bool = False
    begin: datetime | None = None
    end: datetime | None = None

    def needles(self) -> list[bytes]:
        """What the line of every such record holds."""
        wanted = {
            "request_id": self.request_id,
            "token": self.token_id,
            "project_id": self.project_id,
            "outcome": self.outcome,
            "client_address": self.client_address,
            "code": self.code,
            "would_refuse": self.would_refuse,
            "secret": self.secret,
        }
        exact = [_pair(name, value) for name, value in wanted.items() if value]
        if self.status:
            exact.append(b'"status_code":' + self.status.encode())
        if self.websocket:
            exact.append(_pair("request_id", f"{self.websocket}-")[:-1])
        if self.model:
            # "model" and "requested_model" alike.
            exact.append(_pair("model", self.model)[1:-1])
        if self.billed_model:
            exact.append(_pair("model", self.billed_model)[1:])
        if self.lacks == "usage":
            exact.append(_pair("usage_source", "absent"))
        return exact

    def takes(self, record: ReadRecord) -> bool:
        """Whether `record` is one of them."""
        return (
            self.request_id in (None, record.request_id)
            and self.websocket in (None, record.websocket_id)
            and self.token_id in (None, record.token_id or "")
            and self.project_id in (None, record.project_id or "")
            and self.outcome in (None, record.outcome)
            and (not self.status or _has_status(record, self.status))
            and self.client_address in (None, record.client_address)
            and self.code in (None, record.error_code or "")
            and self.would_refuse in (None, record.would_refuse)
            and self.secret in (None, record.secret)
            and (not self.model or (record.named_model or "").startswith(self.model))
            and self.billed_model in (None, record.billed_model or "")
            and (record.has_failed or not (self.failed or self.errors))
            and (record.outcome != "refused" or not self.errors)
            and (self.lacks != "price" or record.is_unpriced)
            and (self.lacks != "usage" or record.is_silent_stream)
            and self._has_arrived(record)
        )

    def is_over(self, record: ReadRecord) -> bool:
        """Whether no line before this record's is one of them: who wrote those had ended before `begin`."""
        if self.begin is None or (arrived_at := record.arrived_at) is None:
            return False
        return arrived_at + timedelta(milliseconds=record.duration_ms or 0) < self.begin

    def _has_arrived(self, record: ReadRecord) -> bool:
        if self.begin is None and self.end is None:
            return True
        at = record.arrived_at
        return at is not None and not (self.begin and at < self.begin) and not (self.end and at >= self.end)


@dataclass(slots=True)
class Found:
    """
    What a search brought.

    Attributes:
        records: With their places, the latest first.
        end: The end of the log when the search began; None when the log is empty.
        older: Where the next search goes on; None when everything was searched.
        searched_bytes: How much of the log was looked at.
    """

    records: list[tuple[Place, ReadRecord]] = field(default_factory=list)
    end: Place | None = None
    older: Place | None = None
    searched_bytes: int = 0


def search(
    path: Path, wanted: Filter, *, limit: int, before: Place | None = None, until: Place | None = None
) -> Found:
    """
    The latest records of the log at `path` that pass the filter.

    Args:
        limit: At most so many.
        before: Only records before this place; the end of the log when None.
        until: Nothing before this place is looked at.
    """
    found = Found()
    segments = list_segments(path)
    if segments:
        found.end = Place(segments[-1].id, segments[-1].size)
    candidates = _candidates(_stretches(segments, before, until), wanted.needles(), found)
    for parsed, (place, line) in enumerate(candidates, 1):
        record = parse_line(line)
        if record is not None and wanted.is_over(record):
            found.older = None
            break
        if record is not None and wanted.takes(record):
            found.records.append((place, record))
        if len(found.records) == limit or parsed == SEARCH_LINES:
            found.older = place
            break
    return found


def read_at(path: Path, place: Place) -> ReadRecord | None:
    """The record whose line begins at `place`; None when it is gone or never was one."""
    return next(read_all(path, [place]))


def read_all(path: Path, places: Iterable[Place]) -> Iterator[ReadRecord | None]:
    """The records whose lines begin at these places, in their order; None for one that is gone."""
    opened: dict[str, int] = {}
    try:
        for place in places:
            give_way()
            if place.segment not in opened:
                opened[place.segment] = open_segment(path, place.segment)
            yield _read_line(opened[place.segment], place.offset)
    finally:
        for fd in opened.values():
            if fd >= 0:
                os.close(fd)


def _read_line(fd: int, offset: int) -> ReadRecord | None:
    """The record whose line begins there. A line without an end is still being written, as for every other reader."""
    if fd < 0:
        return None
    with suppress(OSError):
        for most in (_USUAL_BYTES, MAX_LINE_BYTES + 1):
            line, end, _ = os.pread(fd, most, offset).partition(b"\n")
            if end:
                return parse_line(line)
    return None


def _pair(name: str, value: str) -> bytes:
    return b'"%s":%s' % (name.encode(), orjson.dumps(value))


def _has_status(record: ReadRecord, wanted: str) -> bool:
    status = str(record.status_code)
    return len(status) == 3 and status.startswith(wanted)


def _stretches(
    segments: list[Segment], before: Place | None, until: Place | None
) -> Iterator[tuple[Segment, int, int]]:
    """Segments with the first and the last byte to look at, the latest first."""
    remaining = segments
    if before is not None:
        # A segment that is gone took everything before it along.
        index = next((i for i, segment in enumerate(segments) if segment.id == before.segment), -1)
        remaining = segments[: index + 1]
    for segment in reversed(remaining):
        end = before.offset if before and segment.id == before.segment else segment.size
        is_last = until is not None and segment.id == until.segment
        yield segment, until.offset if until and is_last else 0, min(end, segment.size)
        if is_last:
            return


def _candidates(
    stretches: Iterator[tuple[Segment, int, int]], needles: list[bytes], found: Found
) -> Iterator[tuple[Place, bytes]]:
    """Lines that may pass, the latest first. Ends at SEARCH_BYTES, and says in `found` where."""
    for segment, start, end in stretches:
        for offset, block in _blocks(segment, start, end):
            found.searched_bytes += len(block)
            for line_start, line in _lines_with(block, needles):
                give_way()  # to the calls that are being forwarded
                yield Place(segment.id, offset + line_start), line
            if found.searched_bytes >= SEARCH_BYTES:
                found.older = Place(segment.id, offset)
                return
            give_way()


def _blocks(segment: Segment, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines between two offsets with the offset of the first, the last block first."""
    with suppress(OSError):
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            rest = b""
            while end > start:
                at = max(start, end - _BLOCK_BYTES)
                data = os.pread(fd, end - at, at) + rest
                # What stands before the first newline began in the block before.
                cut = data.find(b"\n") + 1 if at > start else 0
                rest = data[: cut or len(data)] if at > start else b""
                if at == start or cut:
                    yield at + cut, data[cut:]
                end = at
        finally:
            os.close(fd)


def _lines_with(block: bytes, needles: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines of `block` that hold every needle with their offsets in it, the last first."""
    if any(needle not in block for needle in needles):
        return
    # The rarest of several filters is not known; the first one leads, the others are looked for in its lines.
    lead = needles[0] if needles else b"\n"
    end = len(block)
    while (hit := block.rfind(lead, 0, end)) >= 0:
        line_start = block.rfind(b"\n", 0, hit) + 1
        line_end = block.find(b"\n", hit)
        line = block[line_start : line_end if line_end >= 0 else len(block)]
        end = line_start if needles else hit
        if line and all(needle in line for needle in needles):
            yield line_start, line
