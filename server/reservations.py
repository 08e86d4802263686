"""
This process's part in what calls hold of budgets: the name that its claims stand under, the ends of its calls, and a
look now and then at what the dead have left held.
"""

from __future__ import annotations

import logging

import gevent
from gevent.event import Event

from accounting.rollup import node_id
from database.claims.reaper import Reaper
from database.claims.settling import Settling
from database.claims.workers import Worker
from llmproxy.admission import TokenStore, utc_now
from llmproxy.api_log.file_lock import FileLock
from llmproxy.telemetry import metrics
from services import Services

log = logging.getLogger(__name__)


class Reservations:
    """
    To be made after the fork. Until this process has a name, calls that would hold something are refused.

    Args:
        ending: Set when the last call has ended.
    """

    def __init__(self, parts: Services, ending: Event) -> None:
        self._parts = parts
        self._store: TokenStore = parts.store
        self._ending = ending
        self._worker: Worker | None = None
        self._settling: Settling | None = None
        self._told: gevent.Greenlet | None = None
        self._reaper: Reaper | None = None
        # One process of a node looks for the dead.
        self._lock = FileLock(parts.settings.data_dir / ".reaper.lock")
        try:
            self._begin()
        except OSError as exc:
            log.warning("calls of tokens with budgets are refused until DATA_DIR is writable: %s", exc.strerror)

    def _begin(self) -> None:
        data_dir = self._parts.settings.data_dir
        node, self._worker = node_id(data_dir), Worker(data_dir)
        settling = Settling(self._store, node, self._worker.name, took_s=metrics.settled)
        self._settling = self._parts.gate.settler = settling
        self._reaper = Reaper(self._store, self._parts.engine, data_dir, node)
        self._told = gevent.spawn(self._settling.run, self._ending)

    def __call__(self) -> None:
        """Release what is held under this name for none of its calls, and end what the dead of all nodes hold."""
        if self._settling is None or self._reaper is None:
            self._begin()
            return
        if self._ending.is_set():
            return
        ended = self._settling.release_unknown()
        if self._lock.acquire():
            ended += self._reaper.step(utc_now())
        if ended:
            metrics.RESERVATIONS_ORPHANED.inc(ended)

    def finish(self) -> None:
        """Wait until the database has been told of every call, and let the name go."""
        if self._told and self._settling and self._worker:
            self._told.join()
            if not self._settling.running:
                self._worker.leave()
