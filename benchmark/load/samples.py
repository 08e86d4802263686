"""
What is known of one request after it ended, and of a run. Times are nanoseconds of the monotonic clock, which is one
for the whole machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmark.load.causes import Cause
from benchmark.load.connections import Opened
from benchmark.load.event_stream import StreamTimes
from benchmark.load.strain import Strain
from benchmark.load.usage import Tokens


@dataclass(slots=True)
class Sample:
    """
    One request that ended, well or not.

    `due_ns` is when it was meant to leave: with a rate, the time the rate asked for, so that a slow response cannot
    hide what it kept waiting; otherwise the time it left, `sent_ns`. `cause` is None for a complete response of 2xx.
    """

    due_ns: int
    sent_ns: int
    ended_ns: int = 0
    first_byte_ns: int | None = None
    status: int = 0
    size: int = 0
    cause: str | None = None
    message: str = ""
    stream: StreamTimes | None = None
    tokens: Tokens | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def fail(self, why: Cause | None) -> None:
        """Cause and message of a failure, or None where there is none."""
        if why is not None:
            self.cause, self.message = why

    @property
    def latency_ms(self) -> float:
        """From when it was due to its last byte."""
        return (self.ended_ns - self.due_ns) / 1e6

    @property
    def first_byte_ms(self) -> float | None:
        """From when it was due to the end of the response's head, None where none came."""
        return None if self.first_byte_ns is None else (self.first_byte_ns - self.due_ns) / 1e6

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: from when it was due to the first event that carries output, None where none did."""
        first_ns = self.stream.first_output_ns if self.stream is not None else None
        return None if first_ns is None else (first_ns - self.due_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """
        Time per output token: from the first to the last of a stream, by the tokens that came after the first.

        Reasoning that is not shown was over when the first token came, and is left out. None of less than two tokens.
        """
        times, tokens = self.stream, self.tokens
        if times is None or tokens is None or times.first_output_ns is None or times.last_output_ns is None:
            return None
        shown = (tokens.output or 0) - (0 if times.shows_reasoning else tokens.reasoning)
        return None if shown < 2 else (times.last_output_ns - times.first_output_ns) / 1e6 / (shown - 1)


@dataclass
class Run:
    """
    What a run brought.

    It lasts until its last response, or until it was `interrupted`, when `unfinished` requests were on their way.
    `opened` are the connections that it needed and that were not there yet.
    """

    samples: list[Sample]
    began_ns: int
    duration_s: float
    interrupted: bool = False
    unfinished: int = 0
    strain: Strain = field(default_factory=Strain)
    opened: list[Opened] = field(default_factory=list)
