"""
Each response of a WebSocket is a call: it counts when it begins, and holds of budgets until it is over.

Runs where the upstream's messages are observed, after the client has them. A response that is not admitted ends the
session: the upstream has begun it, and would begin the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llmproxy.bill import Bill
from llmproxy.errors import ProxyError
from llmproxy.holding import Holding
from llmproxy.limits.charge import UNKNOWN, Charge
from llmproxy.observe.facts import Facts

# Admits the nth response; what it holds, where it holds something. Raises ProxyError.
AdmitResponse = Callable[[int], Holding | None]


class Session(Protocol):
    """The call that has the responses."""

    def priced(self, told: Facts) -> Charge | None:
        """The price of a response; None where no prices are kept."""

    def charge(self, one: Charge) -> None:
        """Add what a response costs."""


class Metering:
    """
    Args:
        admit: See AdmitResponse.
        end: Ends the session.
        is_ruled: Its token has budgets: what ends without having begun counts, too.
    """

    def __init__(
        self, session: Session, admit: AdmitResponse, end: Callable[[ProxyError], None], *, is_ruled: bool
    ) -> None:
        self._session: Session | None = session
        self._admit = admit
        self._end = end
        self._is_ruled = is_ruled
        self._count = 0
        self._running: list[Holding] = []

    def begun(self) -> None:
        """The upstream has begun a response. Never raises."""
        if self._session is None:
            return
        self._count += 1
        try:
            holding = self._admit(self._count)
        except ProxyError as exc:
            # A close frame has room for few words, and clients go by the code.
            exc.message = exc.code or exc.message
            self._end(exc.with_traceback(None))
            return
        if holding is not None:
            self._running.append(holding)

    def over(self, told: Facts) -> None:
        """A response, or what was understood of the caller's speech, is over."""
        if self._session is None:
            return
        charge = self._session.priced(told)
        if self._is_ruled and not self._running:
            self.begun()
        if self._running:
            metadata = told.metadata()
            billed = Bill(charge or UNKNOWN, metadata, told.usage_source)
            charge = self._settle(self._running.pop(0), billed, is_free=told.has_failed and told.usage is None)
        if charge is not None:
            self._session.charge(charge)

    def close(self) -> None:
        """The session has ended: what still runs is charged what is assumed of it. Further calls do nothing."""
        session, self._session = self._session, None
        while session is not None and self._running:
            session.charge(self._settle(self._running.pop(0), Bill(UNKNOWN), is_free=False))

    def _settle(self, holding: Holding, billed: Bill, *, is_free: bool) -> Charge:
        billed = billed if is_free else holding.charged(billed)
        holding.settle(billed, is_free=is_free)
        return billed.charge
