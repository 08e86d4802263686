"""Rules as operators write them: JSON, read with what is wrong told by field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, get_args

from llmproxy.limits.addresses import Networks, checked_network
from llmproxy.limits.model_names import PATTERN, ModelNames, checked_name
from llmproxy.limits.routes import ENDPOINTS, PRESETS, checked_endpoint
from llmproxy.limits.rules import Mode, Rules, Unpriced

# As the API knows them. What another upstream knows besides is no rule's business.
TIERS = ("auto", "default", "flex", "priority", "fast", "scale", "ultrafast")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

MOST_ENTRIES = 100
MOST_CONCURRENCY = 10_000
MOST_NUMBER = 2**40

_TYPE = r"[a-z0-9_]{1,64}"
_is_type = re.compile(_TYPE).fullmatch


class _Rule(NamedTuple):
    """
    A field of the document.

    Attributes:
        read: Gives its value as Rules has it. Raises ValueError that goes on from the field's name.
        schema: What is read, in JSON Schema, as far as that can tell.
    """

    read: Callable[[object], Any]
    schema: dict[str, Any]


class BadRules(ValueError):
    """The JSON is none of rules. `problems` has field -> what is wrong with it; a field is such as `limits.n`."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field} {problem}" for field, problem in problems.items()))
        self.problems = dict(problems)


def read_rules(document: object) -> Rules:
    """The rules in a parsed JSON document. Raises BadRules with every fault."""
    values, problems = _read(document, {**_RULES, "limits": _Rule(lambda value: value, {})}, "")
    limits, more = _read(values.pop("limits", {}), _LIMITS, "limits.")
    if (preset := values.pop("preset", None)) is not None and values.setdefault("endpoints", preset) is not preset:
        problems["preset"] = "cannot stand beside endpoints, which it stands for"
    if problems or more:
        raise BadRules(problems | more)
    return Rules(**values, **limits)


def rules_schema() -> dict[str, Any]:
    """What `read_rules` takes, in JSON Schema: for those who write rules, not to check them by."""
    limits = _object(_LIMITS)
    # Of what is no object, too, could be said that it lacks nothing.
    return _object(_RULES, limits=limits) | {"not": {"type": "object", "required": ["preset", "endpoints"]}}


def _object(rules: Mapping[str, _Rule], **more: dict[str, Any]) -> dict[str, Any]:
    properties = {name: rule.schema for name, rule in rules.items()} | more
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _read(document: object, rules: Mapping[str, _Rule], prefix: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of an object that are right, and what is wrong with the others."""
    if not isinstance(document, Mapping):
        return {}, {prefix.rstrip(".") or "rules": "must be an object"}
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in document.items():
        try:
            values[name] = _rule(name, rules).read(value)
        except ValueError as exc:
            problems[f"{prefix}{name}"] = str(exc)
    return values, problems


def _rule(name: str, rules: Mapping[str, _Rule]) -> _Rule:
    if name in rules:
        return rules[name]
    near = difflib.get_close_matches(name, rules, 1)
    raise ValueError("is no rule" + (f"; did you mean {near[0]}?" if near else ""))


def _list(check: Callable[[object], str], value: object, *, least: int = 1) -> list[str]:
    if not isinstance(value, list) or not least <= len(value) <= MOST_ENTRIES:
        raise ValueError(f"must be a list of {least} to {MOST_ENTRIES} texts")
    entries = []
    for number, entry in enumerate(value, 1):
        try:
            entries.append(check(entry))
        except ValueError as exc:
            raise ValueError(f"entry {number} {exc}") from None
    return entries


def _one_of(choices: tuple[str, ...], value: object) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"must be one of {', '.join(choices)}")


def _type(value: object) -> str:
    if isinstance(value, str) and _is_type(value):
        return value
    raise ValueError("must be a type of tools, such as function or web_search")


def _whole(most: int, value: object) -> int:
    if type(value) is int and 1 <= value <= most:
        return value
    raise ValueError(f"must be a whole number from 1 to {most}")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def _texts(entry: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string", **entry}, "minItems": least, "maxItems": MOST_ENTRIES}


def _set(check: Callable[[object], str], entry: dict[str, Any], least: int = 1) -> _Rule:
    return _Rule(lambda value: frozenset(_list(check, value, least=least)), _texts(entry, least))


def _choice(choices: tuple[str, ...]) -> _Rule:
    return _Rule(partial(_one_of, choices), {"type": "string", "enum": list(choices)})


def _choices(choices: tuple[str, ...]) -> _Rule:
    return _set(partial(_one_of, choices), {"enum": list(choices)})


def _number(most: int) -> _Rule:
    return _Rule(partial(_whole, most), {"type": "integer", "minimum": 1, "maximum": most})


_YES_OR_NO = _Rule(_flag, {"type": "boolean"})
_preset = _choice(tuple(PRESETS))
_tiers = _choices(TIERS)
_RULES = {
    "models": _Rule(lambda value: (ModelNames(_list(checked_name, value)),), _texts({"pattern": f"^{PATTERN}$"})),
    "endpoints": _set(checked_endpoint, {"enum": list(ENDPOINTS)}),
    "preset": _Rule(lambda value: PRESETS[_preset.read(value)], _preset.schema),
    "addresses": _Rule(
        lambda value: (Networks(_list(checked_network, value)),),
        _texts({"description": "A network such as 10.0.0.0/8, or an address."}),
    ),
    "concurrency": _number(MOST_CONCURRENCY),
    "unpriced": _choice(get_args(Unpriced)),
    "mode": _choice(get_args(Mode)),
}
_LIMITS = {
    "max_output_tokens": _number(MOST_NUMBER),
    "require_max_output": _YES_OR_NO,
    "n": _number(MOST_NUMBER),
    "service_tier": _Rule(lambda value: (_tiers.read(value),), _tiers.schema),
    # None at all is a rule, too.
    "tools": _set(_type, {"pattern": f"^{_TYPE}$"}, least=0),
    "background": _YES_OR_NO,
    "store": _YES_OR_NO,
    "reasoning_effort": _choices(EFFORTS),
    "max_body_bytes": _number(MOST_NUMBER),
}
