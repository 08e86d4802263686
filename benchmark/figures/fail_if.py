"""`--fail-if "p99_latency_ms>200"`: a run that is over a limit ends with status 1."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from benchmark.refused import Refused

_FORM = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(<=|>=|==|!=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")
_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Limit:
    """`key`, a comparison and a number. The key of an inner figure has dots: `compare.errors`, `sweep.0.errors`."""

    key: str
    comparison: str
    number: float

    def __str__(self) -> str:
        return f"{self.key} {self.comparison} {self.number:g}"

    def broken_by(self, figures: dict[str, Any]) -> str | None:
        """What to tell of a run that fails, None of one that does not. A figure that is unknown fails."""
        value: Any = figures
        for name in self.key.split("."):
            value = _inner(value, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{self}: this run has no number of that name"
        return f"{self}: it is {value:g}" if _OPERATORS[self.comparison](value, self.number) else None


def _inner(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name)
    is_place = isinstance(value, list) and name.isdecimal() and int(name) < len(value)
    return value[int(name)] if is_place else None


def parse(text: str) -> Limit:
    """Raises Refused for what is no comparison of a key with a number."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise Refused(f'--fail-if {text!r} is not of the form "p99_latency_ms>200"')
    return Limit(found[1], found[2], float(found[3]))
