"""
One running call of a token with meters: what it holds of them, and what it is charged at its end.

A call that told its usage is charged what that costs. One that did not, because its client left or its upstream
failed, is charged what was seen of it or what it was estimated to cost, whichever is more: a budget with a way round
it is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from llmproxy.bill import Bill
from llmproxy.headers import Headers
from llmproxy.limits.amounts import usd
from llmproxy.limits.bounds import Bounds
from llmproxy.limits.charge import Charge
from llmproxy.limits.cost import BeyondReason, NotPriced, cost
from llmproxy.limits.meters import Claimed, Meter
from llmproxy.limits.model_names import ModelNames
from llmproxy.limits.periods import NEVER_US
from llmproxy.limits.price_row import PICO_PER_MICRO, Row
from llmproxy.limits.reservations import NOTHING, Settlement
from llmproxy.limits.reservations import Charge as Told
from llmproxy.limits.usage import tells_all, tokens_of, usage_of
from llmproxy.observe.seen import SeenEvents
from llmproxy.telemetry import metrics
from llmproxy.times import at_microsecond, iso_utc


class Judged(NamedTuple):
    """
    A call as it was judged.

    Attributes:
        meters: Those that it counts on.
        row: Its model's, where there is a budget in dollars or a price is known; it is priced by that to its end,
            unless the response names another model that has a price.
        tier: As it is asked for, or else the project's default.
        may_stream: Whether its response may be a stream, as far as its body has been read.
        output_name: What the API calls the most tokens that the call may write, where there is such a thing.
        allowed: Lists of which each must have the model; none where any will do.
        would_refuse: The code that rules in mode `report` would have refused it with.
    """

    figures: Bounds
    meters: tuple[Meter, ...]
    row: Row | None
    tier: str | None
    concurrency: int | None
    may_stream: bool = True
    output_name: str | None = None
    allowed: tuple[ModelNames, ...] = ()
    would_refuse: str | None = None

    @property
    def has_budget_in_usd(self) -> bool:
        """Whether its cost is counted."""
        return any(meter.unit == "usd" for meter in self.meters)

    @property
    def needs_usage(self) -> bool:
        """Whether a meter counts what only the response tells."""
        return any(meter.unit != "requests" for meter in self.meters)


class Holding:
    """
    What a call holds from its claim to its end.

    Args:
        judged: As it was claimed.
        meters, claims: As the claim found the meters, and what it did to each.
        end: Gets the settlement; None where nothing is held until the end.

    Attributes:
        events: To be fed with the response's events.
    """

    __slots__ = ("_claims", "_end", "_judged", "_meters", "events", "request_id")

    def __init__(
        self,
        request_id: str,
        judged: Judged,
        meters: Sequence[Meter],
        claims: Sequence[Claimed],
        end: Callable[[Settlement], None] | None,
    ) -> None:
        self.request_id = request_id
        self.events = SeenEvents()
        self._judged = judged
        self._meters, self._claims = tuple(meters), tuple(claims)
        self._end = end

    @property
    def asks_for_usage(self) -> bool:
        """Whether a meter counts what only the response tells, which as a stream tells it where it is asked to."""
        return self._judged.may_stream and self._judged.needs_usage

    @property
    def would_refuse(self) -> str | None:
        """The code that rules in mode `report` would have refused the call with."""
        return self._judged.would_refuse

    @property
    def tier(self) -> str | None:
        """What it is held for: asked for, or else the project's default."""
        return self._judged.tier

    def note(self, code: str) -> None:
        """Rules in mode `report` would have refused something of it; the first code stays."""
        self._judged = self._judged._replace(would_refuse=self._judged.would_refuse or code)

    def is_mismatch(self, model: str | None) -> bool:
        """Whether another model than the rules allow has responded."""
        return model is not None and not self.allows(model)

    @property
    def restricts_models(self) -> bool:
        """Whether there is a model that the rules do not allow."""
        return bool(self._judged.allowed)

    def allows(self, model: str) -> bool:
        """Whether the rules allow a model."""
        return all(names.allow(model) for names in self._judged.allowed)

    def headers(self) -> Headers:
        """What the caller is told of what is left, with this call's hold taken off."""
        dollars, tokens = list[tuple[int, int]](), list[int]()
        for meter, call in zip(self._meters, self._claims, strict=True):
            left = meter.amount - meter.spent - call.counted - meter.reserved - call.hold
            if meter.unit == "usd":
                dollars.append((left, meter.period_end))
            elif meter.unit == "tokens":
                tokens.append(left)
        told: Headers = []
        if dollars:
            left, period_end = min(dollars)
            told.append(("x-proxy-budget-remaining", usd(max(left, 0), decimals=6)))
            if period_end < NEVER_US:
                told.append(("x-proxy-budget-reset", _reset(period_end)))
        if tokens:
            told.append(("x-proxy-tokens-remaining", str(max(min(tokens), 0))))
        return told

    def charged(self, billed: Bill) -> Bill:
        """
        The bill as the record has it: with what is assumed, where the response left it open.

        Args:
            billed: Of a call that was sent up and did not fail there.
        """
        judged, charge = self._judged, billed.charge
        if judged.row is None or not judged.has_budget_in_usd or charge.source not in ("absent", "unpriced"):
            return billed
        if charge.source == "unpriced" and (priced := _priced(judged, judged.row, billed)) is not None:
            return billed._replace(charge=Charge(priced, "reported", charge.is_clamped))
        # Of a usage that could be read in part, that part is no assumption.
        least = _priced(judged, judged.row, billed) or 0
        assumed = max(self._assumed_cost(judged.row), least)
        return billed._replace(charge=Charge(assumed, "assumed", charge.is_clamped))

    def settle(self, billed: Bill, *, is_free: bool) -> None:
        """
        The call has ended, and its record is written. Never waits.

        Args:
            billed: As `charged` has it.
            is_free: It was not sent up, or failed there.
        """
        figures, row = self._judged.figures, self._judged.row
        microdollars = billed.charge.microdollars or 0
        if row and microdollars > figures.cost and figures.unbounded is None:
            metrics.OVER_BOUND.inc()
        if self._end is None:
            return
        is_free = is_free or billed.charge.source in ("none", "stored")
        told = NOTHING if is_free else Told(microdollars, self._tokens(billed))
        self._end(Settlement(self.request_id, told, "settled", self._meters))

    def _tokens(self, billed: Bill) -> int:
        told = 0
        if billed.usage_source in ("reported", "partial") and billed.metadata:
            told = sum(tokens_of(billed.metadata))
            if tells_all(billed.metadata, billed.usage_source):
                return told
        figures = self._judged.figures
        assumed = min(max(figures.likely_in + self.events.count, figures.likely_tokens), figures.tokens)
        return max(told, assumed)

    def _assumed_cost(self, row: Row) -> int:
        """What was seen or estimated; see `_thought` for models that think unseen."""
        figures = self._judged.figures
        rates = row.rates(self._judged.tier, figures.likely_in)
        pico = figures.likely_in * max(rates.text_in, 0) + self.events.count * max(rates.text_out, 0)
        seen = -(-pico // PICO_PER_MICRO)
        least = self._thought(seen > figures.likely_cost) if row.reasons else 0
        return min(max(seen, figures.likely_cost, least), figures.cost)

    def _thought(self, has_written: bool) -> int:
        """
        What a model that thinks unseen has cost at least: the hold, until it has written more than calls likely do.

        From then on what was seen tells more than what other calls cost. Not so where the bound is reserved: nothing
        that is spent there may be missing from what is counted, and nobody knows how long it thought before.
        """
        holds = [
            call.hold
            for meter, call in zip(self._meters, self._claims, strict=True)
            if meter.unit == "usd" and (meter.reserve == "bound" or not has_written)
        ]
        return max(holds, default=0)


@lru_cache(maxsize=64)
def _reset(period_end: int) -> str:
    return iso_utc(at_microsecond(period_end))


def _priced(judged: Judged, row: Row, billed: Bill) -> int | None:
    """What the usage costs at the row that the call was judged by; None where that has no price for it either."""
    if billed.usage_source not in ("reported", "partial") or not billed.metadata:
        return None
    try:
        return cost(row, usage_of(billed.metadata), judged.tier)
    except (NotPriced, BeyondReason):
        return None
