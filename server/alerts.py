"""
Alerts: looks for them and delivers them, in one process of all nodes; a lease in the database decides which. Keys
that upstreams refuse are seen by whoever makes the calls, and so looked for in each.

Each is delivered at least once. A receiver that fails is asked again after a random pause that grows to a minute, or
after its Retry-After; meanwhile what waits stands in the database.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product
from typing import Protocol

from accounting import report
from control import alerts
from control.alerts import Alert
from database import lease
from database.engine import Engine
from llmproxy.admission import utc_now
from llmproxy.api_log.shipper import pause_within
from llmproxy.api_log.sink import BatchRefused, SinkUnavailable
from llmproxy.telemetry import metrics, outages
from llmproxy.webhook import KEY_REFUSED, KINDS, MODEL_UNPRICED

LEASE = timedelta(seconds=30)
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0

# The most called; the others are told of on a day when they are among them.
_MOST_MODELS = 20
_OUTCOMES = ("delivered", "failed", "refused")

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """See `llmproxy.webhook`."""

    @property
    def name(self) -> str: ...
    def deliver(self, event_id: str, body: bytes, now: datetime) -> None: ...


@dataclass(eq=False)
class Alerts:
    """One process's part; its looks and `deliver` are called again and again, each by a greenlet of its own."""

    engine: Engine
    receiver: Receiver
    kinds: Collection[str] = KINDS
    monotonic: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    _me: str = field(default_factory=lambda: str(uuid.uuid4()))
    _asks_at: float = 0.0
    _failures: int = 0
    _reason: str = ""

    def __post_init__(self) -> None:
        # There from the start: Prometheus sees a growth only of what it has seen before.
        for kind, outcome in product(self.kinds, _OUTCOMES):
            metrics.ALERTS.labels(kind, outcome)

    def look(self) -> None:
        """Write down what is to be told."""
        if self._leads():
            alerts.note_new(self.engine, utc_now(), self.kinds)

    def look_for_unpriced(self) -> None:
        """Write down which models without a price were called today, in UTC."""
        now = utc_now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if MODEL_UNPRICED in self.kinds and self._leads():
            found = report.unpriced_by_all(self.engine, today, now, limit=_MOST_MODELS)
            calls = {model: count for model, count in found.items() if model}
            alerts.note_unpriced(self.engine, calls, now)

    def look_for_refused_keys(self) -> None:
        """Write down whose key was refused in this process; each looks at its own calls."""
        refused = set(outages.keys_refused)
        if refused and KEY_REFUSED in self.kinds:
            alerts.note_refused_keys(self.engine, refused, utc_now())
        outages.keys_refused.difference_update(refused)

    def deliver(self) -> None:
        """Deliver what waits, until the receiver fails."""
        count = alerts.count_waiting(self.engine)
        metrics.ALERTS_WAITING.set(count)
        if not count or self.monotonic() < self._asks_at:
            return
        # Prolonged with each: a slow receiver must not have another process send the same. What is read before a
        # lease is another process's to deliver.
        for alert in alerts.waiting(self.engine) if self._leads() else ():
            if not (self._leads() and self._is_closed(alert)):
                return

    def _leads(self) -> bool:
        return lease.hold(self.engine, "alerts", self._me, utc_now(), LEASE)

    def _is_closed(self, alert: Alert) -> bool:
        try:
            self.receiver.deliver(alert.id, alert.body, utc_now())
        except SinkUnavailable as exc:
            self._note_failure(exc)
            metrics.ALERTS.labels(alert.kind, "failed").inc()
            return False
        except BatchRefused as exc:
            log.warning("%s will not take alert %s, which is given up: %s", self.receiver.name, alert.id, exc)
            self._close(alert, "refused")
            return True
        self._note_success()
        self._close(alert, "delivered")
        return True

    def _close(self, alert: Alert, outcome: str) -> None:
        alerts.close(self.engine, alert.id, is_refused=outcome == "refused")
        metrics.ALERTS.labels(alert.kind, outcome).inc()

    def _note_success(self) -> None:
        if self._failures:
            log.info("%s takes alerts again", self.receiver.name)
        self._failures, self._reason = 0, ""

    def _note_failure(self, exc: SinkUnavailable) -> None:
        # Once per reason: an outage of hours needs one line, not one per try.
        if str(exc) != self._reason:
            log.warning("%s does not take alerts, they wait in the database: %s", self.receiver.name, exc)
        self._failures, self._reason = self._failures + 1, str(exc)
        bound_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures - 1, 30))
        self._asks_at = self.monotonic() + pause_within(bound_s, exc.retry_after_s, self.uniform)
