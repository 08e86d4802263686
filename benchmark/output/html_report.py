"""The report of a run as one HTML file that needs nothing beside it: figures, charts, and how to measure it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.figures.percentiles import Figures
from benchmark.output.charts import chart
from benchmark.output.panels import level_panels, sweep_panels
from benchmark.output.sides import (
    level_number,
    level_of,
    levels_of,
    name_of,
    place_of,
    sides_of,
    spoken_time,
    sweep_cells,
    warnings_of,
)
from benchmark.output.spoken import spoken_count, spoken_interval, spoken_ms
from benchmark.session import Session

TEMPLATES = Path(__file__).parent / "templates"
# What is shown in another way than as a plain figure.
SHOWN_ELSEWHERE = frozenset(
    {"base_url", "endpoint", "method", "compare", "errors_by_cause", "difference", "client_warning", "sweep", "setup",
     "saved", "differs_in"}
)  # fmt: skip

Tile = tuple[str, str, str]


def page(session: Session) -> str:
    """The whole file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures, levels = session.figures, levels_of(session.figures)
    is_swept = "sweep" in figures
    return environment.get_template("report.html").render(
        figures=figures,
        load=f"{level_number(levels[0])} to {level_of(levels[-1])}" if is_swept else level_of(figures),
        sides=[(name_of(side), _tiles(side)) for side in sides_of(figures)],
        level=level_of(figures) if is_swept else "",
        warnings=warnings_of(levels),
        errors=[*_errors(levels)],
        sweep=[*_sweep_tables(levels)] if is_swept else [],
        sweep_panels=[*sweep_panels(levels)] if is_swept else [],
        difference=_difference(figures),
        panels=[*level_panels(session)],
        rows=_rows(sides_of(figures)),
        geometry={"left": chart.LEFT, "top": chart.TOP},
    )


def _tiles(side: Figures) -> list[Tile]:
    """Name, value, and what stands below it."""
    return [
        ("p50 latency", spoken_ms(side["p50_latency_ms"]), f"mean {spoken_ms(side['average_latency_ms'])}"),
        ("p90 latency", spoken_ms(side["p90_latency_ms"]), f"p95 {spoken_ms(side['p95_latency_ms'])}"),
        ("p99 latency", spoken_ms(side["p99_latency_ms"]), f"max {spoken_ms(side['max_latency_ms'])}"),
        *_stream_tiles(side),
        ("throughput", f"{spoken_count(side['throughput_rps'])}/s", f"{side['requests']:,} requests"),
        *_token_tiles(side),
        ("errors", f"{side['errors']:,}", f"{side['error_rate']:.2%}"),
    ]


def _stream_tiles(side: Figures) -> Iterator[Tile]:
    for name, key in (("first token", "ttft"), ("per token", "tpot"), ("first event", "first_event")):
        value = side.get(f"{key}_p50_ms")
        # The first event says something of its own only where nothing says which was the first token.
        if value is not None and (key != "first_event" or side.get("ttft_p50_ms") is None):
            yield f"p50 {name}", spoken_ms(value), f"p99 {spoken_ms(side[f'{key}_p99_ms'])}"
    if "events" in side:
        lost = side["events_lost"]
        yield "events", f"{side['events']:,}", "not numbered" if lost is None else f"{lost:,} lost"


def _token_tiles(side: Figures) -> Iterator[Tile]:
    if side.get("output_tokens_per_s") is not None:
        each = f"{spoken_count(side['output_tokens_per_request'])} per request"
        yield "output tokens", f"{spoken_count(side['output_tokens_per_s'])}/s", each
    if side.get("input_tokens_per_request") is not None:
        yield "input tokens", spoken_count(side["input_tokens_per_request"]), "per request"
    if side.get("goodput") is not None:
        yield "goodput", f"{side['goodput']:.1%}", "within the limits"


def _errors(levels: Sequence[Figures]) -> Iterator[tuple[str, list[Figures]]]:
    for level in levels:
        for side in sides_of(level):
            if side["errors_by_cause"]:
                place = place_of(level, side, levels)
                yield f"Errors: {place}" if place else "Errors", side["errors_by_cause"]


def _sweep_tables(levels: Sequence[Figures]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Name, titles of the columns, and the lines, for each target."""
    for column in zip_longest(*map(sides_of, levels)):
        sides = [side for side in column if side is not None]
        lines = [sweep_cells(side) for side in sides]
        titles = [title for title in lines[0] if any(line[title] != "-" for line in lines)]
        yield name_of(sides[0]), titles, [[line[title] for title in titles] for line in lines]


def _difference(figures: Figures) -> list[dict[str, str]]:
    other = figures.get("compare", {})
    is_saved = "saved" in other
    return [
        {
            "name": spoken_time(name),
            "difference": f"{one['difference_ms']:+.3f} ms",
            "interval": "" if is_saved else spoken_interval(one["difference_interval_ms"], "+.3f"),
            "ratio": f"{one['ratio']:.3f}",
            "ratio_interval": "" if is_saved else spoken_interval(one["ratio_interval"], ".3f"),
        }
        for name, one in other.get("difference", {}).items()
        if one is not None
    ]


def _rows(sides: Sequence[Figures]) -> list[tuple[str, list[str]]]:
    """Every plain figure under the name it has in the JSON."""
    return [
        (name, [_cell(side.get(name)) for side in sides])
        for name, value in sides[0].items()
        if name not in SHOWN_ELSEWHERE and value is not None
    ]


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if type(value) in (int, float) else str(value)
