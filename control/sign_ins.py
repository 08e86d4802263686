"""
Who tries to sign in as an operator, how often in vain, and when the next try may be. Knows nothing of HTTP.

Failures are counted over all processes of a node, in memory that they share: a guess costs the database nothing.
Nothing but time forgives one, so nobody's success makes room for somebody else's guesses.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import logging
import math
import mmap
import os
import secrets
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from struct import Struct
from typing import NamedTuple

from llmproxy.telemetry import metrics

# What there is to sign in to.
ADMIN, MANAGEMENT, METRICS = REALMS = ("admin", "management", "metrics")

MAX_FAILURES = 10
WINDOW_S = 300.0
MAX_DELAY_S = 30.0
# Whoever has an IPv6 address has a /64 of them, and a /48 for the asking: as many as hide behind one of IPv4.
IPV6_PREFIX = 48

# Callers are kept in buckets, each with room for so many: as many in all as a node can refuse in MAX_DELAY_S, so that
# nobody has a guess at once again for being forgotten. That is 13 MB, which are taken as guesses come.
_BUCKETS, PER_BUCKET = 16_384, 8
# Who it is, delays so far, and the times of the last failures. No time is 0.
_CALLER = Struct(f"16s d {MAX_FAILURES}d")
# When one was last logged, when the audit trail was last told, failures since, and where the last of them came from.
_UNTOLD = Struct("d d q 64s")
_UNTOLD_AT = _CALLER.size * (len(REALMS) + _BUCKETS * PER_BUCKET)
_SIZE = _UNTOLD_AT + _UNTOLD.size * len(REALMS)

_LOCK_TRIES, _LOCK_PAUSE_S = 100, 0.01
_LOG_EVERY_S = 1.0
_TELL_EVERY_S = 60.0

log = logging.getLogger(__name__)


class TooManyFailures(Exception):
    """Wrong credentials too often; `wait_s` seconds are left to wait."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(f"Too many wrong credentials. Try again in {self.wait_s} s.")


class Failures(NamedTuple):
    """Sign-ins that failed, and where the last one of them came from."""

    realm: str
    failures: int
    address: str | None


class SharedMemory:
    """Memory that processes forked from this one share, in bytes, and a lock that a process which ends lets go of."""

    def __init__(self, size: int = _SIZE) -> None:
        # The lock is a file's, without a name, so that nothing of it is left: one in memory would outlive a killed
        # process that holds it. The memory is no file's: touching a mapped one on a full disk is a process's end.
        with tempfile.TemporaryFile() as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)
        self.bytes = mmap.mmap(-1, size)
        # Nobody outside can tell who falls into whose bucket.
        self.salt = secrets.token_bytes(16)

    def key_of(self, name: str) -> bytes:
        """What somebody is kept under, in 16 bytes."""
        return hashlib.blake2b(name.encode(), digest_size=16, key=self.salt).digest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in it. Nothing within may yield. Raises TooManyFailures when it does not come to that."""
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_LOCK_PAUSE_S)
                continue
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)
            return
        # Somebody stands still in it: nobody is let in unseen.
        raise TooManyFailures(1)


def bucket_of(key: bytes, size: int, *, buckets: int, behind: int = 0) -> range:
    """The PER_BUCKET places, of `size` bytes each, where a key may be kept: so many others stand before the first."""
    first = size * (behind + int.from_bytes(key[:4]) % buckets * PER_BUCKET)
    return range(first, first + size * PER_BUCKET, size)


_shared: SharedMemory | None = None


def share() -> None:
    """Let this process and all that it forks count together."""
    global _shared  # noqa: PLW0603
    _shared = SharedMemory()


class _Caller(NamedTuple):
    """What is kept of a caller, or of all callers of a realm."""

    key: bytes
    delays: float
    times: tuple[float, ...]  # oldest first

    @property
    def last(self) -> float:
        return self.times[-1]

    def recent(self, now: float) -> int:
        """How many of the failures count; one does until WINDOW_S later."""
        return sum(1 for at in self.times if at and at > now - WINDOW_S)

    def failed(self, now: float) -> _Caller:
        """The same after one more failure."""
        delays = self.delays if self.recent(now) else 0
        is_many = delays or self.recent(now) + 1 >= MAX_FAILURES
        return _Caller(self.key, delays + 1 if is_many else 0, (*self.times[1:], now))


class SignIns:
    """
    Lets callers try to sign in. After MAX_FAILURES within WINDOW_S, of a caller or of all callers together, the next
    try has to wait: a second, twice as long after each further failure, MAX_DELAY_S at most.

    While all together have failed too often, a caller that has not failed lately still has one try at once, and
    one that is known is not held responsible for the others.
    """

    def __init__(self, memory: SharedMemory | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._memory = memory or _shared or SharedMemory()
        self._monotonic = monotonic
        for realm in REALMS:  # Prometheus sees a growth only of what it has seen before
            metrics.SIGN_IN_FAILURES.labels(realm), metrics.SIGN_INS_DELAYED.labels(realm)

    def attempt(
        self, realm: str, address: str | None, verify: Callable[[], str | None], *, known_as: str | None = None
    ) -> str | None:
        """
        Whom `verify` finds; None is a failure.

        Args:
            address: Where the caller is.
            verify: Must not yield.
            known_as: A name for a caller that has signed in before, to be counted by in place of the address.

        Raises:
            TooManyFailures: It was not asked.
        """
        is_logged = False
        with self._memory.locked():
            now = self._monotonic()
            caller_at, caller = self._find(realm, known_as or _network(address), now)
            everybody_at = _CALLER.size * REALMS.index(realm)
            everybody = self._read(everybody_at)
            delays = caller.delays
            if known_as is None and everybody.recent(now):
                delays = max(delays, everybody.delays)
            if (wait_s := _wait_s(caller, delays, now)) > 0:
                metrics.SIGN_INS_DELAYED.labels(realm).inc()
                raise TooManyFailures(wait_s)
            found = verify()
            if found is None:
                self._write(caller_at, caller.failed(now))
                if known_as is None:
                    self._write(everybody_at, everybody.failed(now))
                is_logged = self._note(realm, 1, address, now)
        if found is None:
            metrics.SIGN_IN_FAILURES.labels(realm).inc()
        if is_logged:
            log.warning("wrong credentials for %s from %s", realm, address or "an unknown address")
        return found

    def take_untold(self) -> list[Failures]:
        """What the audit trail is to be told by now: of each realm something in a minute, by one process."""
        untold = []
        with self._memory.locked():
            now = self._monotonic()
            for number, realm in enumerate(REALMS):
                at = _UNTOLD_AT + number * _UNTOLD.size
                logged, told, count, address = _UNTOLD.unpack_from(self._memory.bytes, at)
                if count and not now - told < _TELL_EVERY_S:
                    untold.append(Failures(realm, count, address.rstrip(b"\0").decode() or None))
                    _UNTOLD.pack_into(self._memory.bytes, at, logged, now, 0, b"")
        return untold

    def put_back(self, failures: Failures) -> None:
        """The audit trail could not be told of them: later, then."""
        with self._memory.locked():
            self._note(failures.realm, failures.failures, failures.address, self._monotonic())

    def _note(self, realm: str, count: int, address: str | None, now: float) -> bool:
        """Whether it is to be logged, too."""
        at = _UNTOLD_AT + REALMS.index(realm) * _UNTOLD.size
        logged, told, so_far, _ = _UNTOLD.unpack_from(self._memory.bytes, at)
        is_logged = not now - logged < _LOG_EVERY_S
        logged = now if is_logged else logged
        _UNTOLD.pack_into(self._memory.bytes, at, logged, told, so_far + count, (address or "").encode()[:64])
        return is_logged

    def _find(self, realm: str, caller: str, now: float) -> tuple[int, _Caller]:
        """A caller and its place; where there is none, the place of whoever is missed least."""
        key = self._memory.key_of(f"{realm} {caller}")
        places = bucket_of(key, _CALLER.size, buckets=_BUCKETS, behind=len(REALMS))
        kept = [(at, self._read(at)) for at in places]
        for at, one in kept:
            if one.key == key:
                return at, one if one.recent(now) else _Caller(key, 0, one.times)
        # A flood of addresses with a guess each must not make one forgotten that has to wait.
        at, _ = min(kept, key=lambda place: (place[1].recent(now) > 0, place[1].delays, place[1].last))
        return at, _Caller(key, 0, (0.0,) * MAX_FAILURES)

    def _read(self, at: int) -> _Caller:
        key, delays, *times = _CALLER.unpack_from(self._memory.bytes, at)
        return _Caller(key, delays, tuple(times))

    def _write(self, at: int, caller: _Caller) -> None:
        _CALLER.pack_into(self._memory.bytes, at, caller.key, caller.delays, *caller.times)


def _wait_s(caller: _Caller, delays: float, now: float) -> float:
    if not delays or not caller.recent(now):
        return 0.0
    delay_s: float = min(MAX_DELAY_S, 2.0 ** (min(delays, 10) - 1))
    return caller.last + delay_s - now


def _network(address: str | None) -> str:
    if address is None or ":" not in address:
        return address or "unknown"
    return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))
