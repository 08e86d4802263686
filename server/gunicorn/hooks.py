"""What gunicorn calls in the life of its processes; `gunicorn.conf.py` names these functions."""

from __future__ import annotations

import gc
import logging
import resource
import shutil
import sys
from collections.abc import Callable
from typing import Any

import gevent
from flask import Flask

from config import Settings
from control import asked, sign_ins
from llmproxy.keyring import KeyRing
from llmproxy.telemetry import metrics, shared_values
from server import boot, overrides
from server.background import Background
from server.drain import Stopping
from server.gunicorn import booting, master, self_test
from server.gunicorn.worker import Worker
from services import Services

log = logging.getLogger("gunicorn.error")

# The worker that speaks for all that were started with it.
_first_age = 1


def on_starting(settings: Settings, arbiter: Any) -> None:
    """Say what an operator should know before the first request. SystemExit where gunicorn itself is to speak TLS."""
    if arbiter.cfg.is_ssl:
        # Connections are watched and written to by what knows plain sockets alone.
        sys.exit("gunicorn's --certfile, --keyfile and --ssl options are not for this proxy: end TLS in front of it.")
    # Once for all workers, whose code it is: what one of them runs, it copies out of the memory that all share.
    overrides.require(settings.database_url, gunicorn=self_test.lost)
    # A call holds two descriptors, and many systems start with a thousand.
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    boot.warn(settings, log)
    # OpenSSL loads what opens the upstream keys at its first use. Before the fork, that is once in memory for all.
    KeyRing(settings.encryption_keys)
    for path in settings.made_secrets:
        log.warning("made %s, which opens the upstream keys: keep a copy apart from the database", path)


def when_ready(create_app: Callable[[Settings], Flask], arbiter: Any) -> None:
    """Make what workers share, and change how the master takes signals, before it starts the first worker."""
    master.metrics_dir()
    sign_ins.share()
    asked.share()
    master.make_application(create_app)
    _spare_the_collector()
    master.keep_signals_over_a_fork(arbiter)
    master.outlive_workers_that_cannot_be_made(arbiter)
    master.end_at_once_on_a_second_sigterm(arbiter)
    master.replace_workers_one_by_one(arbiter)
    master.reload_without_standing_still(arbiter)


def _spare_the_collector() -> None:
    """
    Keep it off what the workers to come share: walking over it would copy it for each of them.

    Before, what is left over from making it goes.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def post_fork(_arbiter: Any, _worker: Worker) -> None:
    """Let the worker hear of a stop."""
    booting.take_signals()


def post_worker_init(worker: Worker) -> None:
    """Start this worker's background work, and let it know how to end."""
    parts = worker.parts = Services.of(worker.wsgi)
    # The files of its numbers, which it has by now. All else was asked before the fork.
    overrides.ask(("prometheus_client", shared_values.lost))
    # What the start has built stays: the collector need not walk over it again and again.
    gc.collect()
    gc.freeze()
    # Nor look for cycles in every few calls: what a call allocates is freed without it.
    gc.set_threshold(10_000, 20, 20)
    if parts.settings.ops_bind:
        parts.ops_ports.add(str(worker.sockets[-1].getsockname()[1]))
    worker.stopping = Stopping(parts, Background(parts))
    metrics.WORKERS_WANTED.set(worker.cfg.workers)
    booting.note_that_it_serves(worker)
    if worker.age == _first_age:
        gevent.spawn(boot.warn_of_projects, parts, log)


def on_reload(create_app: Callable[[Settings], Flask], arbiter: Any) -> None:
    """The workers to come are a generation of their own."""
    master.make_application(create_app)
    _spare_the_collector()
    global _first_age  # noqa: PLW0603
    _first_age = arbiter.worker_age + 1
    master.do_not_wait_for_old_workers(arbiter)


def child_exit(_arbiter: Any, worker: Worker) -> None:
    """Forget how a dead worker was; what it has counted stays counted."""
    try:
        shared_values.absorb(master.metrics_dir(), worker.pid)
    except Exception as exc:  # full memory, or a file that a killed worker left half written: nothing to end for
        log.warning("what worker %d has counted is lost: %s", worker.pid, exc)


def on_exit(_arbiter: Any) -> None:
    """Remove the metrics' files."""
    shutil.rmtree(master.metrics_dir(), ignore_errors=True)
