"""
One process of a load of claims. Its task comes as JSON on standard input, and what it did goes out.

    python -m gevent.monkey --module tests.database.claims.load
"""

import json
import random
import sys
import time
from collections import Counter

import gevent
import greenlet

from database.claims import open_token_store
from llmproxy.admission import TokenStore, utc_now
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.meters import claimed, shortage
from llmproxy.limits.reservations import Charge, RuledClaim, Settlement, Verdict, claim_of
from models import new_id


class Caller:
    """One caller after another, as greenlets; all on one store."""

    def __init__(self, task: dict) -> None:
        self.store: TokenStore = open_token_store(task["url"], default_limit=10**9)
        self.task = task
        self.done: Counter[str] = Counter()
        greenlet.settrace(self.saw_switch)

    def saw_switch(self, *_: object) -> None:
        connection = getattr(self.store, "_connection", None)
        if connection is not None and connection.in_transaction:
            self.done["switches within a transaction"] += 1

    def run(self) -> None:
        gevent.joinall(
            [gevent.spawn(self.calls, number) for number in range(self.task["parallel"])], raise_error=True
        )

    def calls(self, number: int) -> None:
        chosen = random.Random(f"{self.task['seed']}/{number}")
        for _ in range(self.task["calls"]):
            self.call(chosen, chosen.choice(self.task["tokens"]))

    def call(self, chosen: random.Random, token_hash: str) -> None:
        bound = chosen.choice(self.task["bounds"])
        figures = Bounds(bound, bound, bound // 4, bound // 4)
        request_id = new_id()
        for tries in range(50):
            state = self.store.state(token_hash)
            if state is None or state.ruled is None:
                self.done["gone"] += 1
                return
            if tries == 0:
                gevent.sleep(chosen.random() * 0.004)  # its body is read
            look, whose = state.ruled, {"request_id": request_id, "node": "node", "worker": "worker"}
            now_us = look.database_us(time.monotonic())
            asked = claim_of(look, look.meters, figures, now_us=now_us, concurrency=self.task["concurrency"], **whose)
            grant, verdict = self.store.claim_ruled(token_hash, asked, utc_now())
            if not verdict.is_stale:
                break
            self.done["stale"] += 1
        else:
            raise AssertionError("stale without end")
        if grant is None:
            self.done[reason(asked, verdict)] += 1
            return
        gevent.sleep(chosen.random() * 0.01)
        cost = chosen.randrange(bound + 1)
        self.done["admitted"] += 1
        self.done["cost"] += cost
        # Sent twice, as after an answer that was lost.
        for _ in range(chosen.choice([1, 1, 2])):
            self.store.settle(
                Settlement(request_id, Charge(cost, cost), chosen.choice(["settled", None]), verdict.meters)
            )


def reason(asked: RuledClaim, verdict: Verdict) -> str:
    """Why the claim was refused, by the rows that it locked."""
    if asked.concurrency is not None and verdict.in_flight >= asked.concurrency:
        return "concurrency"
    for meter, demand in zip(verdict.meters, asked.demands, strict=True):
        if short := shortage(meter, claimed(meter, bound=demand.bound, estimate=demand.estimate)):
            return short
    raise AssertionError("refused without a reason")


if __name__ == "__main__":
    caller = Caller(json.loads(sys.stdin.read()))
    caller.run()
    print(json.dumps(caller.done))
