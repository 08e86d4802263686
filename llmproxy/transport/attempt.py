"""The making of a connection: name look-up, TCP and TLS under one time limit, ended when nobody waits for it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from gevent import Timeout, get_hub, getcurrent


class ConnectionAttempt:
    """
    A context around whatever makes a connection in this greenlet.

    It ends by TimeoutError when `timeout_s` is over, however the time was spent, and by ConnectionAbortedError
    after an `abort`. Both are thrown where the greenlet waits, because a socket that is still connecting cannot
    be shut down, and a name look-up has none. Outside of gevent, only the calls' own time limits hold.
    """

    def __init__(self, timeout_s: float) -> None:
        self._limit = Timeout(timeout_s)
        self._loop = get_hub().loop
        self._waiter: Any = None
        self._is_aborted = False

    def __enter__(self) -> Self:
        self._waiter = getcurrent()
        self._limit.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiter = None
        self._limit.close()
        if error is not self._limit:
            return
        if self._is_aborted:
            raise ConnectionAbortedError("the call ended while its connection was being made") from None
        raise TimeoutError("the time for a connection is over") from None

    def abort(self) -> None:
        """Give up. Never waits."""
        self._is_aborted = True
        self._loop.run_callback(self._give_up)

    def _give_up(self) -> None:
        if self._waiter is not None:
            self._waiter.throw(self._limit)
