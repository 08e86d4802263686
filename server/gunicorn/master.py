"""What this product changes in gunicorn's master: how it takes signals, and what it keeps over a reload."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask

import config
from server.gunicorn.booting import STOPS, has_served

log = logging.getLogger("gunicorn.error")

# By which names the master's methods come to what is changed here.
_USES = {
    "run": {"manage_workers"},
    "handle_hup": {"reload"},
    "reload": {"on_reload", "spawn_worker", "manage_workers", "graceful_timeout"},
    "manage_workers": {"WORKERS", "num_workers", "spawn_workers", "kill_worker"},
    "spawn_worker": {"WORKERS", "worker_age", "post_fork"},
    "spawn_workers": {"spawn_worker"},
}

METRICS_PREFIX = "llm-proxy-metrics-"
IN_USE = "in-use"

_descriptors: list[int] = []
_settings: config.Settings | None = None
_application: Flask | None = None


def settings() -> config.Settings:
    """
    What the master has taken at its start or at its last reload, for itself and for all of its workers.

    Raises:
        ConfigError: at the start.
    """
    global _settings  # noqa: PLW0603
    if _settings is None:
        _settings = config.load()
    return _settings


def make_application(create_app: Callable[[config.Settings], Flask]) -> None:
    """
    Make what the workers to come serve, once in memory for all. It opens nothing before its first call.

    What cannot be made is left to the workers: they say why, and those of before a reload go on.
    """
    global _application  # noqa: PLW0603
    _application = None
    with contextlib.suppress(Exception):
        _application = create_app(settings())


def application() -> Flask | None:
    """What was made before this worker's fork."""
    return _application


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


def outlive_workers_that_cannot_be_made(arbiter: Any) -> None:
    """
    Go on where processes, descriptors or memory have run out: the master asks again for what is missing.

    gunicorn's own master ends, and every running call with it.
    """
    spawn_worker = arbiter.spawn_worker
    is_failing = False

    def spawn() -> None:
        nonlocal is_failing
        try:
            spawn_worker()
        except OSError as exc:
            if not has_served():
                raise
            if not is_failing:
                log.error("cannot make a worker, which is tried again: %s", exc)
            is_failing = True
        else:
            is_failing = False

    arbiter.spawn_worker = spawn


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
        global _settings  # noqa: PLW0603
        before = _settings
        try:
            _settings = config.load()
            reload()
        except config.ConfigError as exc:
            log.error("not reloading: %s", exc)
            return
        except SystemExit:
            if os.getpid() != arbiter.pid:  # a new worker's end
                raise
            _settings, arbiter.app.cfg = before, arbiter.cfg
            log.error("not reloading: gunicorn's own settings cannot be read any more")
            return
        arbiter.cfg.set("graceful_timeout", graceful_timeout_s(_settings))

    arbiter.reload = reload_if_possible


def replace_workers_one_by_one(arbiter: Any) -> None:
    """
    Let a worker from before a reload leave when a new one serves, and replace new ones that die while old ones drain.

    gunicorn's own master sends the old ones away before it knows whether the new ones can start, and counts
    those that drain as workers, so that for as long as a stream may run nobody might take new calls.
    """
    reload = arbiter.reload
    last_that_leaves = 0

    def reload_and_remember() -> None:
        nonlocal last_that_leaves
        last_that_leaves = arbiter.worker_age
        reload()

    def manage() -> None:
        wanted = arbiter.num_workers
        for _ in range(wanted - sum(worker.age > last_that_leaves for worker in arbiter.WORKERS.values())):
            arbiter.spawn_worker()
        workers = sorted(arbiter.WORKERS.values(), key=lambda worker: worker.age)
        old = [worker for worker in workers if worker.age <= last_that_leaves]
        new = workers[len(old) :]
        # Nobody needs an old one that does not serve yet. The oldest of the others may have been told before.
        leaving = [worker for worker in old if not int(worker.serves)]
        old = [worker for worker in old if int(worker.serves)]
        leaving += old[: max(0, len(old) + sum(int(worker.serves) for worker in new) - wanted)]
        leaving += new[: max(0, len(new) - wanted)]  # SIGTTOU lowers what is wanted
        for worker in leaving:
            arbiter.kill_worker(worker.pid, signal.SIGTERM)

    arbiter.reload, arbiter.manage_workers = reload_and_remember, manage


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
