"""Samples, runs and plans made by hand."""

from benchmark.call import Call
from benchmark.load.samples import Run, Sample
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
