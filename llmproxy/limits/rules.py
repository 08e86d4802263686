"""
What a token may do beyond its life and its hourly limit, and what of it is in force.

A token has rules and its project has some. Both hold, so what is in force is the narrower of each; where one of them
is in mode `report`, what it adds refuses nobody and is only noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, NamedTuple

from llmproxy.limits.addresses import Networks
from llmproxy.limits.model_names import ModelNames
from llmproxy.limits.routes import DEFAULT_GROUPS, Route, shared_endpoints

Mode = Literal["enforce", "report"]
Unpriced = Literal["refuse", "allow"]
_OfBoth = Callable[[frozenset[str], frozenset[str]], frozenset[str]]
_date = re.compile(r"_20\d\d_\d\d_\d\d\Z")


@dataclass(frozen=True, slots=True)
class Rules:
    """
    Rules, with the names that they have in JSON. None and () hold nobody back.

    Attributes:
        models: Lists of which each must have a model; `addresses` likewise, of networks, and `service_tier`, since a
            request for no tier keeps to lists that share no name.
        endpoints: Groups, and routes by name (`llmproxy.limits.routes`).
        concurrency: How many calls of one token may run at a time.
        unpriced: What becomes of a model without a price under a budget in dollars; refused when None.
        max_output_tokens: The most that a request may ask for. One that asks for nothing may get more, unless
            `require_max_output` refuses it.
        tools: Types of tools.
        background, store: False refuses what asks for it.
    """

    models: tuple[ModelNames, ...] = ()
    endpoints: frozenset[str] | None = None
    addresses: tuple[Networks, ...] = ()
    concurrency: int | None = None
    unpriced: Unpriced | None = None
    mode: Mode = "enforce"
    max_output_tokens: int | None = None
    require_max_output: bool = False
    n: int | None = None
    service_tier: tuple[frozenset[str], ...] = ()
    tools: frozenset[str] | None = None
    background: bool = True
    store: bool = True
    reasoning_effort: frozenset[str] | None = None
    max_body_bytes: int | None = None

    @property
    def looks_at_bodies(self) -> bool:
        """Whether something else than a head may be refused."""
        return bool(self.models) or self.limits_parameters

    @property
    def limits_parameters(self) -> bool:
        """Whether something else than the model may be refused of a body."""
        limits = (self.max_output_tokens, self.n, self.tools, self.reasoning_effort)
        return (
            bool(self.service_tier)
            or self.require_max_output
            or not (self.background and self.store)
            or any(limit is not None for limit in limits)
        )

    def allow_model(self, model: str) -> bool:
        """Whether every list of models has it."""
        return all(names.allow(model) for names in self.models)

    def allow_endpoint(self, route: Route | None) -> bool:
        """Whether the route is named, by its group or alone; None is a route that nobody knows."""
        if self.endpoints is None:
            return True
        return route is not None and not self.endpoints.isdisjoint((route.group, route.name, route.path))

    def allow_address(self, address: str) -> bool:
        """Whether every list of networks has it."""
        return all(networks.allow(address) for networks in self.addresses)


NO_RULES = Rules()


def has_tool(types: frozenset[str], tool: str) -> bool:
    """Whether a tool's type is among `types`, which name versions by their date or all of them without one."""
    return tool in types or undated(tool) in types


def undated(tool: str) -> str:
    """A tool's type without the date of its version: `web_search_preview` for `web_search_preview_2025_03_11`."""
    return _date.sub("", tool)


class InForce(NamedTuple):
    """What refuses, and what is only noted; None where there is no such thing. What is noted holds both."""

    enforced: Rules
    reported: Rules | None


def in_force(rules: Iterable[Rules], *, has_meter: bool) -> InForce:
    """
    What holds for a token's calls, by its own rules and its project's.

    Whoever has rules or a meter may use only the endpoints of DEFAULT_GROUPS, unless the rules name others.
    """
    every = list(rules)
    enforcing = [one for one in every if one.mode == "enforce"]
    enforced = reduce(narrower, enforcing, NO_RULES)
    if enforcing or has_meter:
        enforced = _closed(enforced)
    reported = _closed(reduce(narrower, every, NO_RULES)) if len(enforcing) < len(every) else None
    return InForce(enforced, reported)


def narrower(one: Rules, other: Rules) -> Rules:
    """Rules that allow what both allow, in mode `enforce`."""
    return Rules(
        models=one.models + other.models,
        endpoints=_shared(one.endpoints, other.endpoints, shared_endpoints),
        addresses=one.addresses + other.addresses,
        concurrency=_least(one.concurrency, other.concurrency),
        unpriced="refuse" if "refuse" in (one.unpriced, other.unpriced) else one.unpriced or other.unpriced,
        max_output_tokens=_least(one.max_output_tokens, other.max_output_tokens),
        require_max_output=one.require_max_output or other.require_max_output,
        n=_least(one.n, other.n),
        service_tier=one.service_tier + other.service_tier,
        tools=_shared(one.tools, other.tools, _shared_tools),
        background=one.background and other.background,
        store=one.store and other.store,
        reasoning_effort=_shared(one.reasoning_effort, other.reasoning_effort),
        max_body_bytes=_least(one.max_body_bytes, other.max_body_bytes),
    )


def _closed(rules: Rules) -> Rules:
    return rules if rules.endpoints is not None else replace(rules, endpoints=DEFAULT_GROUPS)


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _shared(
    one: frozenset[str] | None, other: frozenset[str] | None, of_both: _OfBoth = frozenset.intersection
) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return of_both(one, other)


def _shared_tools(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return frozenset(tool for tool in one | other if has_tool(one, tool) and has_tool(other, tool))
