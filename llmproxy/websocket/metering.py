"""
Each response of a WebSocket is a call: it counts when it begins, holds of budgets until it is over, and has a record.

Where the client's messages are read, a response is admitted before it is asked for. Otherwise, and where the upstream
begins one by itself, that is seen when the client has been told so; one that is not admitted ends the session then:
the upstream would begin the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from llmproxy.bill import Bill
from llmproxy.call import Part
from llmproxy.errors import ClientGone, ProxyError
from llmproxy.holding import Holding
from llmproxy.limits.body.reading import Reading
from llmproxy.limits.charge import FREE
from llmproxy.observe.facts import Facts


class AdmitResponse(Protocol):
    """How responses are admitted."""

    def __call__(self, number: int, said: Reading | None = None, *, is_over: bool = False) -> Holding | None:
        """
        What the nth holds, where it holds something. Raises ProxyError.

        Args:
            said: What the client asks for it by; None where the upstream has begun it by itself.
            is_over: It has been made already.
        """


class Session(Protocol):
    """The call that has the responses."""

    def bill_response(self, told: Facts, holding: Holding | None = None) -> Bill:
        """The bill of a response, by what it told, and by what it holds where it did not."""

    def response_ended(self, part: Part, told: Facts, billed: Bill, *, cut: ProxyError | None = None) -> None:
        """Write the record of a response."""


class Ends(Protocol):
    """The tunnel, as far as responses end it or are ended with it."""

    def refuse_response(self, reason: ProxyError) -> None:
        """End it, and what the upstream has begun."""

    @property
    def ended_by(self) -> ProxyError:
        """What ended it."""


class Metering:
    """
    Args:
        admit: See AdmitResponse.
        tunnel: Asked for what `Ends` has.
        is_ruled: Its token has rules or meters: what ends without having begun counts, too. Without them the first
            response has been counted with the opening.
    """

    def __init__(self, session: Session, admit: AdmitResponse, tunnel: Callable[[], Ends], *, is_ruled: bool) -> None:
        self._session: Session | None = session
        self._admit = admit
        self._tunnel = tunnel
        self._is_ruled = is_ruled
        self._is_paid_for = not is_ruled
        self._count = 0
        self._asked: list[tuple[str | None, Part]] = []  # with the ids of their messages, until they begin
        self._running: list[Part] = []
        self._heard: list[Bill] = []  # while a response runs

    def asked(self, said: Reading, event_id: str | None) -> None:
        """The client is about to ask for a response. Raises ProxyError where it is not admitted."""
        part = self._next()
        part = part._replace(holding=self._admit(part.number, said))
        if self._session is None:  # it has ended meanwhile
            if part.holding is not None:
                part.holding.settle(Bill(FREE), is_free=True)
            raise ClientGone
        self._asked.append((event_id, part))

    def failed(self, event_id: str | None) -> None:
        """The upstream has refused a message: the one that asked for a response, if that is open. Never raises."""
        if self._session is None or not self._asked:
            return
        ids = [known for known, _ in self._asked]
        if event_id is not None and event_id not in ids:
            return  # another message's
        _, part = self._asked.pop(0 if event_id is None else ids.index(event_id))
        told = Facts()
        told.has_failed = True
        self._end(self._session, part, told, self._session.bill_response(told), is_free=True)

    def begun(self) -> None:
        """The upstream has begun a response. Never raises."""
        if self._session is None:
            return
        if self._asked:
            self._running.append(self._asked.pop(0)[1])
            return
        is_counted, self._is_paid_for = self._is_paid_for, False
        self._running.append(self._next() if is_counted else self._admitted(is_over=False))

    def over(self, told: Facts) -> None:
        """A response is over. Never raises."""
        if self._session is None:
            return
        if not self._running and self._asked:
            self.begun()
        part = self._running.pop(0) if self._running else self._unannounced()
        billed = self._session.bill_response(told, part.holding)
        is_free = told.has_failed and told.usage is None
        self._end(self._session, part, told, billed, is_free=is_free)

    def heard(self, told: Facts) -> None:
        """
        What was understood of the caller's speech: a call by itself, or paid with the response that runs.

        It must not take that response's place: the response's own end would be refused, and nobody pay it.
        """
        if not self._running:
            self.over(told)
        elif self._session is not None and told.usage is not None:
            self._heard.append(self._session.bill_response(told))

    def close(self) -> None:
        """The session has ended: what still runs is charged what is assumed of it. Further calls do nothing."""
        session, self._session = self._session, None
        self._running += [part for _, part in self._asked]
        self._asked.clear()
        while session is not None and self._running:
            told = Facts()
            unknown = session.bill_response(told)
            cut = self._tunnel().ended_by
            self._end(session, self._running.pop(0), told, unknown, is_free=False, cut=cut)

    def _next(self) -> Part:
        self._count += 1
        return Part(self._count, time.time(), time.perf_counter(), None)

    def _unannounced(self) -> Part:
        return self._admitted(is_over=True) if self._is_ruled else self._next()

    def _admitted(self, *, is_over: bool) -> Part:
        """One more response; one that is not admitted holds nothing, and its record tells its cost all the same."""
        part = self._next()
        try:
            return part._replace(holding=self._admit(part.number, is_over=is_over))
        except ProxyError as exc:
            # A close frame has room for few words, and clients go by the code.
            exc.message = exc.code or exc.message
            self._tunnel().refuse_response(exc.with_traceback(None))
            return part

    def _end(
        self,
        session: Session,
        part: Part,
        told: Facts,
        billed: Bill,
        *,
        is_free: bool,
        cut: ProxyError | None = None,
    ) -> None:
        """Record, then settlement: from the record a charge can be made again."""
        holding = part.holding
        billed = billed if is_free else _charged(holding, billed)
        heard, self._heard = self._heard, []
        for one in heard:
            paid = _charged(holding, one)
            billed, is_free = _with(billed, paid), False
        session.response_ended(part, told, billed, cut=cut)
        if holding is not None:
            holding.settle(billed, is_free=is_free)


def _charged(holding: Holding | None, billed: Bill) -> Bill:
    return billed if holding is None else holding.charged(billed)


def _with(billed: Bill, heard: Bill) -> Bill:
    """The bill of a response with that of what was heard meanwhile: its cost, and its tokens where both are told."""
    charge, more = billed.charge, heard.charge
    if charge.source == "none":
        return heard
    if charge.source == "absent":
        charge = more
    elif charge.microdollars is not None and more.microdollars is not None:
        charge = charge._replace(microdollars=charge.microdollars + more.microdollars)
    metadata = billed.metadata and _with_tokens(billed.metadata, heard.metadata or {})
    return billed._replace(charge=charge, metadata=metadata)


def _with_tokens(told: dict[str, Any], heard: dict[str, Any]) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return told | {name: told.get(name, 0) + heard.get(name, 0) for name in names}
