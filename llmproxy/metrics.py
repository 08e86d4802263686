"""
What Prometheus is told, over all workers of a machine.

With PROMETHEUS_MULTIPROC_DIR set (gunicorn.conf.py does) each worker counts in a file of its own and a scrape
adds them up. No label holds anything that callers choose freely, so the number of series is bounded.
"""

from __future__ import annotations

import os
from collections import Counter as Counts
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from llmproxy.api_log.record import CallRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST
_DURATION_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_IS_MULTIPROCESS = values.ValueClass.__name__ == "MmapedValue"
if _IS_MULTIPROCESS:
    # The library asks for the pid at each count, a system call; this module is imported after the fork.
    _PID = os.getpid()
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _PID)  # type: ignore[no-untyped-call]

REQUESTS = Counter("llmproxy_requests_total", "Proxied requests that ended.", ["outcome", "status"])
REFUSALS = Counter("llmproxy_refusals_total", "Requests refused by the proxy itself.", ["code"])
IN_FLIGHT = Gauge("llmproxy_requests_in_flight", "Requests under way.", multiprocess_mode="livesum")
DURATION = Histogram(
    "llmproxy_request_duration_seconds", "From arrival to the last byte.", buckets=_DURATION_BUCKETS_S
)
FIRST_BYTE = Histogram(
    "llmproxy_first_byte_seconds", "From arrival to the first body byte.", buckets=_DURATION_BUCKETS_S
)
USAGE_TOKENS = Counter("llmproxy_usage_tokens_total", "Tokens as reported by the upstream.", ["kind"])
USAGE = {kind: USAGE_TOKENS.labels(kind) for kind in ("prompt_tokens", "completion_tokens")}
LOG_PENDING = Gauge(
    "llmproxy_log_pending_records", "Records waiting in memory for room on disk.", multiprocess_mode="livesum"
)
LOG_LOST = Gauge("llmproxy_log_lost_records", "Records lost since the workers started.", multiprocess_mode="livesum")
# Of a machine, not of a process: whoever looked last is right.
LOG_LAG_BYTES = Gauge(
    "llmproxy_log_lag_bytes", "Bytes of the call log not read yet.", ["reader"], multiprocess_mode="mostrecent"
)
LOG_LAG_SECONDS = Gauge(
    "llmproxy_log_lag_seconds", "Age of the oldest record not read yet.", ["reader"], multiprocess_mode="mostrecent"
)
LOG_DISK_BYTES = Gauge("llmproxy_log_disk_bytes", "Disk that the call log takes.", multiprocess_mode="mostrecent")
LOG_DEAD_LETTERS = Gauge(
    "llmproxy_log_dead_letters", "Records that the receiver will never take.", multiprocess_mode="mostrecent"
)
LOG_DROPPED = Gauge(
    "llmproxy_log_dropped_records",
    "Records, about, that the cap on disk use deleted before every reader had read them.",
    multiprocess_mode="mostrecent",
)

# Noted in the plain on the hot path, and told to the library by `publish`: there, each count takes a lock and a
# write to a mapped file, which is cheaper many at a time.
calls_under_way = 0
_ended: deque[CallRecord] = deque(maxlen=100_000)  # should nobody call `publish`, memory stays bounded


def call_began() -> None:
    """One more call is under way."""
    global calls_under_way  # noqa: PLW0603
    calls_under_way += 1


def call_ended(record: CallRecord) -> None:
    """A call is over; what it was counts within about a second."""
    global calls_under_way  # noqa: PLW0603
    calls_under_way -= 1
    _ended.append(record)


def publish(*, log_pending: int, log_lost: int) -> None:
    """Tell what was noted since the last time: called by every process about once a second, and at a scrape."""
    ended = [_ended.popleft() for _ in range(len(_ended))]
    for (outcome, status), number in Counts((call.outcome, call.status_code) for call in ended).items():
        REQUESTS.labels(outcome, str(status)).inc(number)
    for call in ended:
        _observe(call)
    IN_FLIGHT.set(calls_under_way)
    LOG_PENDING.set(log_pending)
    LOG_LOST.set(log_lost)


def _observe(call: CallRecord) -> None:
    DURATION.observe(call.duration_ms / 1000)
    if call.ttft_ms is not None:
        FIRST_BYTE.observe(call.ttft_ms / 1000)
    if call.outcome == "refused":
        REFUSALS.labels((call.error or {}).get("code") or "none").inc()
    for kind, counter in USAGE.items():
        if call.metadata and (amount := call.metadata.get(kind)):
            counter.inc(amount)


def exposition() -> bytes:
    """The current values in Prometheus' text format."""
    if not _IS_MULTIPROCESS:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
