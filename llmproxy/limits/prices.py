"""
The prices in force: a sheet, what operators lay over it, and the look-up of a model in them.

A model is looked up by its own name, then without the date of its snapshot. A fine-tuned one (`ft:gpt-4.1-2025-04-14:
acme::id`) is looked up by its base as `ft:gpt-4.1-2025-04-14` and `ft:gpt-4.1`. Nothing else is guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache, reduce

from llmproxy.limits.price_fields import Fields, laid_over, read_row, read_tools
from llmproxy.limits.price_row import Row, build

_undated = re.compile(r"(.+)-20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])").fullmatch
_REMEMBERED = 1024
# No model's name is longer.
_REMEMBERED_CHARS = 200


@dataclass(frozen=True, slots=True)
class Sheet:
    """A compiled sheet: rows and fees as fields, the day its newest row was true, and what it was made from."""

    models: Mapping[str, Fields]
    tools: Fields
    date: str
    made_from: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """What an operator's file says: rows, rows by project's name, and fees of tools."""

    models: Mapping[str, Fields] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, Fields]] = field(default_factory=dict)
    tools: Fields = field(default_factory=dict)


def read_sheet(text: str | bytes) -> Sheet:
    """The sheet in the JSON text. Raises ValueError that names every fault."""
    document, problems = json.loads(text, parse_float=Decimal), list[str]()
    models = {name: read_row(row, f'model "{name}"', problems) for name, row in document["models"].items()}
    tools = read_tools(document["tools"]["fees"], "tools", problems)
    if problems:
        raise ValueError("\n".join(problems))
    return Sheet(models, tools, document["date"], document["made_from"])


class Prices:
    """
    A sheet with an overlay: what a call is priced by from its beginning to its end.

    Never changes; new prices are a new object.

    Attributes:
        date: The sheet's.
        fees: Prices calls that have no model: tools alone.
    """

    def __init__(self, sheet: Sheet, overlay: Overlay | None = None) -> None:
        self.date = sheet.date
        self._sheet, self._overlay = sheet, overlay or Overlay()
        self._tools = {**sheet.tools, **self._overlay.tools}
        self.fees = build("", {}, self._tools, ())
        # Callers choose the names, so only so many answers are kept.
        self._find = lru_cache(maxsize=_REMEMBERED)(self._look_up)

    @property
    def projects(self) -> frozenset[str]:
        """The names of projects with prices of their own."""
        return frozenset(self._overlay.projects)

    def find(self, model: str, project: str | None = None) -> Row | None:
        """The row of a model for the project of this name; None for a model without a price."""
        find = self._find if len(model) <= _REMEMBERED_CHARS else self._look_up
        return find(model, project if project in self._overlay.projects else None)

    def _look_up(self, model: str, project: str | None) -> Row | None:
        layers = {
            "the sheet": self._sheet.models,
            "PRICES_FILE": self._overlay.models,
            f'PRICES_FILE, project "{project}"': self._overlay.projects.get(project or "", {}),
        }
        found = [(layer, name, rows[name]) for layer, rows in layers.items() if (name := _nearest(model, rows))]
        if not found:
            return None
        fields = reduce(laid_over, (row for _, _, row in found))
        return build(found[-1][1], fields, self._tools, (layer for layer, _, _ in found))


def _nearest(model: str, rows: Mapping[str, Fields]) -> str | None:
    return next((name for name in _names_of(model) if name in rows), None)


def _names_of(model: str) -> Iterator[str]:
    """The names that a model may be priced by, the nearest first."""
    yield model
    if model.startswith("ft:"):
        # ft:<base>:<organisation>:<suffix>:<id>
        yield (model := ":".join(model.split(":", 2)[:2]))
    if undated := _undated(model):
        yield undated[1]
