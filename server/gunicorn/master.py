"""What this product changes in gunicorn's master: how it takes signals, and what it keeps over a reload."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import config

log = logging.getLogger("gunicorn.error")

# By which names the master's methods come to what is changed here.
_USES = {
    "run": {"manage_workers"},
    "handle_hup": {"reload"},
    "reload": {"on_reload", "spawn_worker", "manage_workers", "graceful_timeout"},
    "manage_workers": {"WORKERS", "num_workers"},
    "spawn_worker": {"WORKERS", "worker_age", "post_fork"},
    "spawn_workers": {"spawn_worker"},
}

METRICS_PREFIX = "llm-proxy-metrics-"
IN_USE = "in-use"
STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)

_descriptors: list[int] = []
# In memory that the master shares with its workers.
_has_served = mmap.mmap(-1, 1)


@cache
def metrics_dir() -> Path:
    """
    The directory of the workers' counters: one for the life of the master.

    In memory where the system has such a place: to store into a mapped file on a full disk is a process's end.
    """
    memory = Path("/dev/shm")  # noqa: S108
    place = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    _remove_what_killed_masters_left(place)
    made = Path(tempfile.mkdtemp(prefix=METRICS_PREFIX, dir=place))
    # Locked before it has its name, and until the last process that was forked from here has ended.
    _descriptors.append(os.open(made / "new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    fcntl.flock(_descriptors[-1], fcntl.LOCK_EX)
    (made / "new").rename(made / IN_USE)
    return made


def _remove_what_killed_masters_left(place: Path) -> None:
    for path in place.glob(f"{METRICS_PREFIX}*/{IN_USE}"):
        with contextlib.suppress(OSError), path.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


def note_that_a_worker_serves() -> None:
    """Tell this worker's successors that the database has been found in order."""
    _has_served[0] = 1


def has_served() -> bool:
    """True in a worker of a master that has had one which served."""
    return bool(_has_served[0])


def end_at_once_on_a_second_sigterm(arbiter: Any) -> None:
    """gunicorn's own master passes over it, and waits on."""
    asked = False

    def end(number: int, frame: object) -> None:
        nonlocal asked
        arbiter.signal(signal.SIGQUIT if asked else number, frame)
        asked = True

    signal.signal(signal.SIGTERM, end)


def keep_signals_over_a_fork(arbiter: Any) -> None:
    """
    Keep a signal to stop until a new worker can take it (`take_signals`).

    It would put one into its own copy of the master's queue, where nobody looks, and the master would wait for it.
    """
    spawn_worker = arbiter.spawn_worker

    def spawn() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    arbiter.spawn_worker = spawn


def take_signals() -> None:
    """In a new worker: end by a signal to stop until it has gunicorn's handlers. It has taken no call yet."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def graceful_timeout_s(settings: config.Settings) -> int:
    """How long the master lets workers drain: theirs, and what they need to cut, record and finish."""
    return int(settings.drain_timeout_s) + 10


def reload_without_standing_still(arbiter: Any) -> None:
    """
    Let SIGHUP replace the workers without waiting for the old ones to drain.

    gunicorn's own master takes no signal and replaces no worker meanwhile, for as long as a stream may run. And
    settings that have become wrong would end it, and everything with it.
    """
    reload = arbiter.reload

    def reload_if_possible() -> None:
        try:
            settings = config.load()
        except config.ConfigError as exc:
            log.error("not reloading: %s", exc)
            return
        reload()
        arbiter.cfg.set("graceful_timeout", graceful_timeout_s(settings))

    arbiter.reload = reload_if_possible


def replace_workers_beside_leaving_ones(arbiter: Any) -> None:
    """
    Replace a worker that dies while those from before a reload still drain.

    gunicorn's own master counts them as workers, so that for as long as a stream may run nobody might take new calls.
    """
    reload, manage_workers = arbiter.reload, arbiter.manage_workers
    last_that_leaves = 0

    def reload_and_remember() -> None:
        nonlocal last_that_leaves
        last_that_leaves = arbiter.worker_age
        reload()

    def replace_and_manage() -> None:
        staying = sum(worker.age > last_that_leaves for worker in arbiter.WORKERS.values())
        for _ in range(arbiter.num_workers - staying):
            arbiter.spawn_worker()
        manage_workers()

    arbiter.reload, arbiter.manage_workers = reload_and_remember, replace_and_manage


def lost() -> str | None:
    """What an upgrade of gunicorn took away from its master; see `server.overrides`."""
    from gunicorn.arbiter import Arbiter

    missed = {
        f"{method}: {name}"
        for method, names in _USES.items()
        for name in names - set(getattr(Arbiter, method).__code__.co_names)
    }
    return f"runs its master otherwise ({', '.join(sorted(missed))})" if missed else None


def do_not_wait_for_old_workers(arbiter: Any) -> None:
    """For gunicorn's `on_reload`: within the reload, the time to wait is none."""
    arbiter.cfg.set("graceful_timeout", 0)
