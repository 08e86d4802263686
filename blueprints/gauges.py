"""How a process stands at this moment, told to the metrics: once a second, and at a scrape."""

from __future__ import annotations

from sqlalchemy import Engine, QueuePool

from blueprints.services import Services
from llmproxy import metrics


def look(parts: Services, engine: Engine) -> None:
    """Tell what is under way in this process, and what it holds open."""
    metrics.look_at_calls(parts.live)
    metrics.look_at_log(pending=parts.log.pending, lost=parts.log.lost)
    busy, idle = parts.upstream.count_connections()
    metrics.UPSTREAM_CONNECTIONS.labels("busy").set(busy)
    metrics.UPSTREAM_CONNECTIONS.labels("idle").set(idle)
    # Behind PgBouncer there may be no pool of ours.
    if isinstance(pool := engine.pool, QueuePool):
        metrics.DATABASE_CONNECTIONS.labels("busy").set(pool.checkedout())
        metrics.DATABASE_CONNECTIONS.labels("idle").set(pool.checkedin())
        metrics.DATABASE_CONNECTION_LIMIT.set(pool.size() + pool._max_overflow)
