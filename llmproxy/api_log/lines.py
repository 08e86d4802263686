"""
Cuts a stretch of the log into records. Pure, and forgiving: whatever is no record is counted and stepped
over.

A writer that died or met a full disk leaves half a line. Where it could not be ended by a newline, the next
record follows on the same line; it is found by the first key of every record. Inside a string that key would
have its quotes escaped, so it cannot be mistaken for text that a client sent.
"""

from dataclasses import dataclass, field

from llmproxy.api_log.read_record import ReadRecord, parse_line

_RECORD_START = b'{"timestamp":"'


@dataclass(slots=True)
class Cut:
    """
    What was found in order; `used` bytes are dealt with, `torn` pieces lost.

    Attributes:
        offsets: Where the line of each record begins, of one in a damaged line too.
    """

    records: list[ReadRecord] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    used: int = 0
    torn: int = 0


def cut(data: bytes, *, max_lines: int, is_last: bool = False) -> Cut:
    """
    The records among the first `max_lines` lines of `data`, which starts at the start of a line.

    Args:
        is_last: Nothing will follow, so bytes after the last newline are a line too. Otherwise they are left
            for the next time: their newline may be on its way.
    """
    found = Cut()
    *whole, rest = data.split(b"\n", max_lines)
    if is_last and len(whole) < max_lines and rest:
        whole.append(rest)
    for line in whole:
        record = parse_line(line)
        if record is not None:
            found.records.append(record)
            found.offsets.append(found.used)
        elif line:
            _salvage(line, found)
        found.used += len(line) + 1
    found.used = min(found.used, len(data))
    return found


def _salvage(line: bytes, found: Cut) -> None:
    """Takes the whole records out of a damaged line; every other piece of it counts as torn."""
    before, *others = line.split(_RECORD_START)
    for piece in filter(None, [before, *(_RECORD_START + other for other in others)]):
        record = parse_line(piece)
        if record is None:
            found.torn += 1
        else:
            found.records.append(record)
            found.offsets.append(found.used)
