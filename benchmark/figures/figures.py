"""
The figures of a run, from its own samples: the keys and units of `results.json`, and what the summary shows.

Percentiles are those of the requests that succeeded, interpolated between the two nearest samples. A failed request
counts in `requests`, `errors`, `error_rate` and `throughput_rps`; its time is left out, because a refusal is fast and
a timeout slow, and neither says how long an answer takes. What cannot be known is null.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from benchmark.call import Call
from benchmark.load.samples import Run, Sample
from benchmark.load.strain import warning
from benchmark.plan import Plan
from benchmark.target import Target

Figures = dict[str, Any]


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Of sorted numbers, interpolated linearly; None of none."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spoken_ms(value: float | None, digits: int = 3) -> str:
    """Milliseconds for people: three digits, and seconds from a thousand on."""
    if value is None:
        return "-"
    return f"{value:.{digits}g} ms" if value < 999.5 else f"{value / 1000:.{digits}g} s"


def figures(run: Run, target: Target, call: Call, plan: Plan, *, pace: float | None = None) -> Figures:
    """Everything that is known of a run. The first twelve keys are those that were promised."""
    good = [sample for sample in run.samples if sample.cause is None]
    latencies = sorted(sample.latency_ms for sample in good)
    count, errors = len(run.samples), len(run.samples) - len(good)
    found: Figures = {
        "base_url": target.base_url,
        "endpoint": call.endpoint,
        "requests": count,
        "concurrency": plan.concurrency,
        "total_duration_ms": round(run.duration_s * 1000),
        "average_latency_ms": _rounded(statistics.fmean(latencies) if latencies else None),
        "p50_latency_ms": _rounded(percentile(latencies, 50)),
        "p90_latency_ms": _rounded(percentile(latencies, 90)),
        "p99_latency_ms": _rounded(percentile(latencies, 99)),
        "throughput_rps": round(count / run.duration_s, 2) if run.duration_s else 0.0,
        "error_rate": round(errors / count, 6) if count else 0.0,
        "errors": errors,
        "min_latency_ms": _rounded(latencies[0] if latencies else None),
        "max_latency_ms": _rounded(latencies[-1] if latencies else None),
        "stddev_latency_ms": _rounded(statistics.pstdev(latencies) if latencies else None),
        "p95_latency_ms": _rounded(percentile(latencies, 95)),
        "p999_latency_ms": _rounded(percentile(latencies, 99.9)),
        "successes_rps": round(len(good) / run.duration_s, 2) if run.duration_s else 0.0,
        "bytes_received": sum(sample.size for sample in run.samples),
        "warmup_requests": plan.warmup,
        "interrupted": run.interrupted,
        "unfinished": run.unfinished,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "errors_by_cause": _by_cause(run.samples, target),
    }
    found |= _spread("ttfb", (sample.first_byte_ms for sample in good))
    if plan.rate is not None:
        late = ((sample.sent_ns - sample.due_ns) / 1e6 for sample in run.samples)
        found |= {"rate_rps": plan.rate} | _spread("send_delay", late)
    if call.stream:
        found |= _stream_figures(good, pace)
    # A lateness hides in the tail of the first bytes; of streams it is the pace that it spoils.
    return found | _own_part(run, found["event_gap_p50_ms"] if call.stream else found["ttfb_p99_ms"])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _spread(name: str, values: Iterable[float | None]) -> Figures:
    ordered = sorted(value for value in values if value is not None)
    return {f"{name}_p{percent}_ms": _rounded(percentile(ordered, percent)) for percent in (50, 90, 99)}


def _by_cause(samples: list[Sample], target: Target) -> list[Figures]:
    """Most frequent first, each with the first message that came with it."""
    failed = [sample for sample in samples if sample.cause is not None]
    messages: dict[str, str] = {}
    for sample in failed:
        messages.setdefault(str(sample.cause), sample.message)
    return [
        {
            "cause": target.without_token(cause),
            "count": count,
            "message": target.without_token(messages[cause]) or None,
        }
        for cause, count in Counter(str(sample.cause) for sample in failed).most_common()
    ]


def _own_part(run: Run, measured_ms: float | None) -> Figures:
    """What of all this may be the client's own doing."""
    cpu_share = round(run.strain.cpu_s / run.duration_s, 3) if run.duration_s else 0.0
    lags = _spread("client_lag", run.strain.lags_ms)
    said = warning(cpu_share=cpu_share, lag_ms=lags["client_lag_p99_ms"], measured_ms=measured_ms)
    return {"client_cpu_share": cpu_share, **lags, "client_warning": said}


def _stream_figures(good: list[Sample], pace: float | None) -> Figures:
    streams = [(sample, sample.stream) for sample in good if sample.stream is not None]
    first = ((times.first_ns - sample.due_ns) / 1e6 for sample, times in streams if times.first_ns is not None)
    numbered = [times.lost for _, times in streams if times.lost is not None]
    found = {
        "events": sum(times.events for _, times in streams),
        **_spread("first_event", first),
        **_spread("event_gap", chain.from_iterable(times.gaps_ms for _, times in streams)),
        **_spread("event_delay", chain.from_iterable(times.delays_ms for _, times in streams)),
        "events_lost": sum(numbered) if numbered else None,
        "streams_at_once": _most_at_once([sample for sample, _ in streams]),
    }
    if pace is not None:
        sustained = sum(times.kept_pace(pace) for _, times in streams)
        found |= {"pace_events_per_s": pace, "streams_sustained": sustained}
    return found


def _most_at_once(samples: list[Sample]) -> int:
    """How many were open at the same moment, at the most."""
    steps = sorted(chain.from_iterable(((s.sent_ns, 1), (s.ended_ns, -1)) for s in samples))
    most = current = 0
    for _, step in steps:
        current += step
        most = max(most, current)
    return most
