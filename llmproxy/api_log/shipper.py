"""
Carries the call log to a receiver, in the background: nothing here is ever on a request's path.

Guarantees:
* At least once. The reader's position is saved after a batch was delivered or set aside, never before. A crash
  in between repeats the batch; `request_id` tells the receiver which records it has.
* Bounded memory. The file is the queue: one batch is in memory, whether the receiver is down for a second or a
  week.
* Patience. A receiver that fails is asked again after a random pause that grows to `max_pause_s`, or after the
  Retry-After that it asked for (an hour at most).
* A record that will never be taken does not hold up the rest: a refused batch is halved until the record at
  fault stands alone, and that one goes to the dead letters.
* One process ships; others stand by and take over when it ends.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.reader import Batch, LogReader, ReaderBusy
from llmproxy.api_log.sink import BatchRefused, Rejection, Sink, SinkUnavailable

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 3600.0
STAND_BY_S = 5.0


@dataclass(slots=True)
class Shipped:
    """What was shipped; `stopped_by` tells why the last delivery failed, None after one that passed: no secret."""

    delivered: int = 0
    dead_lettered: int = 0
    stopped_by: str | None = None


@dataclass(eq=False)
class Shipper:
    """
    One reader, one sink. `run` is for a thread or a greenlet of its own; `ship_once` for a command.

    Attributes:
        tell: Warns of what may happen batch after batch, by its cause and a line. By default each time.
        wait: Waits that many seconds; True when the shipper shall stop. By default on an event that `stop` sets.
        uniform: Draws the pause between two bounds.
    """

    reader: LogReader
    sink: Sink
    dead_letters: DeadLetters
    _: KW_ONLY
    max_records: int = 500
    max_bytes: int = 512 << 10
    max_age_s: float = 5.0
    poll_s: float = 0.5
    first_pause_s: float = 1.0
    max_pause_s: float = 60.0
    tell: Callable[[str, str], object] = lambda _cause, line: logger.warning("%s", line)
    wait: Callable[[float], bool] | None = None
    uniform: Callable[[float, float], float] = random.uniform
    monotonic: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.shipped = Shipped()
        self._stopping = threading.Event()
        self._wait = self.wait or self._stopping.wait
        self._batch: Batch | None = None  # under way; kept over failures so that its delivered parts stay delivered
        self._parts: list[list[ReadRecord]] = []  # of the batch, what is not delivered yet, the next one last
        self._seen_at: float | None = None  # when the oldest waiting record was first seen
        self._failures_in_a_row = 0

    def run(self) -> None:
        """Ships until `stop`. Never raises: whatever happens, it is logged and tried again."""
        try:
            while not self._stopping.is_set():
                pause_s = self._turn()
                if pause_s and self._wait(pause_s):
                    break
        finally:
            self.close()

    def stop(self) -> None:
        """Makes `run` end after the delivery that is under way. What is left stays in the file."""
        self._stopping.set()

    def close(self) -> None:
        """Lets another process ship."""
        self._batch, self._parts = None, []
        self.reader.close()
        self.sink.close()

    def ship_once(self) -> Shipped:
        """
        Ships what is in the log now, without waiting for anything; a failing receiver ends it.

        ReaderBusy when another process ships.
        """
        self.shipped = Shipped()
        self.reader.acquire()
        left = self.reader.lag().bytes
        try:
            while left > 0 and (batch := self._batch or self._read()).size:
                self._ship(batch)
                left -= batch.size
        except SinkUnavailable as exc:
            self._note_failure(exc)
        return self.shipped

    def _turn(self) -> float:
        """One step of `run`; the seconds to wait before the next one."""
        try:
            batch = self._batch or self._read()
            pause_s = 0.0 if self._batch else self._pause_until_due(batch)
            if not pause_s:
                self._ship(batch)
            return pause_s
        except ReaderBusy:
            return STAND_BY_S
        except SinkUnavailable as exc:
            self._note_failure(exc)
            return self._pause_after(exc.retry_after_s)
        except Exception:
            # The one thing that a shipper may not do is end: records would pile up unseen.
            logger.exception("Shipping the call log failed; trying again")
            self._failures_in_a_row += 1
            return self._pause_after(None)

    def _read(self) -> Batch:
        return self.reader.read_batch(max_records=self.max_records, max_bytes=self.max_bytes)

    def _pause_until_due(self, batch: Batch) -> float:
        """0 when the batch shall go: full, or its first record has waited for `max_age_s`."""
        if not batch.size:
            self._seen_at = None
            return self.poll_s
        if self._seen_at is None:
            self._seen_at = self.monotonic()
        # A batch ends at a whole line, so it rarely reaches its size to the byte: half of it is full enough.
        if len(batch.records) >= self.max_records or batch.size * 2 >= self.max_bytes:
            return 0.0
        left_s = self._seen_at + self.max_age_s - self.monotonic()
        return min(self.poll_s, left_s) if left_s > 0 else 0.0

    def _ship(self, batch: Batch) -> None:
        """Delivers the batch, or what is left of it, and saves the position."""
        if self._batch is None:
            self._batch, self._parts = batch, [batch.records] if batch.records else []
        while self._parts:
            self._deliver(self._parts[-1])
        self._finish(batch)

    def _deliver(self, part: list[ReadRecord]) -> None:
        """Delivers the last part, or puts its two halves in its place."""
        try:
            rejections = self.sink.deliver(part)
        except BatchRefused as exc:
            if len(part) > 1:
                middle = len(part) // 2
                self._parts[-1:] = [part[middle:], part[:middle]]
                return
            rejections = [Rejection(part[0], str(exc))]
        if rejections:
            self._set_aside(rejections)
        self._parts.pop()
        self._note_success(len(part) - len(rejections))

    def _set_aside(self, rejections: list[Rejection]) -> None:
        self.dead_letters.add(rejections, sink=self.sink.name, now_s=time.time())
        self.shipped.dead_lettered += len(rejections)
        where = self.dead_letters.path.name
        self.tell("dead letters", f"{self.sink.name} will not take some call records: set aside in {where}")

    def _finish(self, batch: Batch) -> None:
        try:
            self.reader.commit(batch)
        except OSError as exc:
            # A full disk is no reason to send the same records for ever: go on in memory, a later batch saves.
            self.tell("the shipper's position", f"The shipper's position cannot be saved: {exc.strerror}")
            self.reader.advance(batch)
        self._batch = self._seen_at = None

    def _note_success(self, delivered: int) -> None:
        if self._failures_in_a_row:
            logger.info("%s takes call records again", self.sink.name)
        self._failures_in_a_row = 0
        self.shipped.stopped_by = None
        self.shipped.delivered += delivered

    def _note_failure(self, exc: SinkUnavailable) -> None:
        reason = str(exc)
        # Once per reason: an outage of hours needs one line, not one per try.
        if reason != self.shipped.stopped_by:
            logger.warning("%s does not take call records, they wait in the file: %s", self.sink.name, reason)
        self._failures_in_a_row += 1
        self.shipped.stopped_by = reason

    def _pause_after(self, retry_after_s: float | None) -> float:
        bound_s = min(self.max_pause_s, self.first_pause_s * 2 ** min(self._failures_in_a_row - 1, 30))
        return pause_within(bound_s, retry_after_s, self.uniform)


def pause_within(bound_s: float, retry_after_s: float | None, uniform: Callable[[float, float], float]) -> float:
    """Full jitter: anything between nothing and a bound that doubles, so that many nodes do not come at once."""
    pause_s = uniform(0.0, bound_s)
    if retry_after_s is not None:
        # Asked to wait, never come earlier; the draw on top spreads those who were told the same moment.
        pause_s += min(retry_after_s, MAX_RETRY_AFTER_S)
    return max(pause_s, 0.05)
