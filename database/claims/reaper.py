"""
Ends what workers hold that died: their calls are assumed to have cost what they were estimated to.

Whoever reaps may be wrong about a worker, and does no harm then: what was assumed is corrected when the call is
settled after all, or when its record is read.

* A worker of this node is dead when its file is not locked any more (`database.claims.workers`).
* Of another node nothing is known but its lease, which its workers prolong. It counts as dead when the lease has been
  as it is for SILENCE_S, in which this process looked and the database answered. A database that was away, and a
  process that was paused, begin that time anew.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, select

from database import lease
from database.claims.workers import bury, dead_among
from llmproxy.limits.reservations import UNTOLD, ReservationStore, Settlement
from models import leases

SILENCE_S = 600.0
LEASE = timedelta(seconds=60)
# Looks that are further apart than this saw nothing in between.
_PAUSE_S = 60.0


class Reaper:
    """
    Args:
        node: This node's id.
        now_s: A steady clock.
    """

    def __init__(
        self,
        store: ReservationStore,
        engine: Engine,
        data_dir: Path,
        node: str,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._engine = store, engine
        self._data_dir, self._node, self._now_s = data_dir, node, now_s
        # Node -> its lease as it was seen last, and since when.
        self._seen: dict[str, tuple[datetime | None, float]] = {}
        self._looked_s = 0.0

    def step(self, now: datetime) -> int:
        """Prolong this node's lease, and end what the dead hold; how many calls that were. Every 10 s or so."""
        try:
            return self._step(now)
        except BaseException:
            self._seen.clear()
            raise

    def _step(self, now: datetime) -> int:
        by_node: dict[str, list[str]] = defaultdict(list)
        for node, worker in self._store.holders():
            by_node[node].append(worker)
        if self._node in by_node:  # of a node that holds nothing nobody asks whether it lives
            lease.hold(self._engine, _lease_of(self._node), self._node, now, LEASE)
        dead = dead_among(self._data_dir, by_node.pop(self._node, []))
        silent = self._silent(by_node)
        dead += [worker for node in silent for worker in by_node[node]]
        ended = sum(self._assume(worker) for worker in dead)
        bury(self._data_dir)
        return ended

    def _silent(self, nodes: Collection[str]) -> list[str]:
        """Those of other nodes whose lease has not moved for SILENCE_S."""
        now_s = self._now_s()
        if now_s - self._looked_s > _PAUSE_S:
            self._seen.clear()
        self._looked_s = now_s
        until = self._leases() if nodes else {}
        seen = {node: self._seen.get(node) for node in nodes}
        self._seen = {
            node: was if was and was[0] == until.get(_lease_of(node)) else (until.get(_lease_of(node)), now_s)
            for node, was in seen.items()
        }
        return [node for node, (_, since_s) in self._seen.items() if now_s - since_s >= SILENCE_S]

    def _leases(self) -> dict[str, datetime]:
        with self._engine.connect() as connection:
            return {row.name: row.until for row in connection.execute(select(leases.c.name, leases.c.until))}

    def _assume(self, worker: str) -> int:
        held = self._store.held_by(worker)
        for request_id in held:
            self._store.settle(Settlement(request_id, UNTOLD, "assumed"))
        return len(held)


def _lease_of(node: str) -> str:
    """The name of a node's lease: its id without dashes, which is as long as a name may be."""
    return node.replace("-", "")[:32]
