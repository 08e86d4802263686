"""
What goes between whoever judges a call and the database that holds its meters: the look, the claim, the settlement.

A claim names all that it was judged by, rules and meters by their versions, so that no verdict is older than it.
What it holds stands in one row, the reservation, until the call's record has been read: *held* while the call runs,
*settled* by its worker or *assumed* by whoever found the worker dead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from llmproxy.limits.bounds import Bounds
from llmproxy.limits.meters import Claimed, Meter, claimed, corrected, settled, shortage, turned
from llmproxy.limits.periods import US_PER_S, period_ends

State = Literal["held", "settled", "assumed"]


class ReservationStore(Protocol):
    """What is asked about reservations beside their claims. All raise StoreUnavailable when the database is down."""

    def settle(self, settlement: Settlement) -> bool:
        """End a reservation; False when there is none. Sent again, it charges once."""

    def settle_together(self, settlements: Sequence[Settlement]) -> int:
        """End the first of these, as many as cost little more than one does, or none of them; how many these are."""

    def held_by(self, worker: str) -> list[str]:
        """Request ids of what is held for running calls of a worker."""

    def holders(self) -> list[tuple[str, str]]:
        """Nodes and workers for whose calls something is held."""

    def any_reserved(self) -> bool:
        """Whether any call has a reservation, in whatever state."""

    def drop_settled(self, request_ids: list[str]) -> None:
        """Delete reservations that are settled, and that nobody waits for any more."""

    def reserved_among(self, request_ids: list[str]) -> list[str]:
        """Those of the request ids that have a reservation, in whatever state."""


class Ruled(NamedTuple):
    """
    What the look at a token with rules or meters found, beside its state.

    Attributes:
        version, project_version: Of the rules and meters.
        rules, project_rules: As JSON, where there are any.
        in_flight: Running calls that have a reservation.
        now_us: The database's clock at the look, which was at `seen_s` of this process's steady clock.
    """

    version: int
    project_version: int
    rules: str | None
    project_rules: str | None
    project_name: str
    default_tier: str | None
    in_flight: int
    meters: tuple[Meter, ...]
    now_us: int
    seen_s: float

    def database_us(self, now_s: float) -> int:
        """The database's clock at this moment of the process's steady clock."""
        return database_us(self.now_us, self.seen_s, now_s)


class Demand(NamedTuple):
    """What a call asks of one meter, in the meter's unit; `ends` as `llmproxy.limits.periods` has them."""

    meter_id: str
    bound: int
    estimate: int
    ends: tuple[int, int]


class RuledClaim(NamedTuple):
    """
    One call's claim.

    Attributes:
        version, project_version, project_name, default_tier: What the call was judged by, as the look has it.
        demands: By the ids of their meters, ascending: everybody locks them in this order.
        estimate: Micro-dollars that are charged where nobody tells what the call cost.
        concurrency: How many calls of the token may run; None for any number.
        reserves: Whether something is held until the call has ended, so that there must be a reservation.
    """

    request_id: str
    version: int
    project_version: int
    project_name: str
    default_tier: str | None
    node: str
    worker: str
    demands: tuple[Demand, ...]
    estimate: int
    concurrency: int | None
    reserves: bool


class Verdict(NamedTuple):
    """
    What became of a claim: admitted, or not.

    Attributes:
        is_stale: The token is not what the claim was judged by, or may make no request at all: look again.
        meters: As the claim found them, with periods that were over turned; by their ids.
        claims: What the call does to each of them.
        in_flight: Calls of the token that ran already.
        now_us: The database's clock.
    """

    is_admitted: bool
    is_stale: bool
    meters: tuple[Meter, ...] = ()
    claims: tuple[Claimed, ...] = ()
    in_flight: int = 0
    now_us: int = 0


STALE = Verdict(is_admitted=False, is_stale=True)


class Hold(NamedTuple):
    """One entry of a reservation; `assumed` is charged where nobody tells what the call cost."""

    meter_id: str
    hold: int
    bound: int
    assumed: int


class Charge(NamedTuple):
    """What a call cost, in micro-dollars and in tokens; None where nobody told, so that it is assumed."""

    cost: int | None
    tokens: int | None

    def of(self, meter: Meter, assumed: int) -> int:
        """In the meter's unit."""
        told = self.cost if meter.unit == "usd" else self.tokens
        return assumed if told is None else told


NOTHING = Charge(0, 0)
UNTOLD = Charge(None, None)


class Settlement(NamedTuple):
    """
    The end of a reservation.

    Attributes:
        state: What it is from here on; None deletes it. What was settled stays charged as it is, and what was assumed
            is corrected by what is told later.
        meters: As the claim's verdict has them; None where they are to be looked up.
    """

    request_id: str
    charge: Charge
    state: Literal["settled", "assumed"] | None
    meters: tuple[Meter, ...] | None = None


def claim_of(
    look: Ruled,
    meters: Iterable[Meter],
    figures: Bounds,
    *,
    now_us: int,
    request_id: str,
    node: str,
    worker: str,
    concurrency: int | None,
) -> RuledClaim:
    """
    A call's claim on the meters that it counts on, which are some of the look's.

    Args:
        now_us: The database's clock, or a little less.
        node, worker: Whose call it is.
    """
    meters = sorted(meters)  # by their ids
    asked = tuple([_demand(meter, figures, now_us) for meter in meters])
    holds = any(meter.unit != "requests" and demand.bound for meter, demand in zip(meters, asked, strict=True))
    reserves = concurrency is not None or holds
    return RuledClaim(
        request_id,
        look.version,
        look.project_version,
        look.project_name,
        look.default_tier,
        node,
        worker,
        asked,
        figures.likely_cost,
        concurrency,
        reserves,
    )


def _demand(meter: Meter, figures: Bounds, now_us: int) -> Demand:
    at_most, likely = (
        (figures.cost, figures.likely_cost) if meter.unit == "usd" else (figures.tokens, figures.likely_tokens)
    )
    return Demand(meter.id, at_most, likely, period_ends(meter.period, meter.zone, now_us))


def judged(
    meters: Sequence[Meter], asked: Sequence[Demand], now_us: int
) -> tuple[tuple[Meter, ...], tuple[Claimed, ...], bool]:
    """The meters of a claim as they stand now, what it does to each, and whether all of them admit it."""
    present = tuple([turned(meter, now_us, demand.ends) for meter, demand in zip(meters, asked, strict=True)])
    claims = claims_on(present, asked)
    return present, claims, not any(map(shortage, present, claims))


def claims_on(meters: Sequence[Meter], asked: Sequence[Demand]) -> tuple[Claimed, ...]:
    """What a call does to each of its meters as they stand."""
    return tuple(
        [
            claimed(meter, bound=demand.bound, estimate=demand.estimate)
            for meter, demand in zip(meters, asked, strict=True)
        ]
    )


def holds_of(meters: Iterable[Meter], calls: Iterable[Claimed], asked: Iterable[Demand]) -> list[Hold]:
    """What a reservation says: nothing of meters on which there is nothing to settle."""
    return [
        Hold(meter.id, call.hold, call.bound, demand.estimate)
        for meter, call, demand in zip(meters, calls, asked, strict=True)
        if meter.unit != "requests" and (call.bound or call.counted)
    ]


def ended(
    meter: Meter, hold: Hold, state: State, charge: Charge, *, at_us: int, now_us: int, ends: tuple[int, int]
) -> Meter:
    """
    A meter with a reservation of it ended.

    Args:
        state: Of the reservation: held, or assumed before.
        at_us: When it was made.
    """
    meter = turned(meter, now_us, ends)
    cost = charge.of(meter, hold.assumed)
    if state == "assumed":
        return corrected(meter, hold.assumed, cost, at_us)
    call = Claimed(hold.hold, hold.bound, 0 if meter.holds else hold.assumed)
    return settled(meter, call, cost, at_us)


def part_id(request_id: str, part: int) -> str:
    """The id of one of a session's responses, by the session's own: it is claimed and recorded under that."""
    return f"{request_id}-{part}"


def database_us(told_us: int, at_s: float, now_s: float) -> int:
    """A database's clock now, told by it at another moment of a steady clock."""
    return told_us + int((now_s - at_s) * US_PER_S)
