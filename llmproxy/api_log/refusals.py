"""
Calls that nobody was admitted for, held to one line per second and reason: whoever has no token, or one that holds
no longer, can have as many refused as the network brings, and would fill the log with them.

The first after a quiet second is a record like any other. Those that follow become one record for each second, which
is a sample, the first of them, with `count`. A reason is the token, where one was recognised, with the status, the
code and the outcome. Paths and methods are cut to CHARS.

What a second has counted is in memory until its end, and not in the file yet: a `kill -9` takes it along.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmproxy.api_log.record import CallRecord

PER_S = 1.0
CHARS = 200
# Beyond so many reasons in one second tokens and projects are told apart no longer.
MAX_REASONS = 200

_Reason = tuple[str | None, int, str | None, str]


@dataclass(slots=True)
class _Second:
    """What followed a line of one reason, until it is time for the next."""

    ends_at: float
    sample: CallRecord | None = None
    count: int = 0

    def add(self, record: CallRecord) -> None:
        self.sample = self.sample or record
        self.count += record.count

    def line(self) -> CallRecord | None:
        """The record that stands for all of them; None when there was none."""
        return replace(self.sample, count=self.count) if self.sample else None


class Refusals:
    """
    The refusals of one process.

    Args:
        write: Gets each record that is to be a line.
    """

    def __init__(
        self, write: Callable[[CallRecord], object], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._monotonic = monotonic
        self._seconds: dict[_Reason, _Second] = {}

    def add(self, record: CallRecord) -> None:
        """Write a record, or count it."""
        if len(record.endpoint) > CHARS or len(record.method) > CHARS:
            record = replace(record, endpoint=record.endpoint[:CHARS], method=record.method[:CHARS])
        reason = _reason(record)
        if reason not in self._seconds and len(self._seconds) >= MAX_REASONS:
            record = replace(record, token_id=None, project_id=None)
            reason = _reason(record)
        now = self._monotonic()
        second = self._seconds.get(reason)
        if second is not None and (second.count or now < second.ends_at):
            second.add(record)
            self._end(reason, second, now)
            return
        self._seconds[reason] = _Second(now + PER_S)
        self._write(record)

    def flush(self, *, at_once: bool = False) -> None:
        """Write what has been counted in seconds that are over; all of it where that is asked."""
        now = self._monotonic()
        for reason, second in list(self._seconds.items()):
            self._end(reason, second, second.ends_at if at_once else now)

    def _end(self, reason: _Reason, second: _Second, now: float) -> None:
        if now < second.ends_at:
            return
        if line := second.line():
            self._seconds[reason] = _Second(now + PER_S)
            self._write(line)
        else:
            del self._seconds[reason]


def _reason(record: CallRecord) -> _Reason:
    code = record.error["code"] if record.error else None
    return record.token_id, record.status_code, code, record.outcome
