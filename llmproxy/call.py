"""
One proxied call from its arrival to its record: a machine that is told of each phase when it begins.

    arrived → admitted → sent up → head came → head went → ended

A call may end in any phase, once, and then has one record. What is told out of turn is a fault of the proxy's own,
and raises WrongOrder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from random import getrandbits
from typing import Final, NamedTuple, Protocol

from llmproxy.admission import Grant
from llmproxy.api_log.record import CallRecord
from llmproxy.bill import Bill, Sent, bill, bill_response, not_sent
from llmproxy.client.guard import CallGuard
from llmproxy.client.request_body import RequestBody
from llmproxy.concealment import NOTHING, Concealment
from llmproxy.endpoints import plain_path
from llmproxy.errors import ProxyError
from llmproxy.headers import Headers
from llmproxy.holding import Holding
from llmproxy.limits.charge import PRICED, CostSource
from llmproxy.limits.prices import Prices
from llmproxy.limits.reservations import part_id
from llmproxy.live_calls import LiveCalls
from llmproxy.observe.facts import Facts
from llmproxy.observe.usage import UsageObserver
from llmproxy.statuses import BAD_REQUEST, SWITCHING_PROTOCOLS
from llmproxy.telemetry import metrics, outages
from llmproxy.telemetry.tracing import CallSpan


class Phase(IntEnum):
    """How far a call has come."""

    ARRIVED = 0
    ADMITTED = 1
    SENT_UP = 2
    HEAD_CAME = 3
    HEAD_WENT = 4
    ENDED = 5


# To look a member up in its class takes a descriptor, and 0.1 µs.
_ARRIVED, _ADMITTED, _SENT_UP, _HEAD_CAME, _HEAD_WENT, _ENDED = Phase


class WrongOrder(RuntimeError):
    """A call was told something out of turn."""


class Part(NamedTuple):
    """
    One response of a WebSocket.

    Attributes:
        number: From 1 on.
        began_at, began: When, in epoch seconds and by `time.perf_counter`.
        holding: What it holds of its token's budgets, if anything.
    """

    number: int
    began_at: float
    began: float
    holding: Holding | None


class RecordWriter(Protocol):
    """Where records go."""

    def write(self, record: CallRecord) -> bool:
        """Write a record, now or later. Never raises, never waits."""

    def write_refusal(self, record: CallRecord) -> None:
        """The same, for a call that nobody was admitted for: it may be counted with others."""


class Call:
    """
    One call, which has just arrived. Whoever is outside tells it of phases, and writes none of its attributes.

    Args:
        method, endpoint: As requested; the endpoint is the path alone.
        log: Gets the record.
        live: Has the call until its end.
        prices: What it is priced by; None where no prices are kept.
        guard: Ends it from outside.
        span: Ended with it; None while tracing is off.
        asks_for_session: It is to become a WebSocket.
        client_address, user_agent: Where it came from and what with, if the record is to tell.

    Attributes:
        request_id: A UUID of its own.
    """

    __slots__ = (
        "_arrived", "_arrived_at", "_asks_for_session", "_body", "_client_address", "_conceals", "_cut",
        "_grant", "_head_came", "_holding", "_is_session", "_live", "_log", "_observer", "_overhead_s", "_phase",
        "_prices", "_sent_up", "_span", "_status", "_ttft_s", "_upstream_request_id", "_upstream_status",
        "_user_agent", "endpoint", "guard", "method", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        endpoint: str,
        *,
        log: RecordWriter,
        live: LiveCalls,
        guard: CallGuard,
        prices: Prices | None = None,
        span: CallSpan | None = None,
        asks_for_session: bool = False,
        client_address: str | None = None,
        user_agent: str | None = None,
    ) -> None:
        self.method: Final = method
        self.endpoint: Final = endpoint
        self.guard: Final = guard
        self._log = log
        self._live = live
        self._prices = prices
        self._cut: Callable[[ProxyError], None] = guard.cut
        self._span = span
        self._asks_for_session = self._is_session = asks_for_session
        self._client_address = client_address
        self._user_agent = user_agent
        self._phase = _ARRIVED
        self._arrived_at = time.time()
        self.request_id: Final = new_id(self._arrived_at)
        self._arrived = time.perf_counter()
        self._sent_up = 0.0
        self._head_came = 0.0
        self._overhead_s: float | None = None
        self._ttft_s: float | None = None
        self._body: RequestBody | None = None
        self._grant: Grant | None = None
        self._holding: Holding | None = None
        self._upstream_status: int | None = None
        self._upstream_request_id: str | None = None
        self._status = 0
        self._conceals = NOTHING
        self._observer: UsageObserver | None = None
        live.join(self)

    @property
    def token_id(self) -> str | None:
        """The token's public id; None until the call is admitted."""
        return self._grant.token_id if self._grant else None

    @property
    def project_id(self) -> str | None:
        """The project's id; None until the call is admitted."""
        return self._grant.project_id if self._grant else None

    @property
    def is_session(self) -> bool:
        """It is a WebSocket, or may still become the one that was asked for."""
        return self._is_session

    @property
    def is_stream(self) -> bool:
        """Its response is a stream of events."""
        return self._observer is not None and self._observer.is_stream and not self._is_session

    def traced(self, headers: Headers) -> Headers:
        """The headers for the upstream, with this call's span as the parent of what it does, if it has one."""
        return headers if self._span is None else self._span.pass_on(headers)

    def cut(self, reason: ProxyError) -> None:
        """End it from outside; see LiveCall."""
        self._cut(reason)

    def reads(self, body: RequestBody) -> None:
        """Count what is read of its body, and not the time that it waits for that. Before it is admitted."""
        if self._phase is not _ARRIVED:
            raise WrongOrder(f"a call that is {self._phase.name} gets no body any more")
        self._body = body

    def admitted(self, grant: Grant, holding: Holding | None = None) -> None:
        """Its token may make it; `holding` is what it holds of its token's budgets, and ended with it."""
        self._enter(_ADMITTED, after=_ARRIVED)
        self._grant, self._holding = grant, holding
        self._live.hold(grant.token_id, is_session=self._asks_for_session)

    def sent_up(self, conceals: Concealment = NOTHING) -> None:
        """
        It is handed to the upstream, which takes the time from here on.

        Args:
            conceals: What of that the upstream tells may stand in no record.
        """
        self._enter(_SENT_UP, after=_ADMITTED)
        self._conceals = conceals
        self._sent_up = time.perf_counter()

    def never_left(self) -> None:
        """There was no connection to the upstream, which has seen nothing of it, and charges nothing."""
        self._sent_up = 0.0

    def head_came(self, status: int, request_id: str | None) -> None:
        """The head of the upstream's response is there, and our time goes on."""
        self._enter(_HEAD_CAME, after=_SENT_UP)
        self._head_came = time.perf_counter()
        self._upstream_status, self._upstream_request_id = status, request_id

    def head_went(
        self, status: int, observer: UsageObserver, *, cut: Callable[[ProxyError], None] | None = None
    ) -> None:
        """
        The head of our response is ready. What follows takes as long as the upstream and the client take.

        Args:
            status: What the client is told.
            observer: Of the upstream's body, finished when the call ends.
            cut: Ends the call from outside from here on, in the guard's place.
        """
        self._enter(_HEAD_WENT, after=_HEAD_CAME)
        own_s = self._sent_up - self._arrived + time.perf_counter() - self._head_came
        self._overhead_s = own_s - (self._body.waited_s if self._body else 0.0)
        self._status, self._observer = status, observer
        self._is_session = self._is_session and status == SWITCHING_PROTOCOLS
        self._cut = cut or self._cut

    def first_byte_came(self) -> None:
        """The first byte of the response's body arrived."""
        if self._phase is not _HEAD_WENT or self._ttft_s is not None:
            raise WrongOrder(f"a first byte of a call that is {self._phase.name}")
        self._ttft_s = time.perf_counter() - self._arrived

    def bill_response(self, told: Facts, holding: Holding | None = None) -> Bill:
        """The bill of one of a WebSocket's responses, by what it told, and by what it holds where it did not."""
        tier = holding.tier if holding else None
        return bill_response(self._prices, self._admitted_by.project_name, self.endpoint, told, tier=tier)

    def response_ended(self, part: Part, told: Facts, billed: Bill, *, cut: ProxyError | None = None) -> None:
        """
        Write the record of one of a WebSocket's responses.

        Args:
            told: What it told by its end.
            cut: What ended the WebSocket before it.
        """
        grant, charge, holding = self._admitted_by, billed.charge, part.holding
        record = CallRecord(
            part.began_at,
            part_id(self.request_id, part.number),
            grant.token_id,
            grant.project_id,
            self.endpoint,
            self.method,
            self._status,
            _ms(time.perf_counter() - part.began),
            billed.metadata,
            cut.outcome if cut else "complete",
            True,
            None,
            self._upstream_status,
            self._upstream_request_id,
            0,
            0,
            billed.usage_source,
            {"code": cut.code, "type": cut.type} if cut else told.error,
            cost=charge.microdollars,
            cost_source=charge.source,
            price_date=self._price_date(charge.source),
            service_tier=told.service_tier,
            client_address=self._client_address,
            user_agent=self._user_agent,
            would_refuse=holding.would_refuse if holding else None,
            model_mismatch=holding is not None and holding.is_mismatch(told.model),
            secret="retired" if grant.is_retired else None,
            failed_inside=told.has_failed,
            is_cut=cut is not None and cut.outcome == "refused",
            part=part.number,
        )
        record = _concealed(record, self._conceals)
        metrics.call_ended(record, overhead_s=None)
        if charge.is_clamped:
            metrics.USAGE_CLAMPED.inc()
        self._log.write(record)

    def end(self, cut: ProxyError | None, *, bytes_out: int, bytes_in: int = 0) -> None:
        """
        Write the record.

        Args:
            cut: What ended the call early; None when the upstream's response went through whole.
            bytes_out: What the client was sent of the response's body.
            bytes_in: What came from the client beyond its request's body.
        """
        has_response = self._phase is _HEAD_WENT
        if self._phase is _ENDED or not (has_response or cut):
            raise WrongOrder(f"a call that is {self._phase.name} cannot end so")
        self._phase = _ENDED
        self._live.leave(self)
        if self._grant:
            self._live.let_go(self._grant.token_id, is_session=self._asks_for_session)
        self._cut = self.guard.cut  # a tunnel and its call would know each other, and wait for the collector
        if cut and (cut.outcome == "client_closed" or not has_response):
            self._status = cut.status
        body, billed = self._body, self._billed()
        bytes_in += body.bytes_read if body else 0
        record = _concealed(self._record(cut, billed, bytes_in=bytes_in, bytes_out=bytes_out), self._conceals)
        metrics.call_ended(record, overhead_s=self._overhead_s)  # before others can see the record
        if billed.charge.is_clamped:
            metrics.USAGE_CLAMPED.inc()
        if self._grant is None:
            self._log.write_refusal(record)
        else:
            self._log.write(record)
        if self._holding:  # after the record, from which a charge can be made again
            self._holding.settle(billed, is_free=not self._was_served)
        if cut and cut.remedy:
            grant = self._grant
            whose_name = grant.project_name if grant else None
            outages.failed(cut, project_id=record.project_id, project_name=whose_name, request_id=self.request_id)
        if body:
            body.let_go()
        if self._span:
            self._span.end(record, body.held if body else None)

    def _billed(self) -> Bill:
        grant, body, observer = self._grant, self._body, self._observer
        held = body.held if body else None
        if not grant or not self._sent_up:
            return not_sent(self._prices, self.method, self.endpoint, held)
        sent = Sent(
            grant.project_name,
            self.method,
            plain_path(self.endpoint),
            self._upstream_status,
            observer,
            held,
            self._holding.tier if self._holding else None,
        )
        billed = bill(self._prices, sent)
        return self._holding.charged(billed) if self._holding and self._was_served else billed

    @property
    def _was_served(self) -> bool:
        """It went up, and the upstream did not refuse it."""
        return self._sent_up > 0 and (self._upstream_status or 0) < BAD_REQUEST

    def _record(self, cut: ProxyError | None, billed: Bill, *, bytes_in: int, bytes_out: int) -> CallRecord:
        duration_s = time.perf_counter() - self._arrived
        whose, observer, charge, holding = self._grant or cut, self._observer, billed.charge, self._holding
        facts = observer.facts if observer else None
        error = {"code": cut.code, "type": cut.type} if cut else None
        # What the proxy itself decided says more than what the upstream told before.
        if facts and facts.error and not (cut and cut.outcome == "refused"):
            error = facts.error
        # What every record has, in the order of its fields: by their names all would take 1 µs longer.
        return CallRecord(
            self._arrived_at,
            self.request_id,
            whose.token_id if whose else None,
            whose.project_id if whose else None,
            self.endpoint,
            self.method,
            self._status,
            _ms(duration_s),
            billed.metadata,
            cut.outcome if cut else "complete",
            observer.is_stream if observer else False,
            None if self._ttft_s is None else _ms(self._ttft_s),
            self._upstream_status,
            self._upstream_request_id,
            bytes_in,
            bytes_out,
            billed.usage_source,
            error,
            cost=charge.microdollars,
            cost_source=charge.source,
            price_date=self._price_date(charge.source),
            service_tier=facts.service_tier if facts else None,
            requested_model=billed.requested_model,
            client_address=self._client_address,
            user_agent=self._user_agent,
            would_refuse=holding.would_refuse if holding else None,
            model_mismatch=holding is not None and facts is not None and holding.is_mismatch(facts.model),
            secret="retired" if self._grant and self._grant.is_retired else None,
            usage_of=billed.usage_of,
            failed_inside=facts is not None and facts.has_failed and (self._upstream_status or 0) < BAD_REQUEST,
            is_cut=cut is not None and cut.outcome == "refused" and self._sent_up > 0,
        )

    @property
    def _admitted_by(self) -> Grant:
        if self._grant is None:
            raise WrongOrder(f"a response of a call that is {self._phase.name}")
        return self._grant

    def _price_date(self, source: CostSource | None) -> str | None:
        return self._prices.date if self._prices and source in PRICED else None

    def _enter(self, phase: Phase, *, after: Phase) -> None:
        if self._phase is not after:
            raise WrongOrder(f"a call that is {self._phase.name} cannot become {phase.name}")
        self._phase = phase


def _concealed(record: CallRecord, conceals: Concealment) -> CallRecord:
    """The record without what may not be seen: it goes into the log, and from there to pages, metrics and spans."""
    if not conceals.has_key or not conceals.is_in(record.whole_line()):
        return record
    return replace(record, **{name: conceals.value(getattr(record, name)) for name in _TOLD})


# What an upstream told, or whoever has heard it of that.
_TOLD = (
    "metadata", "error", "upstream_request_id", "service_tier", "usage_of", "requested_model", "endpoint", "method",
    "user_agent",
)  # fmt: skip


def _ms(seconds: float) -> float:
    """Milliseconds to three places; `round` itself takes five times as long for them."""
    return round(seconds * 1e6) / 1000


def new_id(now: float) -> str:
    """
    A UUID that begins with the millisecond of `now` (RFC 9562 section 5.7), by which its record is found.

    The uuid module takes twice as long to write one down.
    """
    # No secret, so no random bytes from the kernel; forked processes are seeded anew.
    digits = f"{int(now * 1000) << 80 | getrandbits(80) & _NO_MARKS | _MARKS:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


# The version and the variant of a UUID, and all other bits of its random part.
_MARKS = 0x7 << 76 | 0x8 << 60
_NO_MARKS = ~(0xF << 76 | 0xC << 60)
