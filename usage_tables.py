"""
The tables that hold the sums of usage, and what a sum consists of.

A star: `usage_sums` holds numbers under small keys, `usage_keys` says what a key stands for. A *view* is the usage
summed by some dimensions per hour or per day; CALLS has them all, the others can be had from it and are kept
because a question should read few rows. Times are whole hours since 1970-01-01 UTC, a day is its first hour.

Each node adds to rows of its own (`node_id` is part of a key), so nodes never wait for each other, and one of them
can be recounted alone. A dimension that a record does not have is '' and never NULL, which no unique index would
find again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, SmallInteger, String, Text, UniqueConstraint

from models import UtcDateTime, db

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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
)
# Upper ends of the buckets in milliseconds; one more bucket takes what is longer.
BUCKETS_MS = (20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 600_000)
DURATION = tuple(f"duration_{number}" for number in range(len(BUCKETS_MS) + 1))
TTFT = tuple(f"ttft_{number}" for number in range(len(BUCKETS_MS) + 1))
SUMS = (*COUNTS, *DURATION, *TTFT)

DIMENSIONS = ("project_id", "token_id", "model", "endpoint", "refusal")
MODEL_LENGTH = 200
REFUSAL_LENGTH = 64


@dataclass(frozen=True, slots=True)
class View:
    """Usage summed by `dimensions` per `hours` (1 or 24)."""

    id: int
    hours: int
    dimensions: frozenset[str]


CALLS = View(1, 1, frozenset(DIMENSIONS))
MODEL_HOURS = View(2, 1, frozenset({"model"}))
PROJECT_HOURS = View(3, 1, frozenset({"project_id", "refusal"}))
PROJECT_DAYS = View(4, 24, frozenset({"project_id", "model"}))
TOKEN_DAYS = View(5, 24, frozenset({"project_id", "token_id"}))
VIEWS = (CALLS, MODEL_HOURS, PROJECT_HOURS, PROJECT_DAYS, TOKEN_DAYS)
# Where a recount gathers what it will compare with CALLS. No report looks there.
RECOUNT = View(0, 1, CALLS.dimensions)

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


def hours_around(begin: datetime, end: datetime) -> tuple[int, int]:
    """The whole hours around a span of time: the first, and the one after the last."""
    return (begin - _EPOCH) // timedelta(hours=1), -((_EPOCH - end) // timedelta(hours=1))


def moment(hour: int) -> datetime:
    """When an hour begins."""
    return _EPOCH + timedelta(hours=hour)
