"""
Every table of the schema, and nothing else.

Names follow the design: ``projects(id, name, openai_api_key, …)``, ``tokens(token, project_id, expires_at,
is_active, request_count, …)``. A token is stored as its SHA-256 alone, an upstream key sealed. Times are UTC. Money
is whole micro-dollars, and the moments beside it are whole microseconds since 1970.

The sums of usage are a star: `usage_sums` holds numbers under small keys, `usage_keys` says what a key stands for.
A *view* is the usage summed by some dimensions per hour or per day (`accounting.views`). Times are whole hours since
1970-01-01 UTC, a day is its first hour. Each node adds to rows of its own (`node_id` is part of a key), so nodes
never wait for each other, and one of them can be recounted alone.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column, relationship
from sqlalchemy.types import JSON, TypeDecorator

NAME_LENGTH = 200

# What a row of `usage_sums` adds up; costs in micro-dollars, `cost_assumed` being what of `cost` nobody told.
COUNTS = (
    "requests",
    "refusals",
    "errors",
    "client_closed",
    "usage_reported",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost",
    "unpriced",
    "total_tokens",
    "audio_seconds",
    "streams",
    "silent_streams",
    "cost_assumed",
    "would_refuse",
)
# Upper ends of the buckets in milliseconds; one more bucket takes what is longer.
BUCKETS_MS = (20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 600_000)
DURATION = tuple(f"duration_{number}" for number in range(len(BUCKETS_MS) + 1))
TTFT = tuple(f"ttft_{number}" for number in range(len(BUCKETS_MS) + 1))
SUMS = (*COUNTS, *DURATION, *TTFT)

# A dimension that a record does not have is '' and never NULL, which no unique index would find again.
DIMENSIONS = ("project_id", "token_id", "model", "endpoint", "refusal")
MODEL_LENGTH = 200
REFUSAL_LENGTH = 64
OBJECT_ID_LENGTH = 200


class Base(DeclarativeBase):
    """Declarative base of every table."""


# Rows stay readable after their commit: what was just created is shown to whoever asked for it.
db = SQLAlchemy(model_class=Base, disable_autonaming=True, session_options={"expire_on_commit": False})


class UtcDateTime(TypeDecorator[datetime]):
    """
    An aware UTC time. PostgreSQL keeps the zone; SQLite keeps text that sorts by time.

    A naive value raises ValueError: it would mean another instant on another machine.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime was given where aware UTC is needed")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def new_id() -> str:
    """A fresh random UUID in text."""
    return str(uuid.uuid4())


class Project(db.Model):  # type: ignore[name-defined, misc]
    """
    Owner of one upstream API key, sealed in ``openai_api_key`` and recognised by ``key_hint``.

    ``is_ruled`` says that it has ``rules`` or meters of its own; ``rules_version`` grows with every change of either.
    ``default_tier`` is what its upstream serves where a request asks for no tier; None where nobody said.
    """

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(NAME_LENGTH), unique=True)
    openai_api_key: Mapped[str] = mapped_column(Text)
    key_hint: Mapped[str] = mapped_column(String(4))
    base_url: Mapped[str | None] = mapped_column(Text, default=None)
    is_active: Mapped[bool] = mapped_column(default=True)
    stream_usage: Mapped[str] = mapped_column(String(16), default="as-sent")
    is_ruled: Mapped[bool] = mapped_column(default=False, server_default=false())
    rules: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    rules_version: Mapped[int] = mapped_column(default=0, server_default="0")
    default_tier: Mapped[str | None] = mapped_column(String(16), default=None)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    tokens: Mapped[list[Token]] = relationship(back_populates="project", passive_deletes=True)


class Token(db.Model):  # type: ignore[name-defined, misc]
    """
    A withering token, known by ``id``; ``token_hash`` is the SHA-256 of the secret in hex.

    ``request_count`` counts the window that began at ``window_started_at``. ``rate_limit`` None means the
    setting's limit, whatever it is at the time. ``in_flight`` counts its running calls that have a reservation.
    ``is_ruled``, ``rules`` and ``rules_version`` as the project has them.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        Index("ix_tokens_project_id_created_at", "project_id", "created_at"),
        Index("ix_tokens_expires_at", "expires_at"),
    )

    token_hash: Mapped[str] = mapped_column("token", String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(36), unique=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    label: Mapped[str | None] = mapped_column(String(NAME_LENGTH), default=None)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    is_active: Mapped[bool] = mapped_column(default=True)
    rate_limit: Mapped[int | None] = mapped_column(default=None)
    request_count: Mapped[int] = mapped_column(default=0)
    window_started_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)
    is_ruled: Mapped[bool] = mapped_column(default=False, server_default=false())
    rules: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    rules_version: Mapped[int] = mapped_column(default=0, server_default="0")
    in_flight: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)

    project: Mapped[Project] = relationship(back_populates="tokens")


# Secrets that were replaced, by their SHA-256, and until when they work like the token's own.
retired_secrets = db.Table(
    "retired_secrets",
    Column("token_hash", String(64), primary_key=True),
    Column("token_id", ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Index("ix_retired_secrets_token_id", "token_id"),
    sqlite_with_rowid=False,
)


class Meter(db.Model):  # type: ignore[name-defined, misc]
    """
    One limit with its count, of a token, or of a project where ``token_id`` is None. See `llmproxy.limits.meters`.

    ``models`` are names and globs, separated by commas. ``alerted`` is unused: what was told stands in `alerts`.
    ``last_spent`` is what had been spent by ``last_end``, the end of the period before this one.
    """

    __tablename__ = "meters"
    __table_args__ = (
        Index("ix_meters_project_id_token_id", "project_id", "token_id"),
        Index("ix_meters_token_id", "token_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True, default=new_id)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), default=None)
    name: Mapped[str] = mapped_column(String(64))
    unit: Mapped[str] = mapped_column(String(8))
    models: Mapped[str | None] = mapped_column(String(400), default=None)
    period: Mapped[str] = mapped_column(String(8))
    zone: Mapped[str] = mapped_column(String(64), default="UTC")
    reserve: Mapped[str] = mapped_column(String(8), default="likely")
    amount: Mapped[int] = mapped_column(BigInteger)
    spent: Mapped[int] = mapped_column(BigInteger, default=0)
    reserved: Mapped[int] = mapped_column(BigInteger, default=0)
    bounds: Mapped[int] = mapped_column(BigInteger, default=0)
    mean: Mapped[int] = mapped_column(BigInteger, default=0)
    period_end: Mapped[int] = mapped_column(BigInteger, default=0)
    alerted: Mapped[int] = mapped_column(SmallInteger, default=0)
    last_spent: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    last_end: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class AuditEntry(db.Model):  # type: ignore[name-defined, misc]
    """One change by an operator. Rows are added in the transaction of the change, and never touched again."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(NAME_LENGTH))
    address: Mapped[str | None] = mapped_column(String(64), default=None)
    action: Mapped[str] = mapped_column(String(64))
    target_type: Mapped[str] = mapped_column(String(16))
    target_id: Mapped[str] = mapped_column(String(36))
    target_name: Mapped[str | None] = mapped_column(String(NAME_LENGTH), default=None)
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)


usage_keys = db.Table(
    "usage_keys",
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("view", SmallInteger, nullable=False),
    Column("node_id", String(36), nullable=False),
    Column("project_id", String(36), nullable=False),
    Column("token_id", String(36), nullable=False),
    Column("model", String(MODEL_LENGTH), nullable=False),
    Column("endpoint", String(16), nullable=False),
    Column("refusal", String(REFUSAL_LENGTH), nullable=False),
    UniqueConstraint("view", "node_id", *DIMENSIONS, name="uq_usage_keys"),
    Index("ix_usage_keys_view_project_id", "view", "project_id"),
    Index("ix_usage_keys_view_token_id", "view", "token_id"),
)
# Rows of one view and hour lie together; the index leads from a key to its hours.
usage_sums = db.Table(
    "usage_sums",
    Column("view", SmallInteger, primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("key_id", ForeignKey("usage_keys.id"), primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    *(Column(name, Integer, nullable=False) for name in (*DURATION, *TTFT)),
    # With the requests in it, so that the busiest are found without looking into the rows.
    Index("ix_usage_sums_key_id_hour", "key_id", "hour", "requests"),
    sqlite_with_rowid=False,
)
reader_positions = db.Table(
    "reader_positions",
    Column("node_id", String(36), primary_key=True),
    Column("reader", String(100), primary_key=True),
    Column("position", Text, nullable=False),
    Column("saved_at", UtcDateTime, nullable=False),
)
# Where the records of calls stand, for lists by time. `at` is the millisecond of their arrival since 1970 UTC,
# `key_id` that of a key of CALLS, which may be gone; `ending` is a place in `accounting.index.ENDINGS`.
call_index = db.Table(
    "call_index",
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("key_id", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("ending", SmallInteger, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    sqlite_with_rowid=False,
)
# The files that it names, by number: one each for 64 MiB of log.
log_segments = db.Table(
    "log_segments",
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("node_id", String(36), nullable=False),
    Column("segment", String(24), nullable=False),
    UniqueConstraint("node_id", "segment", name="uq_log_segments"),
)
# Objects whose usage was told, by whom first. Moments are seconds since 1970 UTC.
seen_objects = db.Table(
    "seen_objects",
    Column("project_id", String(36), primary_key=True),
    Column("object_id", String(OBJECT_ID_LENGTH), primary_key=True),
    Column("request_id", String(36), nullable=False),
    Column("is_stored", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_seen_objects_at", "at"),
    sqlite_with_rowid=False,
)
leases = db.Table(
    "leases",
    Column("name", String(32), primary_key=True),
    Column("holder", String(36), nullable=False),
    Column("until", UtcDateTime, nullable=False),
)
# What running calls hold of meters, and whose they are. `holds` has [meter_id, hold, bound, assumed] for each meter,
# and `estimate` micro-dollars: what is charged where nobody tells what the call cost. `state` is held, settled or
# assumed. No foreign keys: a call outlives its token. A response of a WebSocket has its session's request id and a
# number.
reservations = db.Table(
    "reservations",
    Column("request_id", String(48), primary_key=True),
    Column("project_id", String(36), nullable=False),
    Column("token_id", String(36), nullable=False),
    Column("node", String(36), nullable=False),
    Column("worker", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("holds", JSON, nullable=False),
    Column("estimate", BigInteger, nullable=False),
    # Nearly every call with a budget makes a row and ends it, and few stand there at a time: one tree, not three.
    sqlite_with_rowid=False,
)
# What somebody is to be told, once each: the outbox of `control.alerts`. `state` is waiting, delivered or refused,
# moments are microseconds since 1970 UTC; a token's period is its life. No foreign keys: told is told.
alerts = db.Table(
    "alerts",
    Column("id", String(36), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("subject", String(36), nullable=False),
    Column("period_end", BigInteger, nullable=False),
    Column("threshold", SmallInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(9), nullable=False),
    UniqueConstraint("kind", "subject", "period_end", "threshold", name="uq_alerts"),
    Index("ix_alerts_state_at", "state", "at"),
)
# The oldest revision whose code may go on with this database, in the row with id 1; see `database.schema`.
schema_floor = db.Table(
    "schema_floor",
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("oldest", String(8), nullable=False),
)

# Now, and not at the classes' first use, which in a worker comes after the fork: all workers have in common what this
# builds, and what it touches.
configure_mappers()
