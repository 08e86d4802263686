"""Every request as a line of CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from benchmark.load.samples import Run, Sample
from benchmark.plan import Plan
from benchmark.session import Session
from benchmark.target import Target


def table(session: Session) -> str:
    """The whole file: a line for each request, in the order in which they were due, with the names of the JSON."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for level in session.levels:
        for target, run in zip(session.targets, level.runs, strict=True):
            for sample in sorted(run.samples, key=lambda sample: sample.due_ns):
                line = _line(sample, run, level.plan, target)
                if writer is None:
                    writer = csv.DictWriter(text, line, lineterminator="\n")
                    writer.writeheader()
                writer.writerow(line)
    return text.getvalue()


def _line(sample: Sample, run: Run, plan: Plan, target: Target) -> dict[str, Any]:
    times, tokens = sample.stream, sample.tokens
    first_event_ns = times.first_ns if times is not None else None
    return {
        "base_url": target.base_url,
        "concurrency": plan.concurrency,
        "rate_rps": plan.rate,
        "due_ms": _ms(sample.due_ns - run.began_ns),
        "send_delay_ms": _ms(sample.sent_ns - sample.due_ns),
        "latency_ms": _ms(sample.ended_ns - sample.due_ns),
        "ttfb_ms": _rounded(sample.first_byte_ms),
        "first_event_ms": None if first_event_ns is None else _ms(first_event_ns - sample.due_ns),
        "ttft_ms": _rounded(sample.ttft_ms),
        "tpot_ms": _rounded(sample.tpot_ms),
        "status": sample.status or None,
        "bytes": sample.size,
        "events": times.events if times is not None else None,
        "input_tokens": tokens.input if tokens is not None else None,
        "output_tokens": tokens.output if tokens is not None else None,
        # Begins with a status or with words of our own, never with what makes a spreadsheet calculate.
        "error": target.without_bearers(sample.cause) if sample.cause is not None else None,
    }


def _ms(span_ns: int) -> float:
    return round(span_ns / 1e6, 3)


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 3)
