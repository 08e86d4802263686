"""
Who sends when. Every user takes its next turn here, so that a run has exactly as many requests as were asked for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import accumulate, repeat

import gevent

from benchmark.plan import Plan

# How much too late gevent wakes a sleeper: its loop waits in whole milliseconds.
OVERSLEEP_NS = 450_000


class Schedule:
    """
    Turns for so many requests, or for so many seconds.

    Without a rate a turn is given as soon as a user asks (closed loop). With a rate turns come as the plan says,
    whether or not the responses keep up (open loop). `taken` counts the turns.
    """

    def __init__(self, plan: Plan) -> None:
        self._most = plan.requests
        self._duration_ns = None if plan.duration_s is None else int(plan.duration_s * 1e9)
        self._turns_ns = None if plan.rate is None else accumulate(_gaps_ns(plan, plan.rate), initial=0.0)
        self.taken = 0
        self._began_ns = 0

    def begin(self) -> None:
        """The clock starts."""
        self._began_ns = time.monotonic_ns()

    def end_ns(self, last_answer_ns: int) -> int:
        """When the run was over: with its last response, and not before the time that was asked for."""
        return max(last_answer_ns, self._began_ns + (self._duration_ns or 0))

    def take(self) -> int | None:
        """When the next request is due, once it nearly is; None when there are no more."""
        # Responses that are there go first. With sleep(0), which looks at no socket, one user could starve others.
        gevent.idle()
        due_ns = self._next_due_ns()
        if due_ns is None:
            return None
        wait_ns = due_ns - time.monotonic_ns() - OVERSLEEP_NS
        if wait_ns > 0:
            gevent.sleep(wait_ns / 1e9)
        return due_ns

    def _next_due_ns(self) -> int | None:
        if self._most is not None and self.taken >= self._most:
            return None
        now_ns = time.monotonic_ns()
        due_ns = now_ns if self._turns_ns is None else self._began_ns + int(next(self._turns_ns))
        if self._duration_ns is not None and due_ns - self._began_ns >= self._duration_ns:
            return None
        self.taken += 1
        return due_ns


def _gaps_ns(plan: Plan, rate: float) -> Iterator[float]:
    if plan.arrivals == "even":
        return repeat(1e9 / rate)
    dice = random.Random(plan.seed)
    return (dice.expovariate(rate) * 1e9 for _ in repeat(None))
