"""
What Prometheus is told, over all workers of a machine; docs/metrics.md lists it.

Counters and histograms are told at a call's end, so that a worker that is killed takes none along. Gauges are looked
up once a second and at a scrape.

What others choose is bounded: projects and models have a cap for each process, beyond which they are counted as one,
and paths are counted by the part of the API.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from llmproxy import __version__
from llmproxy.api_log.record import MICRO, CallRecord
from llmproxy.endpoints import endpoint_class
from llmproxy.errors import Cause, all_codes
from llmproxy.live_calls import LiveCall
from llmproxy.statuses import BAD_REQUEST, SWITCHING_PROTOCOLS
from llmproxy.telemetry import projects, shared_values
from llmproxy.telemetry.shared_values import adding, observing

CONTENT_TYPE = CONTENT_TYPE_LATEST
exposition = shared_values.exposition
FRESH_S = 1.0
MAX_PROJECTS = 100
MAX_MODELS = 100
MAX_UPSTREAMS = 100
MODEL_CHARS = 100
OTHER, NONE = "other", "none"

_CALL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
_CLAIM_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5)
_KNOWN_STATUSES = frozenset({*map(int, HTTPStatus), 499})

disable_created_metrics()  # which processes that share could not add up

REQUESTS = Counter(
    "llmproxy_requests_total",
    "Calls that ended, refused ones included.",
    ["project", "endpoint", "status", "outcome"],
)
REFUSALS = Counter(
    "llmproxy_refusals_total", "Calls that the proxy itself refused or gave up, by the error's code.", ["code"]
)
DURATION = Histogram(
    "llmproxy_request_duration_seconds",
    "From a call's arrival to its last byte; refused calls and WebSockets are not in it.",
    ["endpoint"],
    buckets=_CALL_BUCKETS_S,
)
FIRST_BYTE = Histogram(
    "llmproxy_first_byte_seconds",
    "From a call's arrival to the first byte of the answer's body.",
    ["endpoint"],
    buckets=_CALL_BUCKETS_S,
)
OVERHEAD = Histogram(
    "llmproxy_overhead_seconds",
    "What the proxy adds until an answer begins: from arrival to the upstream's turn, and from its head to ours, "
    "without waiting for the client's body.",
    buckets=_OVERHEAD_BUCKETS_S,
)
CLAIM = Histogram(
    "llmproxy_claim_seconds", "The statement that admits and counts a call, waits included.", buckets=_CLAIM_BUCKETS_S
)
SETTLE = Histogram(
    "llmproxy_settle_seconds",
    "From the end of a call that holds something of a budget until the database knows of it, waits included.",
    buckets=_CLAIM_BUCKETS_S,
)
FAILED_INSIDE = Counter(
    "llmproxy_failed_inside_total",
    "Calls whose upstream told of an error within a response that had begun with a good status.",
    ["project", "endpoint"],
)
USAGE_TOKENS = Counter("llmproxy_usage_tokens_total", "Tokens as reported by the upstream.", ["model", "kind"])
USAGE_CLAMPED = Counter(
    "llmproxy_usage_clamped_total",
    "Calls whose usage cannot be: parts larger than their whole, a cost beyond reason.",
)
COST = Counter("llmproxy_cost_usd_total", "What calls cost, in dollars.", ["project", "model", "source"])
UNPRICED = Counter("llmproxy_unpriced_calls_total", "Calls that used what has no price.", ["model"])
OVER_BOUND = Counter(
    "llmproxy_over_bound_total", "Calls under budgets that cost more than they can by what they asked for."
)
WOULD_REFUSE = Counter(
    "llmproxy_would_refuse_total", "Calls that rules in mode `report` would have refused.", ["code"]
)
MODEL_MISMATCHES = Counter(
    "llmproxy_model_mismatches_total", "Responses of a model that the token's rules do not allow."
)
RESERVATIONS = Gauge(
    "llmproxy_reservations", "Calls under way that hold something of a budget.", multiprocess_mode="livesum"
)
RESERVATIONS_ORPHANED = Counter(
    "llmproxy_reservations_orphaned_total", "Calls whose worker died, or did not know of them, and what they held."
)
SETTLE_PENDING = Gauge(
    "llmproxy_settle_pending",
    "Calls that have ended and still hold something, because the database was not told yet.",
    multiprocess_mode="livesum",
)
ALERTS = Counter("llmproxy_alerts_total", "Tries to deliver alerts, by how they ended.", ["kind", "outcome"])
ALERTS_WAITING = Gauge("llmproxy_alerts_waiting", "Alerts that were not delivered yet.", multiprocess_mode="livemax")
PRICE_SHEET_AGE = Gauge(
    "llmproxy_price_sheet_age_seconds", "Since the day of the price sheet.", multiprocess_mode="livemostrecent"
)

IN_FLIGHT = Gauge("llmproxy_requests_in_flight", "Calls under way.", multiprocess_mode="livesum")
PROJECT_IN_FLIGHT = Gauge(
    "llmproxy_project_requests_in_flight", "Admitted calls under way.", ["project"], multiprocess_mode="livesum"
)
OPEN_STREAMS = Gauge(
    "llmproxy_open_streams",
    "Calls under way that stream: server-sent events, or a WebSocket.",
    ["kind"],
    multiprocess_mode="livesum",
)
UPSTREAM_CONNECTIONS = Gauge(
    "llmproxy_upstream_connections", "Connections to upstreams.", ["state"], multiprocess_mode="livesum"
)
UPSTREAM_FAILED_AT = Gauge(
    "llmproxy_upstream_last_failure_timestamp_seconds",
    "When a call last failed because its upstream could not be reached, or went away.",
    ["upstream", "cause"],
    multiprocess_mode="livemax",
)
DATABASE_CONNECTIONS = Gauge(
    "llmproxy_database_connections",
    "Connections to the database, of the pool for claims and of the one for everything else.",
    ["pool", "state"],
    multiprocess_mode="livesum",
)
DATABASE_CONNECTION_LIMIT = Gauge(
    "llmproxy_database_connection_limit", "Connections that a pool may open.", ["pool"], multiprocess_mode="livesum"
)
WORKERS = Gauge("llmproxy_workers", "Processes that take new calls.", multiprocess_mode="livesum")
WORKERS_WANTED = Gauge(
    "llmproxy_workers_wanted", "Processes that there should be.", multiprocess_mode="livemostrecent"
)
BUILD_INFO = Gauge("llmproxy_build_info", "Always 1.", ["version", "python"], multiprocess_mode="livemax")

LOG_PENDING = Gauge(
    "llmproxy_log_pending_records", "Records waiting in memory for room on disk.", multiprocess_mode="livesum"
)
LOG_LOST = Counter("llmproxy_log_lost_records_total", "Records that are lost.")
# Of a machine, not of a process: whoever looked last is right.
LOG_LAG_BYTES = Gauge(
    "llmproxy_log_lag_bytes", "Bytes of the call log not read yet.", ["reader"], multiprocess_mode="livemostrecent"
)
LOG_LAG_SECONDS = Gauge(
    "llmproxy_log_lag_seconds",
    "Age of the oldest record not read yet.",
    ["reader"],
    multiprocess_mode="livemostrecent",
)
LOG_DISK_BYTES = Gauge("llmproxy_log_disk_bytes", "Disk that the call log takes.", multiprocess_mode="livemostrecent")
LOG_DEAD_LETTERS = Gauge(
    "llmproxy_log_dead_letters", "Records that the receiver will never take.", multiprocess_mode="livemostrecent"
)
LOG_DROPPED = Gauge(
    "llmproxy_log_dropped_records",
    "Records, about, that the cap on disk use deleted before every reader had read them.",
    multiprocess_mode="livemostrecent",
)

LOG_DAMAGE = Counter(
    "llmproxy_log_damage_total",
    "What a reader found wrong with the call log: torn lines, files that were changed, files that went missing.",
    ["reader", "kind"],
)

SIGN_IN_FAILURES = Counter("llmproxy_sign_in_failures_total", "Wrong credentials of operators.", ["realm"])
SIGN_INS_DELAYED = Counter(
    "llmproxy_sign_ins_delayed_total", "Sign-ins of operators that had to wait after too many failures.", ["realm"]
)

WORKERS.set(1)
# There from the start: Prometheus sees a growth only of what it has seen before, and the first one may be an alert.
_refusals = {code: REFUSALS.labels(code) for code in (*all_codes(), NONE)}
BUILD_INFO.labels(__version__, platform.python_version()).set(1)
claimed = observing(CLAIM)  # with the seconds that a claim took
settled = observing(SETTLE)  # with the seconds since the call's end
_overhead = observing(OVERHEAD)
_lost_so_far = 0
_projects: set[str] = set()
_models: set[str] = set()
_upstreams: set[str] = set()


class Exposition:
    """Prometheus' text, made once in a second at most: whoever asks for it all the time keeps no call waiting."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._made_at = float("-inf")
        self._text = b""

    def text(self, look: Callable[[], None]) -> bytes:
        """
        The text of within FRESH_S.

        Args:
            look: Sets the gauges.
        """
        if self._monotonic() - self._made_at >= FRESH_S:
            look()
            self._text = exposition() + projects.exposition()
            self._made_at = self._monotonic()
        return self._text


def call_ended(record: CallRecord, *, overhead_s: float | None) -> None:
    """
    A call is over.

    Args:
        overhead_s: None where no response of the upstream began.
    """
    endpoint, outcome = endpoint_class(record.endpoint), record.outcome
    _requests(record.project_id, endpoint, record.status_code, outcome)(1)
    if outcome not in ("complete", "client_closed"):
        _refusals.get((record.error or {}).get("code") or NONE, _refusals[NONE]).inc()
    if outcome != "refused" and record.status_code != SWITCHING_PROTOCOLS:
        _duration(endpoint)(record.duration_ms / 1000)
    if record.ttft_ms is not None:
        _first_byte(endpoint)(record.ttft_ms / 1000)
    if overhead_s is not None:
        _overhead(overhead_s)
    if record.would_refuse:
        WOULD_REFUSE.labels(record.would_refuse).inc()
    if record.model_mismatch:
        MODEL_MISMATCHES.inc()
    if record.failed_inside:
        _failed_inside(record.project_id, endpoint)(1)
    # What others may tell too is counted by who knows whether they did.
    if record.usage_of is None:
        if record.metadata and record.usage_source in ("reported", "partial"):
            count_usage(_model_of(record), record.metadata)
        if record.cost:
            count_cost(record.project_id, _model_of(record), record.cost_source or NONE, record.cost)
        elif record.cost_source == "unpriced":
            count_unpriced(_model_of(record))


def _model_of(record: CallRecord) -> str:
    """The model that a call counts under, as in the sums; see `ReadRecord.billed_model`."""
    model = (record.metadata or {}).get("model")
    if not model and (record.upstream_status or BAD_REQUEST) < BAD_REQUEST:
        model = record.requested_model
    return model[:MODEL_CHARS] if isinstance(model, str) else NONE


def count_cost(project: str | None, model: str, source: str, cost: int) -> None:
    """Count what a call cost, in micro-dollars."""
    _cost(project, model[:MODEL_CHARS] or NONE, source)(cost / MICRO)


def count_unpriced(model: str) -> None:
    """Count a call that used what has no price."""
    _unpriced(model[:MODEL_CHARS] or NONE)(1)


def count_usage(model: object, usage: Mapping[str, Any]) -> None:
    """Count a call's tokens, by their names in a record's metadata."""
    shown = model[:MODEL_CHARS] if model and isinstance(model, str) else NONE
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(read) is int and read > 0:
        _tokens(shown, "prompt")(read)
    if type(written) is int and written > 0:
        _tokens(shown, "completion")(written)


# The library's own way to a labelled number, and to count on, costs more than the number.

Count = Callable[[float], None]


@lru_cache(maxsize=10_000)
def _requests(project: str | None, endpoint: str, status: int, outcome: str) -> Count:
    name = _capped(project, _projects, MAX_PROJECTS) if project else NONE
    shown = str(status) if status in _KNOWN_STATUSES else f"{status // 100}xx"
    return adding(REQUESTS.labels(name, endpoint, shown, outcome))


@lru_cache(maxsize=10_000)
def _failed_inside(project: str | None, endpoint: str) -> Count:
    return adding(FAILED_INSIDE.labels(_capped(project, _projects, MAX_PROJECTS) if project else NONE, endpoint))


@lru_cache
def _duration(endpoint: str) -> Count:
    return observing(DURATION.labels(endpoint))


@lru_cache
def _first_byte(endpoint: str) -> Count:
    return observing(FIRST_BYTE.labels(endpoint))


@lru_cache(maxsize=10_000)
def _cost(project: str | None, model: str, source: str) -> Count:
    name = _capped(project, _projects, MAX_PROJECTS) if project else NONE
    return adding(COST.labels(name, _capped(model, _models, MAX_MODELS), source))


@lru_cache(maxsize=1000)
def _unpriced(model: str) -> Count:
    return adding(UNPRICED.labels(_capped(model, _models, MAX_MODELS)))


@lru_cache(maxsize=1000)
def _tokens(model: str, kind: str) -> Count:
    return adding(USAGE_TOKENS.labels(_capped(model, _models, MAX_MODELS), kind))


def upstream_failed(upstream: str, cause: Cause) -> None:
    """A call has failed for want of its upstream, named by scheme, host and port."""
    UPSTREAM_FAILED_AT.labels(_capped(upstream, _upstreams, MAX_UPSTREAMS), cause).set(time.time())


def _capped(name: str, known: set[str], most: int) -> str:
    """The name itself while there are few; OTHER for one too many."""
    if name not in known:
        if len(known) >= most:
            return OTHER
        known.add(name)
    return name


def look_at_log(*, pending: int, lost: int) -> None:
    """
    Tell how this process's end of the log stands.

    Args:
        lost: Since the start of the process.
    """
    global _lost_so_far  # noqa: PLW0603
    LOG_PENDING.set(pending)
    LOG_LOST.inc(max(0, lost - _lost_so_far))
    _lost_so_far = lost


def look_at_calls(live: Iterable[LiveCall]) -> None:
    """Tell what is under way."""
    calls = list(live)
    IN_FLIGHT.set(len(calls))
    by_project = Tally(_capped(call.project_id, _projects, MAX_PROJECTS) for call in calls if call.project_id)
    # Those of whom no call is under way any more, too.
    for project in _projects | ({OTHER} if len(_projects) >= MAX_PROJECTS else set()):
        PROJECT_IN_FLIGHT.labels(project).set(by_project[project])
    OPEN_STREAMS.labels("sse").set(sum(call.is_stream for call in calls))
    OPEN_STREAMS.labels("websocket").set(sum(call.is_session for call in calls))
