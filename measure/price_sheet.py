"""
Compiles the price sheet, prices/openai.json, from genai-prices and prices/overlay.toml: `make prices`.

Run by hand when a new genai-prices is out or the overlay has changed; `git diff` then shows a line for each model
that changed. The proxy itself never sees genai-prices, which alone takes as long to import as all the rest.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmproxy.limits.price_fields import TIERS, TOKENS, laid_over
from llmproxy.limits.prices import Prices, read_sheet

FOLDER = Path(__file__).resolve().parent.parent / "prices"

Table = dict[str, Any]

# genai-prices' name of a price -> ours, and how many of its units are one of ours.
UNITS = {
    "input_mtok": ("in", 1),
    "cache_read_mtok": ("cached", 1),
    "cache_write_mtok": ("cache_write", 1),
    "output_mtok": ("out", 1),
    "input_audio_mtok": ("audio_in", 1),
    "cache_audio_read_mtok": ("audio_cached", 1),
    "output_audio_mtok": ("audio_out", 1),
    "input_image_mtok": ("image_in", 1),
    "cache_image_read_mtok": ("image_cached", 1),
    "output_image_mtok": ("image_out", 1),
    "input_mchars": ("characters", 1),
    "audio_hours": ("minute", 60),
}
TOOLS = {"web_searches_kcount": "web_search", "storage_searches_kcount": "file_search"}
# Sound alone, whose hours are those of `audio_hours`.
SAME_AS = {"input_audio_hours": "audio_hours"}
# The order in which a row is written.
UNITS_BESIDE = ("call", "characters", "minute", "second", "image")
FACTS = ("max_in", "max_out", "image_most", "reasons", "tools", "source", "date")
ORDER = ("over", *TOKENS, *UNITS_BESIDE, "long", *TIERS, *FACTS)
VARIANTS = {
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "priority",
    ("processing", "batch"): "batch",
}


def main() -> None:
    """Writes the sheet, and tells which models it gained and lost."""
    overlay = tomllib.loads((FOLDER / "overlay.toml").read_text(), parse_float=Decimal)
    path = FOLDER / "openai.json"
    before = json.loads(path.read_text())["models"] if path.exists() else {}
    text = as_json(compiled(overlay, dict(genai_rows(overlay["genai"], overlay["tools"]["fees"]))))
    for model in (sheet := read_sheet(text)).models:
        Prices(sheet).find(model)
    path.write_text(text)
    print(f"{len(sheet.models)} models, {len(text):,} bytes, true on {sheet.date}")
    for sign, names in (("+", sheet.models.keys() - before.keys()), ("-", before.keys() - sheet.models.keys())):
        print(*(f"{sign} {name}\n" for name in sorted(names)), sep="", end="")


def genai_rows(wanted: Table, fees: Table) -> Iterator[tuple[str, Table]]:
    """The rows of genai-prices under the names that the API knows their models by."""
    # By its name: the checks run where it is not installed.
    providers = import_module("genai_prices.data").providers
    models = {model.id: model for provider in providers if provider.id == "openai" for model in provider.models}
    if gone := (wanted["names"].keys() | wanted["left_out"].keys()) - models.keys():
        sys.exit(f"overlay.toml speaks of what genai-prices has no more: {', '.join(sorted(gone))}")
    for name, model in models.items():
        if name not in wanted["left_out"]:
            row = genai_row(model, wanted["date"], fees)
            yield from ((alias, row) for alias in wanted["names"].get(name, [name]))


def genai_row(model: Any, day: date, fees: Table) -> Table:
    """A row of genai-prices as ours has it on that day."""
    row = {**prices_of(in_force(model.prices, day), fees), **provenance(model, day)}
    for variant in model.price_variants or ():
        [(key, value)] = variant.when.items()
        if value != "default" and started(variant.constraint, day):
            prices = prices_of(variant.prices, fees)
            prices.get("long", {}).pop("over", None)
            tier = VARIANTS[key, value]
            if row.setdefault(tier, prices) != prices:
                sys.exit(f"{model.id}: {value} is not what {tier} is")
    return row


def in_force(prices: Any, day: date) -> Any:
    """Of prices that began on different days, those that hold."""
    if not isinstance(prices, list):
        return prices
    return [conditional.prices for conditional in prices if started(conditional.constraint, day)][-1]


def started(constraint: Any, day: date) -> bool:
    return constraint is None or constraint.start_date <= day


def prices_of(prices: Any, fees: Table) -> Table:
    """A set of prices as a row's table."""
    told = {name: price for name, price in vars(prices).items() if price is not None}
    table: Table = {}
    for name, price in told.items():
        if name in SAME_AS:
            if told[SAME_AS[name]] != price:
                sys.exit(f"{name} is not what {SAME_AS[name]} is")
        elif name in TOOLS:
            if price / 1000 != fees[TOOLS[name]]:
                table.setdefault("tools", {})[TOOLS[name]] = price / 1000
        else:
            ours, units = UNITS[name]
            table[ours] = getattr(price, "base", price) / units
            for above in getattr(price, "tiers", ()):
                long = table.setdefault("long", {"over": above.start})
                if ours in long or long["over"] != above.start:
                    sys.exit(f"more than one line: {prices}")
                long[ours] = above.price
    return table


def provenance(model: Any, day: date) -> Table:
    """Where a row of genai-prices is from, and the day on which all of it was still true."""
    checked = re.findall(r"[Vv]erified (?:against OpenAI )?on (\d{4}-\d\d-\d\d)", model.price_comments or "")
    return {"source": f"genai-prices {version('genai-prices')}", "date": min([*checked, str(day)])}


def compiled(overlay: Table, rows: Mapping[str, Table]) -> Table:
    """The sheet: the rows with the overlay over them, and what it says of models in general."""
    ours = {name: dated(row) for name, row in overlay["model"].items()}
    models = {name: one_of_two(rows.get(name, {}), ours.get(name, {})) for name in sorted(rows.keys() | ours.keys())}
    for name, (max_in, max_out, reasons) in overlay["facts"]["models"].items():
        row = models[name]
        row |= {"max_in": max_in, "max_out": max_out}
        if reasons:
            row |= {"reasons": True, "tools": {**overlay["tools"]["reasons"], **row.get("tools", {})}}
    for name, most in overlay["image_most"]["models"].items():
        models[name]["image_most"] = most
    for row in models.values():
        add_12h(row, overlay["cache_write_12h"]["times_in"])
    models = {name: in_order(row) for name, row in models.items()}
    general = {name: dated(overlay[name]) for name in ("tools", "facts", "image_most", "cache_write_12h")}
    return {
        "date": max(row["date"] for row in models.values()),
        "made_from": f"genai-prices {version('genai-prices')} (MIT, see genai-prices.LICENSE) and overlay.toml",
        "tools": {name: general["tools"][name] for name in ("source", "date", "fees")},
        **{name: {key: general[name][key] for key in ("source", "date")} for name in general.keys() - {"tools"}},
        "models": models,
    }


def dated(table: Table) -> Table:
    """TOML's days as JSON has them."""
    return {**table, "date": str(table["date"])}


def one_of_two(below: Table, above: Table) -> Table:
    """The row of both, with the sources of both; it was true while both were."""
    row = laid_over(below, above)
    if below and above:
        row |= {"source": f"{above['source']}; {below['source']}", "date": min(below["date"], above["date"])}
    return row


def add_12h(row: Table, times: Decimal) -> None:
    """What twelve hours in the cache cost, wherever the row prices writing to it at all."""
    prices = [row, *(row[tier] for tier in TIERS if tier in row)]
    for table in [*prices, *(table["long"] for table in prices if "long" in table)]:
        if "cache_write" in table:
            table["cache_write_12h"] = table["in"] * times


def in_order(row: Table) -> Table:
    """The row with its names in one order, whoever gave which."""
    nested = {"long", *TIERS}
    return {name: in_order(row[name]) if name in nested else row[name] for name in ORDER if name in row}


def as_json(sheet: Table) -> str:
    """The sheet as text: a line for each model, so that a change can be read."""
    head = [f' "{name}": {compact(value)},' for name, value in sorted(sheet.items()) if name != "models"]
    rows = ",\n".join(f'  "{name}": {compact(row)}' for name, row in sheet["models"].items())
    return "\n".join(["{", *head, ' "models": {', rows, " }", "}", ""])


def compact(value: Any) -> str:
    """JSON with decimals as they are, which the standard library would make floats of."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}": {compact(inner)}' for name, inner in value.items()) + "}"
    return format(value.normalize(), "f") if isinstance(value, Decimal) else json.dumps(value)


if __name__ == "__main__":
    main()
