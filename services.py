"""The assembled parts that everybody above works with: built once per process by `create_app`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from threading import Event
from typing import cast

from flask import Flask

from config import Settings
from control.asked import Asked
from control.sign_ins import SignIns
from database.engine import Engine, connections
from llmproxy.admission import Admission, Connections, TokenStore, utc_now
from llmproxy.api_log.writer import LogWriter
from llmproxy.client.address import ClientAddress
from llmproxy.client.held_bodies import HeldBodies
from llmproxy.client.upload_pace import UploadPace
from llmproxy.fairness import Fairness
from llmproxy.gate import Gate
from llmproxy.keyring import KeyRing
from llmproxy.limits.prices import Prices
from llmproxy.live_calls import LiveCalls
from llmproxy.telemetry import metrics, outages
from llmproxy.upstream import Upstream

EXTENSION = "llmproxy"


@dataclass(frozen=True, slots=True)
class Services:
    """
    The assembled parts.

    ``draining`` is set when this process is about to stop, ``refusing`` when it takes no new calls any more; ``live``
    has what runs, ``prices`` is None where no prices are kept, ``ops_ports`` are those of the listener for operators.
    """

    settings: Settings
    engine: Engine
    store: TokenStore
    admission: Admission
    gate: Gate
    live: LiveCalls
    fairness: Fairness
    keyring: KeyRing
    upstream: Upstream
    upload_pace: UploadPace
    held_bodies: HeldBodies
    log: LogWriter
    prices: Prices | None
    exposition: metrics.Exposition = field(default_factory=metrics.Exposition)
    sign_ins: SignIns = field(default_factory=SignIns)
    asked: Asked = field(default_factory=Asked)
    client_address: ClientAddress = field(default_factory=ClientAddress)
    ops_ports: set[str] = field(default_factory=set)
    draining: Event = field(default_factory=Event)
    refusing: Event = field(default_factory=Event)

    @staticmethod
    def of(app: Flask) -> Services:
        """The parts of `app`."""
        return cast(Services, app.extensions[EXTENSION])

    def close(self) -> None:
        """End this process's part: what its log still holds in memory is written, or told as lost."""
        self.log.close()
        outages.tell(is_last=True)
        self.tell_gauges()

    def tell_gauges(self) -> None:
        """Tell the metrics what is under way in this process, and what it holds open: once a second, at a scrape."""
        metrics.WORKERS.set(not self.draining.is_set())
        metrics.look_at_calls(self.live)
        metrics.look_at_log(pending=self.log.pending, lost=self.log.lost)
        if self.prices:
            metrics.PRICE_SHEET_AGE.set((utc_now().date() - date.fromisoformat(self.prices.date)).total_seconds())
        if settler := self.gate.settler:
            metrics.RESERVATIONS.set(settler.running)
            metrics.SETTLE_PENDING.set(settler.pending)
        busy, idle = self.upstream.count_connections()
        metrics.UPSTREAM_CONNECTIONS.labels("busy").set(busy)
        metrics.UPSTREAM_CONNECTIONS.labels("idle").set(idle)
        _tell_pool("claims", self.admission.connections())
        if others := connections(self.engine):
            _tell_pool("others", others)


def _tell_pool(name: str, held: Connections) -> None:
    metrics.DATABASE_CONNECTIONS.labels(name, "busy").set(held.busy)
    metrics.DATABASE_CONNECTIONS.labels(name, "idle").set(held.idle)
    metrics.DATABASE_CONNECTION_LIMIT.labels(name).set(held.limit)
