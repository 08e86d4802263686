"""
What a call is charged: a price for what its response told, or the reason why there is none.

Pure: whoever runs the call says what it told. Money is whole micro-dollars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from llmproxy.limits.cost import NotPriced, cost
from llmproxy.limits.prices import Prices
from llmproxy.limits.usage import Usage, clamp, usage_of

# `reported` by tokens or seconds that the response told; `stored`: those of an object that was read, which count
# once, however often it is; `computed` from other units of request and response; `none`: it costs nothing; `absent`:
# it told nothing that a price could be put on; `assumed`: nor did it, and a budget is charged all the same;
# `unpriced`: it did, and has none.
CostSource = Literal["reported", "stored", "computed", "none", "absent", "assumed", "unpriced"]

PRICED = ("reported", "stored", "computed", "assumed")

# What is made, asked or changed there costs nothing, or is paid by what comes of it later.
_FREE = re.compile(
    r"/v1/(?:files|uploads|models|moderations|batches|evals|vector_stores|conversations|chatkit|containers/.+"
    r"|responses/input_tokens|responses/[^/]+/cancel|chat/completions/.+"
    r"|realtime/(?:(?:translations/)?client_secrets|sessions|transcription_sessions))(?:/|$)"
)
_is_batch = re.compile(r"/v1/batches(?:/|$)").match
_is_run_of_eval = re.compile(r"/v1/evals/[^/]+/runs(?:/|$)").match
# What is billed where no tokens are told.
_UNITS = ("images", "characters", "seconds", "tool_calls")


class Charge(NamedTuple):
    """
    What a call is charged.

    Attributes:
        microdollars: None where nobody can tell, or no prices are kept.
        source: None where no prices are kept.
        is_clamped: It told parts that are larger than their whole; see `usage.clamp`.
    """

    microdollars: int | None
    source: CostSource | None
    is_clamped: bool = False


NO_PRICES = Charge(None, None)
FREE = Charge(0, "none")
UNKNOWN = Charge(None, "absent")
UNPRICED = Charge(None, "unpriced")


def charge(
    prices: Prices, *, model: str | None, project: str, endpoint: str, told: Mapping[str, Any], tier: str | None
) -> Charge:
    """
    The charge for a call that told what it used.

    Args:
        model: None where nobody named it.
        project: The project's name, for rows of its own.
        endpoint: The path that was asked: what a batch did is told by it, and not by the tier.
        told: The `metadata` of the call's record.
        tier: As the response told it, or else as it was asked for.

    Raises BeyondReason.
    """
    usage = usage_of(told)
    row = prices.find(model, project) if model else prices.fees
    if row is None:
        return UNPRICED
    is_batch = endpoint.startswith("/v1/batches") and _is_batch(endpoint) is not None
    if is_batch or "completion_window" in told:
        tier = "batch"
    # Both tell the sum of all that they did.
    is_sum = is_batch or (endpoint.startswith("/v1/evals") and _is_run_of_eval(endpoint) is not None)
    try:
        microdollars = cost(row, usage, tier, is_sum=is_sum)
        return Charge(microdollars, "reported", not _is_possible(usage))
    except NotPriced:
        return UNPRICED


def charge_untold(
    prices: Prices, *, model: str | None, project: str, endpoint: str, method: str, told: Mapping[str, Any]
) -> Charge:
    """
    The charge for a call that the upstream served without telling its usage: by other units, if there are any.

    Raises BeyondReason.
    """
    if method != "POST" or is_free(endpoint):
        return FREE
    if not any(unit in told for unit in _UNITS):
        return UNKNOWN
    charged = charge(prices, model=model, project=project, endpoint=endpoint, told=told, tier=None)
    if charged is not UNPRICED:
        return charged._replace(source="computed")
    # A model that is billed by tokens has a price: what is missing is their number.
    row = prices.find(model, project) if model else None
    return UNKNOWN if row and row.short[None].is_by_tokens else UNPRICED


def is_free(endpoint: str) -> bool:
    """Whether calls to a path cost nothing, unless they tell usage of something else."""
    return _FREE.match(endpoint) is not None


def _is_possible(usage: Usage) -> bool:
    if usage.extras is None:  # nearly always
        return 0 <= usage.cached <= usage.input and 0 <= usage.reasoning <= usage.output
    return clamp(usage) is usage
