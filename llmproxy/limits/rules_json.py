"""Rules as operators write them: JSON, read with what is wrong told by field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

from llmproxy.limits.addresses import Networks, checked_network
from llmproxy.limits.model_names import ModelNames, checked_name
from llmproxy.limits.routes import PRESETS, checked_endpoint
from llmproxy.limits.rules import Mode, Rules, Unpriced

# As the API knows them. What another upstream knows besides is no rule's business.
TIERS = ("auto", "default", "flex", "priority", "fast", "scale", "ultrafast")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

MOST_ENTRIES = 100
MOST_CONCURRENCY = 10_000
MOST_NUMBER = 2**40

_is_type = re.compile(r"[a-z0-9_]{1,64}").fullmatch

# Gives a field's value as Rules has it. Raises ValueError that goes on from the field's name.
_Reader = Callable[[object], Any]


class BadRules(ValueError):
    """The JSON is none of rules. `problems` has field -> what is wrong with it; a field is such as `limits.n`."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field} {problem}" for field, problem in problems.items()))
        self.problems = dict(problems)


def read_rules(document: object) -> Rules:
    """The rules in a parsed JSON document. Raises BadRules with every fault."""
    values, problems = _read(document, {**_RULES, "limits": lambda value: value}, "")
    limits, more = _read(values.pop("limits", {}), _LIMITS, "limits.")
    if (preset := values.pop("preset", None)) is not None and values.setdefault("endpoints", preset) is not preset:
        problems["preset"] = "cannot stand beside endpoints, which it stands for"
    if problems or more:
        raise BadRules(problems | more)
    return Rules(**values, **limits)


def _read(document: object, readers: Mapping[str, _Reader], prefix: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of an object that are right, and what is wrong with the others."""
    if not isinstance(document, Mapping):
        return {}, {prefix.rstrip(".") or "rules": "must be an object"}
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in document.items():
        try:
            values[name] = _reader_of(name, readers)(value)
        except ValueError as exc:
            problems[f"{prefix}{name}"] = str(exc)
    return values, problems


def _reader_of(name: str, readers: Mapping[str, _Reader]) -> _Reader:
    if name in readers:
        return readers[name]
    near = difflib.get_close_matches(name, readers, 1)
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


def _set(check: Callable[[object], str], least: int = 1) -> _Reader:
    return lambda value: frozenset(_list(check, value, least=least))


_RULES: dict[str, _Reader] = {
    "models": lambda value: (ModelNames(_list(checked_name, value)),),
    "endpoints": _set(checked_endpoint),
    "preset": lambda value: PRESETS[_one_of(tuple(PRESETS), value)],
    "addresses": lambda value: (Networks(_list(checked_network, value)),),
    "concurrency": partial(_whole, MOST_CONCURRENCY),
    "unpriced": partial(_one_of, get_args(Unpriced)),
    "mode": partial(_one_of, get_args(Mode)),
}
_LIMITS: dict[str, _Reader] = {
    "max_output_tokens": partial(_whole, MOST_NUMBER),
    "require_max_output": _flag,
    "n": partial(_whole, MOST_NUMBER),
    "service_tier": _set(partial(_one_of, TIERS)),
    # None at all is a rule, too.
    "tools": _set(_type, least=0),
    "background": _flag,
    "store": _flag,
    "reasoning_effort": _set(partial(_one_of, EFFORTS)),
    "max_body_bytes": partial(_whole, MOST_NUMBER),
}
