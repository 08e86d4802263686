"""How much of it is sent: so many requests or so many seconds, by so many users, at their pace or at a rate."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any, Literal

from benchmark.refused import Refused, check_positive

REQUESTS = 100
CONCURRENCY = 10
# With a rate, users wait for their turns; there must be enough of them to keep it while responses are slow.
CONCURRENCY_AT_A_RATE = 256
SPARE_FILES = 64


Arrivals = Literal["even", "poisson"]
ARRIVALS: tuple[Arrivals, ...] = ("even", "poisson")


@dataclass(frozen=True)
class Plan:
    """
    How much load: so many requests or so many seconds, by so many users, at their pace or at a rate.

    Attributes:
        rate: Requests per second; None lets each user send as soon as its response has come.
        arrivals: With a rate: one every 1/rate seconds, or as strangers send who know nothing of each other.
        seed: Of strangers' arrivals.
    """

    requests: int | None
    duration_s: float | None
    concurrency: int
    rate: float | None = None
    warmup: int = 0
    arrivals: Arrivals = "even"
    seed: int = 1


def make_plan(
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    concurrency: int | None = None,
    rate: float | None = None,
    warmup: int = 0,
    arrivals: Arrivals = "even",
    seed: int = 1,
) -> Plan:
    """Fills in the defaults. Raises Refused for what contradicts itself."""
    if requests is not None and duration_s is not None:
        raise Refused("--requests and --duration contradict each other: give one of them")
    if requests is None and duration_s is None:
        requests = REQUESTS
    numbers = {"requests": requests, "duration": duration_s, "concurrency": concurrency, "rate": rate}
    for name, value in numbers.items():
        if value is not None:
            check_positive(name, value)
    if warmup < 0:
        raise Refused("--warmup must not be negative")
    if arrivals != "even" and rate is None:
        raise Refused(f"--arrivals {arrivals} is for --rate")
    if concurrency is not None and requests is not None and concurrency > requests:
        raise Refused(f"--concurrency {concurrency} is above --requests {requests}")
    users = concurrency or (CONCURRENCY if rate is None else CONCURRENCY_AT_A_RATE)
    users = users if requests is None else min(users, requests)
    return Plan(requests, duration_s, users, rate, warmup, arrivals, seed)


def make_levels(
    sweep: str | None, *, concurrency: int | None = None, rate: float | None = None, **others: Any
) -> list[Plan]:
    """
    A plan for each level of `--sweep 1,2,4` (users) or `--sweep 10/s,20/s` (rates), or the only one.

    Raises Refused for what contradicts itself. `others` are those of `make_plan`.
    """
    if sweep is None:
        return [make_plan(concurrency=concurrency, rate=rate, **others)]
    if rate is not None:
        raise Refused("--sweep and --rate contradict each other: rates are swept by --sweep 10/s,20/s")
    levels = [level.strip() for level in sweep.split(",")]
    try:
        if all(level.endswith("/s") for level in levels):
            rates = [float(level.removesuffix("/s")) for level in levels]
            return [make_plan(concurrency=concurrency, rate=rate, **others) for rate in rates]
        users = [int(level) for level in levels]
    except ValueError:
        raise Refused(f"--sweep is of the form 1,2,4 (users) or 10/s,20/s (rates), not {sweep!r}") from None
    if concurrency is not None:
        raise Refused("--sweep and --concurrency contradict each other: give one of them")
    return [make_plan(concurrency=count, **others) for count in users]


def allow_connections(count: int) -> None:
    """Lets this process have as many, or raises Refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count + SPARE_FILES > hard:
        raise Refused(f"--concurrency {count} is more than this process may have connections (ulimit -Hn: {hard})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
