"""
A worker's running calls that hold something, and their ends, which wait for nobody and are lost by nothing.

Who ends a call only says so. One greenlet tells the database, and goes on telling it while it does not answer; the
call's record on disk is the second copy, from which the rollup charges what this process could not.

A claim whose outcome is unknown is ended in the same way, with nothing: it may have taken place. Should it take place
later still, it stands under this worker's name in the database and among no running calls, which is looked for.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from gevent.event import Event

from llmproxy.admission import StoreUnavailable
from llmproxy.limits.reservations import NOTHING, ReservationStore, Settlement

RETRY_S = 0.5

log = logging.getLogger(__name__)


class Settling:
    """
    The calls of one worker.

    Args:
        node, worker: The names that its claims give.
        took_s: Told of each call how long after its end the database knew of it.
    """

    def __init__(
        self, store: ReservationStore, node: str, worker: str, *, took_s: Callable[[float], None] = lambda _: None
    ) -> None:
        self.node = node
        self.worker = worker
        self._store = store
        self._took_s = took_s
        self._running: set[str] = set()
        self._ended: deque[tuple[Settlement, float]] = deque()
        self._has_ended = Event()
        self._all_told = Event()
        self._all_told.set()
        self._is_failing = False

    @property
    def running(self) -> int:
        """Calls that hold something, or are about to."""
        return len(self._running)

    @property
    def pending(self) -> int:
        """Ended calls that the database has not been told of."""
        return len(self._ended)

    def begin(self, request_id: str) -> None:
        """A call's claim is about to be sent."""
        self._running.add(request_id)

    def refused(self, request_id: str) -> None:
        """Its claim was not admitted."""
        self._running.discard(request_id)

    def unknown(self, request_id: str) -> None:
        """Nobody can tell whether its claim was admitted, and the call was not made."""
        self.end(Settlement(request_id, NOTHING, "settled"))

    def end(self, settlement: Settlement) -> None:
        """The call has ended. Never waits."""
        self._ended.append((settlement, time.perf_counter()))
        self._all_told.clear()
        self._has_ended.set()

    def wait(self, within_s: float) -> None:
        """Wait until the database knows of all that has ended, so long at most."""
        self._all_told.wait(within_s)

    def run(self, ending: Event) -> None:
        """Tell the database of what has ended, until `ending` is set and nothing is left."""
        while self._ended or not ending.is_set():
            self._has_ended.wait(RETRY_S)
            if not self.step():
                ending.wait(RETRY_S)

    def step(self) -> bool:
        """Tell the database of all that has ended by now; False when it does not answer."""
        self._has_ended.clear()
        while self._ended:
            try:
                told = self._tell()
            except StoreUnavailable as exc:
                self._fails(exc)
                # One that cannot be told does not keep the others from it.
                self._ended.rotate(-1)
                return False
            now_s = time.perf_counter()
            for _ in range(told):
                settlement, since = self._ended.popleft()
                self._running.discard(settlement.request_id)
                self._took_s(now_s - since)
        self._all_told.set()
        self._is_failing = False
        return True

    def _tell(self) -> int:
        """Tell the database of the first that have ended; how many. One alone while it may be one that fails."""
        if self._is_failing or len(self._ended) == 1:
            self._store.settle(self._ended[0][0])
            return 1
        return self._store.settle_together([settlement for settlement, _ in self._ended])

    def release_unknown(self) -> int:
        """End what is held under this worker's name for none of its calls; how many there were."""
        # Of those that run now one may end, and its row with it, between the database's answer and the next line.
        began = set(self._running)
        unknown = set(self._store.held_by(self.worker)) - began - self._running
        for request_id in unknown:
            log.warning("releasing what is held for request %s, which is not running", request_id)
            self._store.settle(Settlement(request_id, NOTHING, "settled"))
        return len(unknown)

    def _fails(self, exc: StoreUnavailable) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning("cannot settle calls, and tries again: %s", exc)
