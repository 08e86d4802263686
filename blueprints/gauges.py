"""How a process stands at this moment, told to the metrics: once a second, and at a scrape."""

from __future__ import annotations

from sqlalchemy import Engine, QueuePool

from blueprints.services import Services
from llmproxy import metrics
from llmproxy.admission import Connections


def look(parts: Services, engine: Engine) -> None:
    """Tell what is under way in this process, and what it holds open."""
    metrics.WORKERS.set(not parts.draining.is_set())
    metrics.look_at_calls(parts.live)
    metrics.look_at_log(pending=parts.log.pending, lost=parts.log.lost)
    busy, idle = parts.upstream.count_connections()
    metrics.UPSTREAM_CONNECTIONS.labels("busy").set(busy)
    metrics.UPSTREAM_CONNECTIONS.labels("idle").set(idle)
    _tell_pool("claims", parts.admission.connections())
    if isinstance(pool := engine.pool, QueuePool):
        limit = pool.size() + pool._max_overflow
        _tell_pool("others", Connections(pool.checkedout(), pool.checkedin(), limit))


def _tell_pool(name: str, connections: Connections) -> None:
    metrics.DATABASE_CONNECTIONS.labels(name, "busy").set(connections.busy)
    metrics.DATABASE_CONNECTIONS.labels(name, "idle").set(connections.idle)
    metrics.DATABASE_CONNECTION_LIMIT.labels(name).set(connections.limit)
