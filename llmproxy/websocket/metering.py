"""
Each response of a WebSocket is a call: it counts when it begins, and holds of budgets until it is over.

Runs where the upstream's messages are observed, after the client has them. A response that is not admitted ends the
session: the upstream has begun it, and would begin the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llmproxy.bill import Bill
from llmproxy.errors import ProxyError
from llmproxy.holding import Holding
from llmproxy.limits.charge import UNKNOWN, Charge
from llmproxy.observe.facts import Facts


class AdmitResponse(Protocol):
    """How responses are admitted."""

    def __call__(self, number: int, *, is_over: bool) -> Holding | None:
        """What the nth holds, where it holds something; it may be over already. Raises ProxyError."""


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
        self._heard: list[Bill] = []  # while a response runs

    def begun(self, *, is_over: bool = False) -> None:
        """The upstream has begun a response, which may be over already. Never raises."""
        if self._session is None:
            return
        self._count += 1
        try:
            holding = self._admit(self._count, is_over=is_over)
        except ProxyError as exc:
            # A close frame has room for few words, and clients go by the code.
            exc.message = exc.code or exc.message
            self._end(exc.with_traceback(None))
            return
        if holding is not None:
            self._running.append(holding)

    def over(self, told: Facts) -> None:
        """A response is over."""
        if self._session is None:
            return
        charge = self._session.priced(told)
        if self._is_ruled and not self._running:
            self.begun(is_over=True)
        if self._running:
            billed = Bill(charge or UNKNOWN, told.metadata(), told.usage_source)
            charge = self._settle(self._running.pop(0), billed, is_free=told.has_failed and told.usage is None)
        if charge is not None:
            self._session.charge(charge)

    def heard(self, told: Facts) -> None:
        """
        What was understood of the caller's speech: a call by itself, or paid with the response that runs.

        It must not take that response's place: the response's own end would be refused, and nobody pay it.
        """
        if not self._running:
            self.over(told)
        elif self._session is not None and told.usage is not None:
            self._heard.append(Bill(self._session.priced(told) or UNKNOWN, told.metadata(), told.usage_source))

    def close(self) -> None:
        """The session has ended: what still runs is charged what is assumed of it. Further calls do nothing."""
        session, self._session = self._session, None
        while session is not None and self._running:
            session.charge(self._settle(self._running.pop(0), Bill(UNKNOWN), is_free=False))

    def _settle(self, holding: Holding, billed: Bill, *, is_free: bool) -> Charge:
        billed = billed if is_free else holding.charged(billed)
        heard, self._heard = self._heard, []
        for one in heard:
            paid = holding.charged(one)
            billed, is_free = paid if is_free else _with(billed, paid), False
        holding.settle(billed, is_free=is_free)
        return billed.charge


def _with(billed: Bill, heard: Bill) -> Bill:
    """The bill of a response with that of what was heard meanwhile: its cost, and its tokens where both are told."""
    microdollars = (billed.charge.microdollars or 0) + (heard.charge.microdollars or 0)
    metadata = billed.metadata and _with_tokens(billed.metadata, heard.metadata or {})
    return billed._replace(charge=billed.charge._replace(microdollars=microdollars), metadata=metadata)


def _with_tokens(told: dict[str, Any], heard: dict[str, Any]) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return told | {name: told.get(name, 0) + heard.get(name, 0) for name in names}
