"""
What a call told by its end, and what it costs: response, request and prices brought together for its record.

The response's own words come first. Where it names no model, the request is asked, if its body is in memory anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llmproxy.api_log.record import MICRO
from llmproxy.client.request_body import HELD_BYTES
from llmproxy.endpoints import CHAT, RESPONSES, TELLING_SESSIONS, plain_path
from llmproxy.limits.charge import FREE, NO_PRICES, UNKNOWN, UNPRICED, Charge, charge, charge_untold, is_free
from llmproxy.limits.cost import MOST_MICRODOLLARS, BeyondReason
from llmproxy.limits.prices import Prices
from llmproxy.limits.usage import tells_all
from llmproxy.observe.asked import read_asked, read_asked_tier
from llmproxy.observe.facts import Facts, UsageSource
from llmproxy.observe.usage import UsageObserver
from llmproxy.statuses import BAD_REQUEST, SWITCHING_PROTOCOLS


class Sent(NamedTuple):
    """
    A call that was sent up and is over, as far as its price depends on it.

    Attributes:
        project: The project's name, for prices of its own.
        endpoint: The plain path; see `endpoints.plain_path`.
        upstream_status: None where no response came.
        observer: Of the response, finished; None where none was passed on.
        body: The request's, where it was held in memory.
        tier: What it was held for, under a budget.
    """

    project: str
    method: str
    endpoint: str
    upstream_status: int | None
    observer: UsageObserver | None
    body: bytes | None
    tier: str | None = None


class Bill(NamedTuple):
    """What a record says of a call's use and of its price; see `CallRecord`."""

    charge: Charge
    metadata: dict[str, Any] | None = None
    usage_source: UsageSource = "absent"
    usage_of: str | None = None
    requested_model: str | None = None


_TIERED = frozenset({CHAT, RESPONSES})
# What an observer has seen of a response that did not come: metadata, usage_source, usage_of and model.
_UNSEEN: tuple[dict[str, Any] | None, UsageSource, str | None, str | None] = (None, "absent", None, None)


def not_sent(prices: Prices | None, method: str, endpoint: str, body: bytes | None) -> Bill:
    """The bill of a call that the upstream has not seen. Of a body that was read all the same, it tells the model."""
    charged = FREE if prices else NO_PRICES
    if not body or not _may_be_asked(method, path := plain_path(endpoint), body):
        return Bill(charged)
    return Bill(charged, requested_model=read_asked(path, body)[0])


def bill(prices: Prices | None, call: Sent) -> Bill:
    """The bill of a call; `prices` are None where none are kept."""
    metadata, source, usage_of, model = _UNSEEN
    if call.observer:
        facts = call.observer.facts
        metadata, source, usage_of, model = facts.metadata(), facts.usage_source, facts.owner.object_id, facts.model
    if call.upstream_status == SWITCHING_PROTOCOLS:
        charged = FREE if call.endpoint in TELLING_SESSIONS else UNKNOWN
        return Bill(charged if prices else NO_PRICES, metadata)
    has_failed = call.upstream_status is not None and call.upstream_status >= BAD_REQUEST
    # What an object had cost when it was made is not what reading it costs.
    if has_failed or (source == "stored" and usage_of is None):
        # Whoever looks for the cause wants to know what was asked for.
        asks = has_failed and not model and _may_be_asked(call.method, call.endpoint, call.body)
        asked_model = read_asked(call.endpoint, call.body or b"")[0] if asks else None
        return Bill(FREE if prices else NO_PRICES, metadata, source, usage_of, asked_model)
    requested_model = None
    if not model and _may_be_asked(call.method, call.endpoint, call.body):
        requested_model, units = read_asked(call.endpoint, call.body or b"")
        metadata = units | (metadata or {}) or None
    if prices is None:
        return Bill(NO_PRICES, metadata, source, usage_of, requested_model)
    try:
        if metadata and "by_model" in metadata:
            charged, metadata = _charge_models(prices, call, metadata, source)
        else:
            charged = _charge(prices, call, metadata or {}, source, model or requested_model)
    except BeyondReason:
        # Whoever tells such counts is wrong about them: they are not kept.
        unknown = UNKNOWN._replace(is_clamped=True)
        return Bill(unknown, _without_counts(metadata), "absent", requested_model=requested_model)
    return Bill(charged, metadata, source, usage_of, requested_model)


def bill_response(
    prices: Prices | None, project: str, endpoint: str, told: Facts, *, tier: str | None = None
) -> Bill:
    """The bill of one of a WebSocket's responses; `tier` is what it was held for, under a budget."""
    metadata, source = told.metadata(), told.usage_source
    if prices is None:
        return Bill(NO_PRICES, metadata, source)
    if told.usage is None:
        return Bill(FREE if told.has_failed else UNKNOWN, metadata, source)
    if source == "partial" and not tells_all(told.usage, source):
        return Bill(UNKNOWN, metadata, source)
    try:
        charged = charge(
            prices,
            model=told.model,
            project=project,
            endpoint=endpoint,
            told=told.usage | told.units,
            tier=told.service_tier or tier,
        )
    except BeyondReason:
        return Bill(UNKNOWN._replace(is_clamped=True), _without_counts(metadata))
    return Bill(charged, metadata, source)


def _may_be_asked(method: str, path: str, held: bytes | None) -> bool:
    """Whether the request may tell what the response did not."""
    return method == "POST" and bool(held) and len(held or b"") <= HELD_BYTES and not is_free(path)


def _charge(prices: Prices, call: Sent, told: dict[str, Any], source: UsageSource, model: str | None) -> Charge:
    observer = call.observer
    if source == "partial" and not tells_all(told, source):
        return UNKNOWN
    if observer and source != "absent":
        tier = observer.facts.service_tier or call.tier or _asked_tier(call)
        charged = charge(prices, model=model, project=call.project, endpoint=call.endpoint, told=told, tier=tier)
        is_stored = source == "stored" and charged.source == "reported"
        return charged._replace(source="stored") if is_stored else charged
    # What was asked for is no use where nobody knows that it was served, or where it failed.
    was_served = call.upstream_status is not None and not (observer and observer.facts.has_failed)
    used = told if was_served else {}
    return charge_untold(
        prices, model=model, project=call.project, endpoint=call.endpoint, method=call.method, told=used
    )


def _charge_models(
    prices: Prices, call: Sent, told: dict[str, Any], source: UsageSource
) -> tuple[Charge, dict[str, Any]]:
    """The charge for all models together, unpriced where one of them is, and what was told with the cost of each."""
    cost, by_model, is_clamped = 0, {}, False
    for model, used in told["by_model"].items():
        charged = _charge(prices, call, used, source, model)
        cost, is_clamped = cost + (charged.microdollars or 0), is_clamped or charged.is_clamped
        by_model[model] = used | {"cost_usd": None if charged.microdollars is None else charged.microdollars / MICRO}
    if cost > MOST_MICRODOLLARS:
        raise BeyondReason
    is_priced = all(used["cost_usd"] is not None for used in by_model.values())
    together = Charge(cost, "stored" if source == "stored" else "reported", is_clamped) if is_priced else UNPRICED
    return together, told | {"by_model": by_model}


def _asked_tier(call: Sent) -> str | None:
    """The tier that the request asked for; OpenAI tells which served it, others need not."""
    body = call.body
    # Where there are tiers: to look through 20 KB takes 10 µs.
    if body is None or call.endpoint not in _TIERED or b'"service_tier"' not in body:
        return None
    return read_asked_tier(body) if len(body) <= HELD_BYTES else None


def _without_counts(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: told for name, told in (metadata or {}).items() if name in ("model", "created")} or None
