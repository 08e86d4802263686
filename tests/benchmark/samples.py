"""Samples, runs and plans made by hand."""

from benchmark.call import Call
from benchmark.load.event_stream import StreamTimes
from benchmark.load.samples import Run, Sample
from benchmark.load.usage import Tokens
from benchmark.plan import Plan
from benchmark.target import Target

TARGET = Target("http://host", ("secret-token",))
CALL = Call("/v1/chat/completions", (b"{}",))
MS = 1_000_000


def sample(latency_ms: float, *, due_ms: float = 0.0, **extra) -> Sample:
    due = int(due_ms * MS)
    return Sample(due_ns=due, sent_ns=due, ended_ns=due + int(latency_ms * MS), status=200, **extra)


def run_of(samples: list[Sample], duration_s: float = 1.0) -> Run:
    return Run(samples, 0, duration_s)


def plan(**changes) -> Plan:
    return Plan(**({"requests": 100, "duration_s": None, "concurrency": 10} | changes))


def stream(ttft_ms: float, tpot_ms: float, tokens: Tokens | None, *, shows_reasoning: bool = False) -> Sample:
    """One whose first token came so late, and each of `tokens.output` others so much later."""
    times = StreamTimes()
    times.feed(b"data: {}\n\n", int(ttft_ms * MS))
    times.finish()
    shown = 0 if tokens is None else tokens.output - (0 if shows_reasoning else tokens.reasoning)
    times.last_output_ns = int((ttft_ms + tpot_ms * max(0, shown - 1)) * MS)
    times.shows_reasoning = shows_reasoning
    return sample(5000, stream=times, tokens=tokens)
