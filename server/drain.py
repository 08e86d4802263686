"""
How a process ends, whichever server it runs: asked once it leaves gracefully, asked again it goes at once.

    asked       /readyz answers 503; responses say `Connection: close`, so that kept connections move elsewhere
    overlap     new calls are still served, until balancers have looked at /readyz
    late        listening has ended; whoever connected before may still ask
    drain       running calls may end, WebSockets are closed; whoever asks anew on a kept connection gets a 503
    cut         what outlasts DRAIN_TIMEOUT is ended and recorded
    finish      records that waited are written, usage is added up, records are shipped, positions saved
    close       what could not be written is counted as lost, and told
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.pool import Pool

from llmproxy.errors import ProxyDraining
from server.background import Background
from services import Services

# Between a connection's coming and its request may lie a moment, in which it must not be closed.
LATE_S = 1.0
# gunicorn's master kills a worker two seconds after it was told to end at once.
CUT_S = 0.3
FINISH_AT_ONCE_S = 0.8
FINISH_S = 5.0

log = logging.getLogger(__name__)


class Listener(Protocol):
    """One listening socket with the connections that came by it."""

    pool: Pool

    def close(self) -> None:
        """Take no new connection."""


class Front(Protocol):
    """What a server does of the end."""

    @property
    def listeners(self) -> Sequence[Listener]:
        """What it listens on."""

    def send_connection_close(self) -> None:
        """Let every response from now on say `Connection: close`."""

    def hang_up_on_the_idle(self) -> None:
        """Close what only waits for a request, now and from now on."""


class Stopping:
    """The end of one process: `begin` and `at_once` are for signal handlers, `wait` for its main greenlet."""

    def __init__(self, parts: Services, work: Background) -> None:
        self._parts = parts
        self._work = work
        self._asked = Event()
        self._hurried = Event()
        self._overlap_s = 0.0

    def begin(self, *, overlap: bool = True) -> None:
        """Leave gracefully. Asked again, nothing changes: a supervisor tells master and workers alike."""
        if self._asked.is_set():
            return
        self._overlap_s = self._parts.settings.drain_overlap_s if overlap else 0.0
        self._parts.draining.set()
        self._asked.set()

    def at_once(self) -> None:
        """Cut what runs, record it, and go."""
        self._hurried.set()
        self.begin(overlap=False)

    def abort(self) -> None:
        """Record what runs, and write what waits: this process ends on the spot, and waits for nobody."""
        self._parts.live.abandon(ProxyDraining())
        self._parts.close()

    def wait(self, front: Front) -> None:
        """Return when this process was asked to end and has done what there is to do before."""
        self._asked.wait()
        drain_s = self._parts.settings.drain_timeout_s
        deadline = time.monotonic() + drain_s
        front.send_connection_close()
        self._hurried.wait(min(self._overlap_s, drain_s))
        for listener in front.listeners:
            listener.close()
        pools = [listener.pool for listener in front.listeners]
        self._wait_until_empty(pools, min(LATE_S, drain_s))
        self._parts.refusing.set()
        # A WebSocket would last for ever; whoever comes back now comes to somebody else.
        self._parts.live.cut_sessions(ProxyDraining())
        if any(pools):
            log.info("no new calls from here on; %d connections are still busy", sum(map(len, pools)))
        front.hang_up_on_the_idle()
        self._wait_until_empty(pools, deadline - time.monotonic())
        self._cut(pools)
        self._work.finish(FINISH_AT_ONCE_S if self._hurried.is_set() else FINISH_S)
        self._parts.close()

    def _wait_until_empty(self, pools: list[Pool], timeout_s: float) -> None:
        """Return when every connection has ended, the time is over, or there is none."""
        joining = gevent.spawn(_join, pools)
        gevent.wait([joining, self._hurried], timeout=max(0.0, timeout_s), count=1)
        joining.kill()

    def _cut(self, pools: list[Pool]) -> None:
        if not any(pools):
            return
        log.warning("cutting the last %d connections", sum(map(len, pools)))
        # The first time calls end in words, where they have no response yet; the second, connections go too.
        for _ in range(2):
            self._parts.live.cut_all(ProxyDraining())
            gevent.spawn(_join, pools).join(CUT_S)
        for pool in pools:
            pool.kill(timeout=CUT_S)


def _join(pools: list[Pool]) -> None:
    for pool in pools:
        pool.join()
