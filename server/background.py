"""
What a process does besides answering: keeps its end of the log in order, adds usage up, ships records, cuts calls
that lost their permission, tells of alerts, and deletes what has outlived its retention.

Every process runs all of it. Where one of a node suffices, a file lock decides which; where one of all nodes does, a
lease in the database. The others stand by and take over when it ends. Nothing here is on a request's path, and
whatever takes milliseconds is cut into pieces between which requests get their turn. Nothing here ends before its
process does: what fails is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from accounting import ledger
from accounting.rollup import Rollup
from config import Settings
from control import audit
from control.cleanup import Cleanup
from control.cutting import Cutter
from control.standing import projects_seen
from database import lease, sqlite_reads
from database.engine import Engine, background_transaction, checkpoint
from llmproxy.admission import utc_now
from llmproxy.api_log.file_lock import FileLock
from llmproxy.api_log.reader import LogReader, ReaderBusy
from llmproxy.api_log.retention import Dropped
from llmproxy.api_log.shipper import Shipper
from llmproxy.telemetry import outages, tracing
from llmproxy.telemetry.projects import await_first_look, look_at_projects
from llmproxy.webhook import Webhook
from server.alerts import Alerts
from server.reservations import Reservations
from services import Services

LOG_TICK_S = 1.0
ROLLUP_TICK_S = 2.0
GAUGES_TICK_S = 1.0
OUTAGES_TICK_S = 1.0
CHECKPOINT_TICK_S = 1.0
# A call is to be cut within 5 s; one that neither reads nor sends is only ended at the second look.
CUT_TICK_S = 1.5
PROJECTS_TICK_S = 10.0
RESERVATIONS_TICK_S = 5.0
CLEANUP_TICK_S = 600.0
SIGN_INS_TICK_S = 2.0
ALERTS_TICK_S, UNPRICED_TICK_S, DELIVERY_TICK_S = 5.0, 20.0, 2.0
# Records per batch. More cost less each, but the write lock that the sums need keeps admissions waiting, and
# nothing else runs while a batch is summed up.
MIN_BATCH, MAX_BATCH = 50, 500
LOCK_S = 0.005
# Three wait for the disk: the rollup, the shipper and SQLite's checkpoints. Not in gevent's own threads, where other
# libraries' look-ups wait for a name server.
DISK_THREADS = 3
# A single failure is routine (another process held the lock a little longer); this many in a row are told.
FAILURES_WORTH_TELLING = 3

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Disk:
    """Threads that wait for the disk, so that nobody else does."""

    def __init__(self) -> None:
        self._threads = ThreadPool(DISK_THREADS)

    def wait_for(self, work: Callable[[T], object], what: T) -> None:
        """Do it in a thread, and raise what it raises."""
        failure = self._threads.apply(self._failure_of, (work, what))
        if failure is not None:
            raise failure

    @staticmethod
    def _failure_of(work: Callable[[T], object], what: T) -> Exception | None:
        # gevent prints the traceback of whatever a thread raises: while a disk is read-only, once a second.
        try:
            work(what)
        except Exception as exc:
            return exc
        return None


class Background:
    """The background work of one process. Made after the fork: greenlets do not survive one."""

    def __init__(self, parts: Services) -> None:
        self._parts = parts
        self._ending = Event()
        engine = parts.engine
        _give_up_on_silence(engine)
        sqlite_reads.ask_in_threads()
        self._disk = _Disk()
        cleaner = _Cleaner(engine, parts.settings)
        rollup = ledger.open_rollup(parts.settings, engine, parts.store, fsync=self._fsync)
        self._reservations = Reservations(parts, self._ending)
        _register(rollup.reader)
        cutter = Cutter(
            engine,
            parts.live,
            at_revocation=parts.settings.cut_streams,
            at_expiry=parts.settings.cut_streams_at_expiry,
        )
        self._greenlets = [
            self._every(LOG_TICK_S, "keeping the call log", _LogKeeper(parts)),
            self._every(GAUGES_TICK_S, "looking at gauges", parts.tell_gauges),
            self._every(OUTAGES_TICK_S, "telling of outages", outages.tell),
            self._every(LOG_TICK_S, "looking at the call log", _LogGauges(parts.settings), at_once=True),
            self._every(ROLLUP_TICK_S, "adding up usage", lambda: catch_up(rollup)),
            self._every(SIGN_INS_TICK_S, "telling of failed sign-ins", lambda: _tell_of_sign_ins(parts)),
            self._every(RESERVATIONS_TICK_S, "looking at what calls hold", self._reservations),
            self._every(CUT_TICK_S, "cutting calls that lost their permission", cutter),
        ]
        if (url := parts.settings.database_url).startswith("sqlite"):
            self._greenlets.append(self._every(CHECKPOINT_TICK_S, "checkpointing", lambda: self._checkpoint(url)))
        if parts.settings.alert_url:
            self._greenlets += self._start_alerts()
        await_first_look()
        looking = "looking at projects", lambda: _look_at_projects(engine), PROJECTS_TICK_S, Event()
        gevent.spawn(_forever, *looking, at_once=True)
        gevent.spawn(_forever, "cleaning up", cleaner, CLEANUP_TICK_S, Event())
        self._shipper = self._start_shipper()
        self._flush_spans = self._start_tracing()

    def _every(
        self, tick_s: float, what: str, work: Callable[[], object], *, at_once: bool = False
    ) -> gevent.Greenlet:
        return gevent.spawn(_forever, what, work, tick_s, self._ending, at_once=at_once)

    def _start_shipper(self) -> Shipper | None:
        if not self._parts.settings.logging_url:
            return None
        shipper = ledger.open_shipper(self._parts.settings, fsync=self._fsync)
        _register(shipper.reader)
        self._greenlets.append(gevent.spawn(_ship, shipper))
        return shipper

    def _start_alerts(self) -> list[gevent.Greenlet]:
        settings = self._parts.settings
        webhook = Webhook(settings.alert_url, settings.alert_secret, egress=settings.egress)
        alerts = Alerts(self._parts.engine, webhook, settings.alert_kinds)
        return [
            self._every(ALERTS_TICK_S, "looking for alerts", alerts.look),
            self._every(UNPRICED_TICK_S, "looking for models without a price", alerts.look_for_unpriced),
            self._every(ALERTS_TICK_S, "looking for keys that upstreams refuse", alerts.look_for_refused_keys),
            self._every(DELIVERY_TICK_S, "delivering alerts", alerts.deliver),
        ]

    def _start_tracing(self) -> Callable[[], object]:
        settings = self._parts.settings
        if not settings.otlp_endpoint:
            return lambda: None
        return tracing.start(
            settings.otlp_endpoint,
            service_name=settings.otel_service_name,
            headers=settings.otlp_headers,
            egress=settings.egress,
        )

    def _fsync(self, fd: int) -> None:
        # A slow disk takes tens of milliseconds, in which no request would get its turn.
        self._disk.wait_for(os.fsync, fd)

    def _checkpoint(self, database_url: str) -> None:
        self._disk.wait_for(checkpoint, database_url)

    def finish(self, timeout_s: float) -> None:
        """Add up, ship and save what there is by now, as far as the time suffices; the rest is done after a start."""
        self._parts.log.write_out()
        self._ending.set()
        if self._shipper:
            self._shipper.stop()
        last = [gevent.spawn(self._flush_spans), gevent.spawn(self._reservations.finish)]
        gevent.joinall([*self._greenlets, *last], timeout=timeout_s)


def _register(reader: LogReader) -> None:
    """Before the first call is answered: what the cap on disk use deletes of a young log would not be counted."""
    try:
        reader.register()
    except OSError as exc:
        log.warning("the call log's reader %r cannot be registered: %s", reader.name, exc.strerror)


def _ship(shipper: Shipper) -> None:
    shipper.run()
    # It was told to end: the last records go too, where the receiver takes them and no other process ships.
    with contextlib.suppress(ReaderBusy):
        shipper.ship_once()


def catch_up(rollup: Rollup) -> None:
    """Add what is in the log by now, if no other process does; half of the time at most is spent on it."""
    size = MIN_BATCH
    try:
        while True:
            started = time.perf_counter()
            if not rollup.step(max_records=size):
                return
            size = _next_size(size, rollup.sums.last_save_s)
            gevent.sleep(time.perf_counter() - started)
    except ReaderBusy:
        return
    finally:
        # Not held between two ticks, so that a recount can have it.
        rollup.close()


def _next_size(size: int, took_s: float) -> int:
    """How many records to take next: as many as are saved in about LOCK_S."""
    if took_s < LOCK_S / 2:
        return min(size * 2, MAX_BATCH)
    return max(size // 2, MIN_BATCH) if took_s > LOCK_S * 2 else size


def _forever(what: str, work: Callable[[], object], tick_s: float, ending: Event, *, at_once: bool = False) -> None:
    failures = 0
    is_last = False
    while not is_last:
        if not at_once:
            # Drawn anew each time: processes that started together need not work at the same moments.
            is_last = ending.wait(tick_s * random.uniform(0.75, 1.25))  # noqa: S311
        at_once = False
        try:
            work()
        except Exception as exc:
            failures += 1
            if failures == FAILURES_WORTH_TELLING:
                log.warning("%s fails, and is tried again: %s", what, exc, exc_info=True)
        else:
            if failures >= FAILURES_WORTH_TELLING:
                log.info("%s works again", what)
            failures = 0


class _LogKeeper:
    """Writes what waited for room, lets go of rotated files, and keeps what the cap on disk use deleted."""

    def __init__(self, parts: Services) -> None:
        self._parts = parts
        self._noted = Dropped()

    def __call__(self) -> None:
        writer = self._parts.log
        writer.flush_pending()
        writer.enforce_cap()
        dropped = writer.dropped
        if dropped != self._noted:
            ledger.note_dropped(self._parts.settings, dropped - self._noted)
            self._noted = dropped


class _LogGauges:
    """Tells the metrics how the call log and its readers stand: files of the node, so one of its processes does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = FileLock(settings.data_dir / ".log_gauges.lock")

    def __call__(self) -> None:
        if self._lock.acquire():
            ledger.publish_metrics(self._settings, utc_now())


class _Cleaner:
    """Cleans up when no other worker of any node does, or has within a tick."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._cleanup = Cleanup(engine, settings)
        self._me = str(uuid.uuid4())

    def __call__(self) -> None:
        if not self._leads():
            return
        deleted: Counter[str] = Counter()
        for what, count in self._cleanup.batches(utc_now()):
            deleted[what] += count
            gevent.sleep(0.01)
            if not self._leads():
                break
        for what, count in (+deleted).items():
            log.info("deleted %d %s", count, what)

    def _leads(self) -> bool:
        return lease.hold(self._engine, "cleanup", self._me, utc_now(), timedelta(seconds=CLEANUP_TICK_S))


def _look_at_projects(engine: Engine) -> None:
    look_at_projects(projects_seen(engine, utc_now()))


def _tell_of_sign_ins(parts: Services) -> None:
    for failures in parts.sign_ins.take_untold():
        try:
            with background_transaction(parts.engine) as connection:
                audit.add_failed_sign_ins(connection, failures)
        except Exception:
            parts.sign_ins.put_back(failures)
            raise


def _give_up_on_silence(engine: Engine) -> None:
    if engine.dialect.name == "postgresql":
        # Who stays on SQLite need not load it.
        from database.postgres import give_up_on_silence

        give_up_on_silence()
