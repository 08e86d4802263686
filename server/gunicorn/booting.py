"""
Workers that cannot boot: once one has served, the others go on, and it is tried again.

gunicorn's own master ends everything when a worker exits with 3 or 4. That is right at a start, where somebody looks
on, and wrong later, when a file may be gone for a moment and calls are running.
"""

from __future__ import annotations

import logging
import mmap
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STOPS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
# Between two boots that fail, doubled from a second on.
LONGEST_WAIT_S = 30

log = logging.getLogger("gunicorn.error")


class SharedNumber:
    """A number up to 255 that the master and the workers it forks from here on see alike."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def __int__(self) -> int:
        return self._memory[0]

    def set(self, number: int) -> None:
        """Let all see this one."""
        self._memory[0] = number


class Bootable(Protocol):
    """A worker."""

    alive: bool
    booted: bool
    serves: SharedNumber


_has_served = SharedNumber()
_failures = SharedNumber()


def note_that_it_serves(worker: Bootable) -> None:
    """Tell the master that an older worker may leave for this one, and successors that it can be done."""
    worker.serves.set(1)
    _has_served.set(1)
    _failures.set(0)


def has_served() -> bool:
    """True in a master that has had a worker which served, and in that one's successors."""
    return bool(int(_has_served))


def take_signals() -> None:
    """In a new worker: end by a signal to stop until it has gunicorn's handlers. It has taken no call yet."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


@contextmanager
def tried_again(worker: Bootable) -> Iterator[None]:
    """
    Boot within this: what fails is told, and waits in this process before the master starts another.

    Not at a start, whose failure ends the server. Whoever exits by a number has said why.
    """
    try:
        yield
    except BaseException as exc:
        if worker.booted or not has_served() or (isinstance(exc, SystemExit) and not exc.code):
            raise
        take_signals()
        if worker.alive:  # and not told to stop meanwhile
            _tell_and_wait(exc)
        sys.exit(1)


def _tell_and_wait(exc: BaseException) -> None:
    seconds = min(2 ** int(_failures), LONGEST_WAIT_S)
    _failures.set(min(int(_failures) + 1, LONGEST_WAIT_S))
    has_said_why = isinstance(exc, SystemExit) and isinstance(exc.code, int)
    why = "" if has_said_why else f" ({exc})"
    is_unforeseen = not isinstance(exc, SystemExit | OSError)
    log.error("a worker cannot start%s, which is tried again in %d s", why, seconds, exc_info=is_unforeseen)
    time.sleep(seconds)
