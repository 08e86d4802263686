"""
The call log's readers as this product runs them: how they are put together, how far they are, what was lost.

In the data directory: `api_logs.jsonl` and its segments, `positions/` of the readers, `dead_letters.jsonl`,
`dropped.jsonl` with a line for each time that the cap on disk use deleted what a reader had not read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import get_args

import orjson
from sqlalchemy import Engine

from accounting.rollup import READER, Rollup, UsageSums, node_id
from config import Settings
from llmproxy.admission import utc_now
from llmproxy.api_log import line_file
from llmproxy.api_log.dead_letters import MAX_BYTES as MAX_DEAD_LETTER_BYTES
from llmproxy.api_log.dead_letters import DeadLetters
from llmproxy.api_log.lag import Lag, measure_lag
from llmproxy.api_log.line_file import Tally
from llmproxy.api_log.logging_url import parse_logging_url
from llmproxy.api_log.open_sink import open_sink
from llmproxy.api_log.position import registered_positions
from llmproxy.api_log.reader import Damage, LogReader
from llmproxy.api_log.retention import Dropped
from llmproxy.api_log.segment import list_segments
from llmproxy.api_log.shipper import Shipper
from llmproxy.limits.reservations import ReservationStore
from llmproxy.telemetry import metrics, outages

SHIPPER = "shipper"
DEAD_LETTERS_NAME = "dead_letters.jsonl"
DROPPED_NAME = "dropped.jsonl"


def dead_letters(settings: Settings, *, fsync: Callable[[int], None] = os.fsync) -> DeadLetters:
    """Where records go that the receiver will never take: at most a tenth of what the call log may take."""
    most = min(MAX_DEAD_LETTER_BYTES, settings.log_max_total_bytes // 10)
    return DeadLetters(settings.data_dir / DEAD_LETTERS_NAME, max_bytes=most, fsync=fsync)


def open_shipper(settings: Settings, *, fsync: Callable[[int], None] = os.fsync) -> Shipper:
    """The shipper to LOGGING_URL, which must be set."""
    target, token = parse_logging_url(settings.logging_url), settings.logging_token or None
    sink = open_sink(target, token=token, egress=settings.egress)
    reader = LogReader(settings.log_path, SHIPPER, on_damage=_damage_counter(SHIPPER), fsync=fsync)
    return Shipper(reader, sink, dead_letters(settings, fsync=fsync), tell=outages.note)


def open_rollup(
    settings: Settings,
    engine: Engine,
    reservations: ReservationStore | None = None,
    *,
    fsync: Callable[[int], None] = os.fsync,
) -> Rollup:
    """The rollup of this node into the database of `engine`, which ends the reservations of what it passes."""
    sums = UsageSums(engine, node_id(settings.data_dir))
    return Rollup(settings.log_path, sums, reservations, on_damage=_damage_counter(READER), fsync=fsync)


def note_dropped(settings: Settings, dropped: Dropped) -> None:
    """Keep for ever that records were deleted unread."""
    line = {"at": utc_now(), "bytes": dropped.bytes, "records": dropped.records}
    data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)
    line_file.append(settings.data_dir / DROPPED_NAME, data)


def dropped_so_far(settings: Settings) -> Dropped:
    """What was deleted unread, all in all. A line that cannot be read says nothing."""
    return _tally_of_dropped(settings.data_dir).total()


def count_dead_letters(settings: Settings) -> int:
    """How many records were set aside, and are still there."""
    return _counted_dead_letters(settings.data_dir).count()


# Kept as long as the process: what was counted once is not read again at the next scrape.


@lru_cache(maxsize=8)
def _tally_of_dropped(data_dir: Path) -> Tally[Dropped]:
    return Tally(data_dir / DROPPED_NAME, _measure_dropped, Dropped())


@lru_cache(maxsize=8)
def _counted_dead_letters(data_dir: Path) -> DeadLetters:
    return DeadLetters(data_dir / DEAD_LETTERS_NAME)


def _measure_dropped(lines: bytes) -> Dropped:
    return sum(map(_dropped_of, lines.splitlines()), Dropped())


def _dropped_of(line: bytes) -> Dropped:
    with suppress(orjson.JSONDecodeError):
        match orjson.loads(line):
            case {"bytes": int(size), "records": int(records)}:
                return Dropped(size, records)
    return Dropped()


def disk_bytes(settings: Settings) -> int:
    """How much disk the call log takes."""
    return sum(segment.size for segment in list_segments(settings.log_path))


def lags(settings: Settings) -> dict[str, Lag]:
    """How far each reader of the call log is behind, by its name. Looks at files alone, and counts no records."""
    positions = registered_positions(settings.data_dir / "positions")
    return {name: measure_lag(settings.log_path, position) for name, position in positions.items()}


def publish_metrics(settings: Settings, now: datetime) -> None:
    """Tell Prometheus how far the readers are, and what was lost or set aside."""
    for name, lag in lags(settings).items():
        metrics.LOG_LAG_BYTES.labels(name).set(lag.bytes)
        metrics.LOG_LAG_SECONDS.labels(name).set(lag.age_s(now) or 0.0)
    metrics.LOG_DISK_BYTES.set(disk_bytes(settings))
    metrics.LOG_DEAD_LETTERS.set(count_dead_letters(settings))
    metrics.LOG_DROPPED.set(dropped_so_far(settings).records)


def _damage_counter(reader: str) -> Callable[[Damage, int], None]:
    # Every kind is there from now on, as 0: Prometheus sees a growth only of what it has seen before.
    counters = {kind: metrics.LOG_DAMAGE.labels(reader, kind) for kind in get_args(Damage)}
    return lambda kind, count: counters[kind].inc(count)
