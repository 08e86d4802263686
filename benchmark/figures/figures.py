"""
The figures of a run, from its own samples: the keys and units of `results.json`, and what the summary shows.

Percentiles are those of the requests that succeeded, interpolated between the two nearest samples. A failed request
counts in `requests`, `errors`, `error_rate` and `throughput_rps`; its time is left out, because a refusal is fast and
a timeout slow, and neither says how long a response takes. What cannot be known is null.
"""

from __future__ import annotations

import statistics
from collections import Counter
from datetime import UTC, datetime

from benchmark.call import Call
from benchmark.figures.goals import Goals
from benchmark.figures.percentiles import Figures, mean, percentile, rounded, spread
from benchmark.figures.streams import stream_figures
from benchmark.figures.tokens import goodput_figures, speed_figures, token_figures
from benchmark.load.samples import Run, Sample
from benchmark.load.strain import warning
from benchmark.plan import Plan
from benchmark.target import Target

NO_GOALS = Goals()


def figures(run: Run, target: Target, call: Call, plan: Plan, goals: Goals = NO_GOALS) -> Figures:
    """Everything that is known of a run. The first twelve keys are those that were promised."""
    good = [sample for sample in run.samples if sample.cause is None]
    latencies = sorted(sample.latency_ms for sample in good)
    found = _promised(run, latencies, target, call, plan) | _more(run, latencies, target, call, plan)
    found |= spread("ttfb", (sample.first_byte_ms for sample in good))
    if plan.rate is not None:
        late = ((sample.sent_ns - sample.due_ns) / 1e6 for sample in run.samples)
        found |= {"rate_rps": plan.rate, "arrivals": plan.arrivals} | spread("send_delay", late)
    found |= stream_figures(good, goals.pace) | speed_figures(good) if call.stream else {}
    found |= token_figures(run, good) | goodput_figures(run, goals) | _opened(run)
    # A lateness hides in the tail of the first bytes; of streams it is the pace that it spoils.
    return found | _own_part(run, found["event_gap_p50_ms"] if call.stream else found["ttfb_p99_ms"])


def _promised(run: Run, latencies: list[float], target: Target, call: Call, plan: Plan) -> Figures:
    """`latencies` are those of the requests that succeeded, in order."""
    count, errors = len(run.samples), len(run.samples) - len(latencies)
    return {
        "base_url": target.base_url,
        "endpoint": call.endpoint,
        "requests": count,
        "concurrency": plan.concurrency,
        "total_duration_ms": round(run.duration_s * 1000),
        "average_latency_ms": mean(latencies),
        "p50_latency_ms": rounded(percentile(latencies, 50)),
        "p90_latency_ms": rounded(percentile(latencies, 90)),
        "p99_latency_ms": rounded(percentile(latencies, 99)),
        "throughput_rps": round(count / run.duration_s, 2) if run.duration_s else 0.0,
        "error_rate": round(errors / count, 6) if count else 0.0,
        "errors": errors,
    }


def _more(run: Run, latencies: list[float], target: Target, call: Call, plan: Plan) -> Figures:
    return {
        "method": call.method,
        "min_latency_ms": rounded(latencies[0] if latencies else None),
        "max_latency_ms": rounded(latencies[-1] if latencies else None),
        "stddev_latency_ms": rounded(statistics.pstdev(latencies) if latencies else None),
        "p95_latency_ms": rounded(percentile(latencies, 95)),
        "p999_latency_ms": rounded(percentile(latencies, 99.9)),
        "successes_rps": round(len(latencies) / run.duration_s, 2) if run.duration_s else 0.0,
        "bytes_received": sum(sample.size for sample in run.samples),
        "warmup_requests": plan.warmup,
        "interrupted": run.interrupted,
        "unfinished": run.unfinished,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "errors_by_cause": _by_cause(run.samples, target),
    }


def _opened(run: Run) -> Figures:
    connect, tls = (opened.connect_ms for opened in run.opened), (opened.tls_ms for opened in run.opened)
    return {"connections_opened": len(run.opened)} | spread("connect", connect) | spread("tls", tls)


def _by_cause(samples: list[Sample], target: Target) -> list[Figures]:
    """Most frequent first, each with the first message that came with it."""
    failed = [sample for sample in samples if sample.cause is not None]
    messages: dict[str, str] = {}
    for sample in failed:
        messages.setdefault(str(sample.cause), sample.message)
    return [
        {
            "cause": target.without_bearers(cause),
            "count": count,
            "message": target.without_bearers(messages[cause]) or None,
        }
        for cause, count in Counter(str(sample.cause) for sample in failed).most_common()
    ]


def _own_part(run: Run, measured_ms: float | None) -> Figures:
    """What of all this may be the client's own doing."""
    cpu_share = round(run.strain.cpu_s / run.duration_s, 3) if run.duration_s else 0.0
    lags = spread("client_lag", run.strain.lags_ms)
    said = warning(cpu_share=cpu_share, lag_ms=lags["client_lag_p99_ms"], measured_ms=measured_ms)
    return {"client_cpu_share": cpu_share, **lags, "client_warning": said}
