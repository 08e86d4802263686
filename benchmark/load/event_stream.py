"""
Server-sent events as they arrive: when the first came, the gaps between them, how late each is, how many were lost.

Late and lost are known only where the upstream says so. The stand-in (`mock_openai`) begins events with a comment,
`: sent_ns=<time> event=<number> of=<count>`, when asked to by `x-mock-stamp: 1`; the Responses API numbers its events
by `sequence_number`.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from itertools import pairwise

from benchmark.load import causes
from benchmark.load.events import output_of
from benchmark.load.usage import Tokens, tokens_in

_STAMP = re.compile(rb"^: sent_ns=(\d+)(?: event=(\d+) of=(\d+))?")
# The last events of a stream tell its usage, and which of them was the last token: after it the Responses API sends
# four that say all once more.
LATEST = 8
_NUMBER = re.compile(rb'"sequence_number":\s*(\d+)')


class StreamTimes:
    """
    Takes a stream piece by piece, as cheaply as can be: what can be computed once it ended, is.

    Attributes:
        size: Bytes.
        failure: Cause and message of the first event that is an error; None where none is.
        first_output_ns, last_output_ns: When the first and the last event came that carry some of the model's output;
            None where none does.
        shows_reasoning: Whether that output begins with what the model thinks.
        tokens: What the stream told in its `usage`; None where it has none.
    """

    def __init__(self) -> None:
        self.size = 0
        self.failure: causes.Cause | None = None
        self.first_output_ns: int | None = None
        self.last_output_ns: int | None = None
        self.shows_reasoning = False
        self.tokens: Tokens | None = None
        self._rest = b""
        self._arrived_ns = array("q")
        self._latest: deque[bytes] = deque(maxlen=LATEST)
        # Of stamped events only: when each was sent, and when it came.
        self._sent_ns = array("q")
        self._came_ns = array("q")
        self._highest = -1
        self._promised = 0
        self._numbered = 0

    def feed(self, piece: bytes, now_ns: int) -> None:
        """`piece` arrived at `now_ns`; it may end anywhere."""
        self.size += len(piece)
        text = self._rest + piece if self._rest else piece
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *blocks, self._rest = text.split(b"\n\n")
        for block in blocks:
            if block.startswith(b"data:"):
                if b'"error"' in block or b'"sequence_number"' in block or b'"response.failed"' in block:
                    self._look_at(block)
            elif b"\ndata:" in block:
                self._look_at(block, now_ns)
            else:
                # A comment such as `: ping`, or empty.
                continue
            self._arrived_ns.append(now_ns)
            self._latest.append(block)
            if self.first_output_ns is None and (output := output_of(block)):
                self.first_output_ns = now_ns
                self.shows_reasoning = output == "reasoning"

    def finish(self) -> None:
        """The stream has ended: reads what its last events tell, and keeps none of them."""
        for place, event in enumerate(reversed(self._latest), start=1):
            self.tokens = self.tokens or tokens_in(event)
            if self.last_output_ns is None and output_of(event):
                self.last_output_ns = self._arrived_ns[-place]
        self.last_output_ns = self.last_output_ns or self.first_output_ns
        self._latest.clear()

    def _look_at(self, event: bytes, now_ns: int = 0) -> None:
        """At one that has more than data, or something in it that matters."""
        if event.startswith(b":") and (stamp := _STAMP.match(event)):
            sent, number, promised = stamp.groups()
            self._sent_ns.append(int(sent))
            self._came_ns.append(now_ns)
            if number:
                self._count(int(number))
                self._promised = int(promised)
        elif b'"sequence_number"' in event and (found := _NUMBER.search(event)):
            self._count(int(found[1]))
        if self.failure is None and (b"error" in event or b".failed" in event):
            self.failure = causes.of_event(event)

    def _count(self, number: int) -> None:
        self._numbered += 1
        if number > self._highest:
            self._highest = number

    @property
    def unfinished(self) -> bytes:
        """What came behind the last event: all of it where the response is no stream."""
        return self._rest

    @property
    def events(self) -> int:
        """How many came."""
        return len(self._arrived_ns)

    @property
    def first_ns(self) -> int | None:
        """When the first came, None where none did."""
        return self._arrived_ns[0] if self._arrived_ns else None

    @property
    def gaps_ms(self) -> list[float]:
        """Milliseconds from each event to its next, in order."""
        return [(later - earlier) / 1e6 for earlier, later in pairwise(self._arrived_ns)]

    @property
    def delays_ms(self) -> list[float]:
        """Milliseconds on the way, of each event that carries its send time, in order."""
        return [(came - sent) / 1e6 for sent, came in zip(self._sent_ns, self._came_ns, strict=True)]

    @property
    def lost(self) -> int | None:
        """Numbered events that never came, at the end too where the count was told; None where none has a number."""
        if not self._numbered:
            return None
        return max(self._promised, self._highest + 1) - self._numbered

    def kept_pace(self, events_per_s: float) -> bool:
        """Whether all came, and in no more than 5 % over the time that the pace asks for."""
        if not self._arrived_ns or self.lost:
            return False
        return (self._arrived_ns[-1] - self._arrived_ns[0]) / 1e9 <= 1.05 * (self.events - 1) / events_per_s
