"""
Deletes what has outlived its time: tokens after they expired, sums of usage, objects whose usage was counted, places
of calls in the log, lines of the audit trail, alerts.

In small batches, each a transaction of its own, so that no admission waits for more than milliseconds of it. Two
processes that do it at once delete nothing wrong, only do some of it twice; `lease` spares them that.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Delete, Engine, delete, exists, func, or_, select, tuple_

from config import Settings
from database.engine import BACKGROUND_BUSY_MS, background_transaction
from llmproxy.times import microseconds
from models import (
    AuditEntry,
    Meter,
    Token,
    alerts,
    call_index,
    log_segments,
    reservations,
    retired_secrets,
    seen_objects,
    usage_keys,
    usage_sums,
)

DAY_S = 24 * 3600
BATCH = 500
# Whoever reads an object of before that again has its usage counted again.
SEEN_DAYS = 30
# A record that has not come by then never will.
RESERVATION_DAYS = 7
# Delivered or not. While a meter's period lasts, it is known what was told of it.
ALERT_DAYS = 30


class Cleanup:
    """
    Args:
        settings: Say for how many days tokens and replaced secrets are kept after they ended, and the others from
            their time on.
        busy_ms: How long a batch waits where another process holds SQLite's write lock; NoAnswer then.
    """

    def __init__(self, engine: Engine, settings: Settings, *, busy_ms: int = BACKGROUND_BUSY_MS) -> None:
        self._engine = engine
        self._settings = settings
        self._busy_ms = busy_ms

    def batches(self, now: datetime) -> Iterator[tuple[str, int]]:
        """
        Delete a batch with every step: what it was of, and how many.

        Between two steps no transaction is open, so that a caller may let others work, or stop.
        """
        kept = self._settings
        died = now - timedelta(days=kept.token_retention_days)
        expired = select(Token.token_hash).where(Token.expires_at < died).limit(BATCH)
        yield from self._repeated("expired tokens", delete(Token).where(Token.token_hash.in_(expired)))
        # Whoever finds an old secret somewhere may still ask the pages whose it was.
        over = select(retired_secrets.c.token_hash).where(retired_secrets.c.until < died).limit(BATCH)
        replaced = delete(retired_secrets).where(retired_secrets.c.token_hash.in_(over))
        yield from self._repeated("replaced secrets", replaced)
        yield from self._old_usage(now - timedelta(days=kept.usage_retention_days))
        unread_since = int((now - timedelta(days=SEEN_DAYS)).timestamp())
        seen = tuple_(seen_objects.c.project_id, seen_objects.c.object_id)
        unread = select(*seen.clauses).where(seen_objects.c.at < unread_since).limit(BATCH)
        yield from self._repeated("objects seen", delete(seen_objects).where(seen.in_(unread)))
        yield from self._old_calls(int((now - timedelta(days=kept.request_index_days)).timestamp() * 1000))
        told = now - timedelta(days=kept.audit_retention_days)
        old = select(AuditEntry.id).where(AuditEntry.at < told).limit(BATCH)
        yield from self._repeated("audit entries", delete(AuditEntry).where(AuditEntry.id.in_(old)))
        made_us = microseconds(now - timedelta(days=RESERVATION_DAYS))
        ended = reservations.c.state != "held", reservations.c.at < made_us
        ids = select(reservations.c.request_id).where(*ended).limit(BATCH)
        yield from self._repeated("reservations", delete(reservations).where(reservations.c.request_id.in_(ids)))
        noted_us, now_us = microseconds(now - timedelta(days=ALERT_DAYS)), microseconds(now)
        is_over = or_(alerts.c.period_end < now_us, ~exists().where(Meter.id == alerts.c.subject))
        gone = select(alerts.c.id).where(alerts.c.at < noted_us, is_over).limit(BATCH)
        yield from self._repeated("alerts", delete(alerts).where(alerts.c.id.in_(gone)))

    def _old_calls(self, since_ms: int) -> Iterator[tuple[str, int]]:
        # Records are written as calls end. Where one of a file ended before, so did all of the node's earlier files.
        ended = call_index.c.at < since_ms, call_index.c.at + call_index.c.duration_ms + 1 < since_ms
        last_ended = (
            select(log_segments.c.node_id, func.max(log_segments.c.id))
            .join(call_index, call_index.c.segment == log_segments.c.id)
            .where(*ended)
            .group_by(log_segments.c.node_id)
        )
        with self._engine.connect() as connection:
            over = connection.execute(last_ended).all()
        indexed = tuple_(call_index.c.at, call_index.c.segment, call_index.c.place)
        old_calls = select(*indexed.clauses).where(call_index.c.at < since_ms).limit(BATCH)
        yield from self._repeated("calls in the index", delete(call_index).where(indexed.in_(old_calls)))
        for node, last in over:
            earlier = log_segments.c.node_id == node, log_segments.c.id < last
            if count := self._deleted(delete(log_segments).where(*earlier)):
                yield "files of the log in the index", count

    def _old_usage(self, before: datetime) -> Iterator[tuple[str, int]]:
        some = False
        for step in self._old_sums(before):
            some = True
            yield step
        if some:
            yield from self._unused_keys()

    def _old_sums(self, before: datetime) -> Iterator[tuple[str, int]]:
        # Whole days alone, so that the views by day and by hour keep telling the same.
        first_kept = int(before.timestamp()) // DAY_S * 24
        key = tuple_(usage_sums.c.view, usage_sums.c.hour, usage_sums.c.key_id)
        with self._engine.connect() as connection:
            views = connection.scalars(select(usage_keys.c.view).distinct()).all()
        for view in views:
            old = select(*key.clauses).where(usage_sums.c.view == view, usage_sums.c.hour < first_kept)
            yield from self._repeated("sums of usage", delete(usage_sums).where(key.in_(old.limit(BATCH))))

    def _unused_keys(self) -> Iterator[tuple[str, int]]:
        """
        Delete keys of sums that are all gone, looking at a batch of keys at a time.

        The last one stays: SQLite would give its number to the next key, and a rollup may still know it by its own.
        """
        with self._engine.connect() as connection:
            last = connection.scalar(select(func.max(usage_keys.c.id))) or 0
        for first in range(0, last + 1, BATCH):
            here = usage_keys.c.id.between(first, min(first + BATCH, last) - 1)
            is_used = exists().where(usage_sums.c.key_id == usage_keys.c.id)
            yield "keys of usage", self._deleted(delete(usage_keys).where(here, ~is_used))

    def _repeated(self, what: str, statement: Delete) -> Iterator[tuple[str, int]]:
        while count := self._deleted(statement):
            yield what, count

    def _deleted(self, statement: Delete) -> int:
        with background_transaction(self._engine, busy_ms=self._busy_ms) as connection:
            return connection.execute(statement).rowcount
