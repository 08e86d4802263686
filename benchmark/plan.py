"""How much of it is sent: so many requests or so many seconds, by so many users, at their pace or at a rate."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from benchmark.refused import Refused, check_positive

REQUESTS = 100
CONCURRENCY = 10
# With a rate, users wait for their turns; there must be enough of them to keep it while answers are slow.
CONCURRENCY_AT_A_RATE = 256
SPARE_FILES = 64


@dataclass(frozen=True)
class Plan:
    """How much load: so many requests or so many seconds, by so many users, at their pace or at a rate."""

    requests: int | None
    duration_s: float | None
    concurrency: int
    rate: float | None = None
    warmup: int = 0


def make_plan(
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    warmup: int = 0,
) -> Plan:
    """Fills in the defaults. Raises Refused for what contradicts itself."""
    if requests is not None and duration_s is not None:
        raise Refused("--requests and --duration contradict each other: give one of them")
    if requests is None and duration_s is None:
        requests = REQUESTS
    for name, value in (
        ("requests", requests),
        ("duration", duration_s),
        ("concurrency", concurrency),
        ("rate", rate),
    ):
        if value is not None:
            check_positive(name, value)
    if warmup < 0:
        raise Refused("--warmup must not be negative")
    if concurrency is not None and requests is not None and concurrency > requests:
        raise Refused(f"--concurrency {concurrency} is above --requests {requests}")
    users = concurrency or (CONCURRENCY if rate is None else CONCURRENCY_AT_A_RATE)
    users = users if requests is None else min(users, requests)
    return Plan(requests, duration_s, users, rate, warmup)


def allow_connections(count: int) -> None:
    """Lets this process have as many, or raises Refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count + SPARE_FILES > hard:
        raise Refused(f"--concurrency {count} is more than this process may have connections (ulimit -Hn: {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
