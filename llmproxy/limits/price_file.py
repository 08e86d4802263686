"""
An operator's own prices: the TOML text of PRICES_FILE as an overlay.

    [model."gpt-5"]
    in = 1.00

    [project."edge models".model."llama3"]
    in = 0.10
    out = 0.20
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from decimal import Decimal

from llmproxy.limits.price_fields import Fields, read_row, read_tools
from llmproxy.limits.prices import Overlay


class BadPrices(ValueError):
    """The text is no list of prices. `problems` has a line for each fault, with the row it is in."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_overlay(text: str) -> Overlay:
    """The prices in a TOML text, all or none. Raises BadPrices."""
    try:
        # Some editors begin a file with a byte order mark.
        document = tomllib.loads(text.removeprefix("\ufeff"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as exc:
        raise BadPrices([f"not TOML: {exc}"]) from exc
    except RecursionError as exc:
        raise BadPrices(["nested too deeply"]) from exc
    problems = [f'{name} is none of "model", "project" and "tools"' for name in document.keys() - _TABLES]
    overlay = Overlay(
        models=_rows(document.get("model", {}), "", problems),
        projects=_projects(document.get("project", {}), problems),
        tools=read_tools(document.get("tools", {}), "tools", problems),
    )
    if problems:
        raise BadPrices(problems)
    return overlay


_TABLES = {"model", "project", "tools"}


def _projects(tables: object, problems: list[str]) -> dict[str, dict[str, Fields]]:
    projects = {}
    for name, table in _tables(tables, "project", problems).items():
        where = f'project "{name}"'
        problems += [f"{where}: {other} is not model" for other in table.keys() - {"model"}]
        projects[name] = _rows(table.get("model", {}), f"{where}, ", problems)
    return projects


def _rows(tables: object, where: str, problems: list[str]) -> dict[str, Fields]:
    rows = {}
    for name, table in _tables(tables, f"{where}model", problems).items():
        rows[name] = read_row(table, f'{where}model "{name}"', problems)
    return rows


def _tables(value: object, where: str, problems: list[str]) -> dict[str, Mapping[str, object]]:
    """The tables in a table of tables."""
    if not isinstance(value, Mapping):
        problems.append(f"{where} must have a table for each name")
        return {}
    for name, table in value.items():
        if not isinstance(table, Mapping):
            problems.append(f'{where} "{name}" must be a table')
    return {name: table for name, table in value.items() if isinstance(table, Mapping)}
