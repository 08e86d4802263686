"""
What many greenlets ask of SQLite at one time, in one transaction: its lock and its commit cost as much as what one
claim does in it.

Nothing waits for company: whatever is asked for within one turn of the event loop, and while another process has the
lock, is done together. It takes a turn of the loop itself, so who is alone does better without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.hub import Waiter

from database.claims.transaction import Transaction
from llmproxy.admission import StoreUnavailable

# No transaction of some milliseconds keeps other processes waiting.
MOST = 64

T = TypeVar("T")
Work = Callable[[Transaction], Any]
_Asked = tuple[Work, "Waiter[Any]"]


class Together:
    """
    Args:
        transaction: Does work as a whole or not at all, in a transaction of its own. Raises StoreUnavailable.
    """

    def __init__(self, transaction: Callable[[Work], Any]) -> None:
        self._transaction = transaction
        self._asked: list[_Asked] = []
        self._turn = 0.0
        self._before = self._in_turn = 0

    def has_company(self) -> bool:
        """Whether others ask, too: in this turn of the event loop so far, or in the last one in which anybody did."""
        turn = gevent.get_hub().loop.now()  # which stands still within one
        if turn != self._turn:
            self._turn, self._before, self._in_turn = turn, self._in_turn, 0
        self._in_turn += 1
        return self._in_turn > 1 or self._before > 1

    def do(self, work: Callable[[Transaction], T]) -> T:
        """What the work returns or raises, once that is committed. It must not yield."""
        waiter: Waiter[T] = Waiter()
        asked = work, waiter
        self._asked.append(asked)
        if len(self._asked) == 1:
            gevent.spawn(self._run)
        try:
            result: T = waiter.get()
            return result
        except BaseException:
            if asked in self._asked:  # whoever asked was ended
                self._asked.remove(asked)
            raise

    def _run(self) -> None:
        while self._asked:
            self._run_some()

    def _run_some(self) -> None:
        taken: list[_Asked] = []
        is_done = False

        def all_of_it(transaction: Transaction) -> list[Any]:
            nonlocal is_done
            taken.extend(self._take())
            results = [work(transaction) for work, _ in taken]
            is_done = True
            return results

        try:
            results = self._transaction(all_of_it)
        except Exception as exc:
            if taken and not is_done:  # one of them fails, and nothing of any has been written
                for asked in taken:
                    self._alone(asked)
                return
            for _, waiter in taken or self._take():
                _soon(waiter.throw, StoreUnavailable(str(exc)))
            return
        for (_, waiter), result in zip(taken, results, strict=True):
            _soon(waiter.switch, result)

    def _alone(self, asked: _Asked) -> None:
        work, waiter = asked
        try:
            result = self._transaction(work)
        except Exception as exc:
            _soon(waiter.throw, exc)
        else:
            _soon(waiter.switch, result)

    def _take(self) -> list[_Asked]:
        taken, self._asked = self._asked[:MOST], self._asked[MOST:]
        return taken


def _soon(wake: Callable[[Any], object], result: object) -> None:
    # A waiter may be woken by the event loop alone.
    gevent.get_hub().loop.run_callback(wake, result)
