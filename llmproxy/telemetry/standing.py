"""How all processes of this machine stand, out of what Prometheus is told: for a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from llmproxy.errors import Cause
from llmproxy.telemetry import shared_values


@dataclass(frozen=True, slots=True)
class Failure:
    """When calls to an upstream last failed for want of it, and why."""

    at: datetime
    cause: Cause


@dataclass(frozen=True, slots=True)
class Standing:
    """
    As of a second ago at most.

    Attributes:
        workers: Processes that take new calls, of which there should be `workers_wanted`.
        calls: Under way. Of them, `streams` and `websockets` may stay so for long.
        failures: The last one of each upstream, by scheme, host and port. A worker that ended takes its own along.
    """

    workers: int
    workers_wanted: int
    calls: int
    streams: int
    websockets: int
    failures: Mapping[str, Failure]


def calls_of(project_id: str) -> int:
    """How many calls of a project are under way on this machine; of one among very many projects nobody can tell."""
    return sum(
        int(value)
        for name, labels, value, *_ in shared_values.samples()
        if name == "llmproxy_project_requests_in_flight" and labels["project"] == project_id
    )


def standing() -> Standing:
    """How each process told it last."""
    told: Counter[str] = Counter()
    failures: dict[str, Failure] = {}
    for name, labels, value, *_ in shared_values.samples():
        if name == "llmproxy_upstream_last_failure_timestamp_seconds":
            upstream, cause = labels["upstream"], cast(Cause, labels["cause"])
            failure = Failure(datetime.fromtimestamp(value, UTC), cause)
            failures[upstream] = max(failure, failures.get(upstream, failure), key=lambda one: one.at)
        else:
            told[name + labels.get("kind", "")] += int(value)
    return Standing(
        workers=told["llmproxy_workers"],
        workers_wanted=told["llmproxy_workers_wanted"],
        calls=told["llmproxy_requests_in_flight"],
        streams=told["llmproxy_open_streamssse"],
        websockets=told["llmproxy_open_streamswebsocket"],
        failures=failures,
    )
