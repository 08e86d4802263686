"""
Where upstreams' names lead: looked up in threads of their own, and remembered.

A look-up blocks its thread for as long as a name server that does not answer is waited for. In gevent's own pool,
which is everybody's, a dozen calls to one such name would stop every other project's new connections. Here a name has
two threads at most, and names that were slow have threads apart from the others.

What was found is used for FRESH_S. Later it is looked up again, and used on for as long as STALE_S where there is no
answer (RFC 8767): a name server's outage is nothing that calls to known upstreams need to see.
"""

from __future__ import annotations

import _socket
import socket
import time
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import gevent
from gevent import monkey
from gevent.event import AsyncResult
from gevent.threadpool import ThreadPool

FRESH_S = 30.0
STALE_S = 600.0
# Where an older finding is at hand, an answer is waited for this long, and after a failure not asked for so soon.
PATIENCE_S = 1.0
RETRY_S = 30.0
# A second look-up of a name may pass by one whose question was lost. A third would find nothing that they do not.
MOST_AT_ONCE = 2
SLOW_S = 2.0
THREADS = 32
SLOW_THREADS = 16
IDLE_THREAD_S = 60.0
MOST_NAMES = 1024

# There is no such name, or it leads nowhere.
_NOWHERE = (_socket.EAI_NONAME, getattr(_socket, "EAI_NODATA", _socket.EAI_NONAME))


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to: a socket's family, and the address without its port; IPv6 has more to say after it."""

    family: int
    host: str
    more: tuple[Any, ...] = ()

    def at(self, port: int) -> tuple[Any, ...]:
        """As `socket.connect` takes it."""
        return (self.host, port, *self.more)


@dataclass(slots=True)
class _Name:
    """What is known of a name, and who is asking."""

    found: list[Address] = field(default_factory=list)
    found_at: float = float("-inf")
    failed_at: float = float("-inf")
    asked_at: float = float("-inf")
    asking: int = 0
    is_slow: bool = False
    answer: AsyncResult = field(default_factory=AsyncResult)

    def in_turn(self) -> list[Address]:
        """Where it leads, another address first each time: a name with several of them spreads its load so."""
        alike = len(list(takewhile(lambda address: address.family == self.found[0].family, self.found)))
        self.found = [*self.found[1:alike], self.found[0], *self.found[alike:]]
        return self.found


class Names:
    """The look-ups of one process."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        # Made when they are needed first, after the fork.
        self._threads: dict[bool, ThreadPool] = {}

    def addresses(self, host: str) -> list[Address]:
        """
        Where a name or a literal address leads, in the order to try them; at least one.

        Waits for as long as the look-up takes; the caller's `gevent.Timeout` ends the waiting, and not the look-up.

        Raises:
            OSError, UnicodeError: the name leads nowhere, or nobody could tell.
        """
        if not monkey.is_module_patched("socket"):
            return _look_up(host)
        if literal := numeric_addresses(host):
            return literal
        name, now = self._name(host), time.monotonic()
        age_s = now - name.found_at
        if age_s >= STALE_S:
            _raise(self._ask(host, name, now).get())
        elif age_s >= FRESH_S and now - name.failed_at >= RETRY_S:
            answer = self._ask(host, name, now).wait(PATIENCE_S)
            if _is_final(answer):
                _raise(answer)
            else:
                name.failed_at = now
        return name.in_turn()

    def doubt(self, host: str) -> None:
        """None of its addresses took a connection: the next call looks it up anew, though it is fresh."""
        if name := self._names.get(host):
            name.found_at = min(name.found_at, time.monotonic() - FRESH_S)

    def _ask(self, host: str, name: _Name, now: float) -> AsyncResult:
        """What will have the answer of whichever look-up of this name ends first."""
        if name.asking == 0 or (name.asking < MOST_AT_ONCE and now - name.asked_at >= SLOW_S):
            name.is_slow = name.is_slow or name.asking > 0
            name.asking += 1
            name.asked_at = now
            gevent.spawn(self._answer, host, name)
        return name.answer

    def _answer(self, host: str, name: _Name) -> None:
        began = time.monotonic()
        answer = self._pool(is_slow=name.is_slow).apply(_look_up_or_tell, (host,))
        name.asking -= 1
        name.is_slow = time.monotonic() - began >= SLOW_S
        if isinstance(answer, list):
            name.found, name.found_at = answer, time.monotonic()
        elif _is_final(answer):
            name.found_at = float("-inf")
        waiting, name.answer = name.answer, AsyncResult()
        waiting.set(answer)

    def _pool(self, *, is_slow: bool) -> ThreadPool:
        if is_slow not in self._threads:
            self._threads[is_slow] = ThreadPool(SLOW_THREADS if is_slow else THREADS, idle_task_timeout=IDLE_THREAD_S)
        return self._threads[is_slow]

    def _name(self, host: str) -> _Name:
        name = self._names.get(host)
        if name is None:
            if len(self._names) >= MOST_NAMES:
                self._forget_one()
            name = self._names[host] = _Name()
        return name

    def _forget_one(self) -> None:
        """The oldest that nobody asks for."""
        idle = next((host for host, name in self._names.items() if not name.asking), None)
        if idle is not None:
            del self._names[idle]


# For all connections of a process.
NAMES = Names()


def numeric_addresses(host: str) -> list[Address]:
    """What a host that is an address, however written, stands for; empty for a name."""
    try:
        return _look_up(host, _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []


def _look_up_or_tell(host: str) -> list[Address] | OSError:
    # What is raised in gevent's threads is printed.
    try:
        return _look_up(host)
    except OSError as exc:
        return exc


def _look_up(host: str, flags: int = 0) -> list[Address]:
    found = _socket.getaddrinfo(host, None, 0, socket.SOCK_STREAM, 0, flags)
    return [Address(family, str(address[0]), tuple(address[2:])) for family, _, _, _, address in found]


def _is_final(answer: list[Address] | OSError | None) -> bool:
    """Whether it is one of a name server, and not of the want of one."""
    return answer is not None and (not isinstance(answer, OSError) or answer.errno in _NOWHERE)


def _raise(answer: list[Address] | OSError) -> None:
    if isinstance(answer, OSError):
        # Several calls may wait for the same answer, and each adds its own traceback.
        raise type(answer)(*answer.args)
