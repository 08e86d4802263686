"""The summary that llm-benchmark shows in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.figures.percentiles import Figures
from benchmark.output.sides import (
    level_of,
    levels_of,
    name_of,
    place_of,
    sides_of,
    spoken_limits,
    spoken_time,
    spoken_users,
    sweep_cells,
    warnings_of,
)
from benchmark.output.spoken import spoken_count, spoken_interval, spoken_ms


def summary(console: Console, figures: Figures) -> None:
    """The figures of one target, or of two beside each other; of a sweep a line for each level."""
    other = figures.get("compare")
    levels = levels_of(figures)
    title = figures["endpoint"] if other else f"{figures['base_url'].rstrip('/')}{figures['endpoint']}"
    console.print(Text(f"{figures['method']} {title}", style="bold"), soft_wrap=True)
    if "sweep" in figures:
        _sweep(console, levels)
    else:
        console.print(_table(sides_of(figures)))
    for level in levels:
        _notes(console, level, levels)
    for said in warnings_of(levels):
        console.print(said, style="yellow", soft_wrap=True)


def _table(sides: list[Figures]) -> Table:
    table = Table(box=None, padding=(0, 2), show_header=len(sides) > 1)
    table.add_column("", style="dim")
    for side in sides:
        table.add_column(name_of(side), justify="right" if len(sides) > 1 else "left", overflow="fold")
    for name, cells in _rows(sides):
        if any(cell != "-" for cell in cells):
            table.add_row(name, *cells)
    return table


def _sweep(console: Console, levels: list[Figures]) -> None:
    """A table for each target, with a line for each level."""
    columns = list(zip_longest(*map(sides_of, levels)))
    for column in columns:
        sides = [side for side in column if side is not None]
        if len(columns) > 1:
            console.print(Text(name_of(sides[0]), style="bold"))
        rows = [sweep_cells(side) for side in sides]
        table = Table(box=None, padding=(0, 1), collapse_padding=True, header_style="dim")
        told = [name for name in rows[0] if any(cells[name] != "-" for cells in rows)]
        for name in told:
            table.add_column(name, justify="right")
        for cells in rows:
            table.add_row(*(cells[name] for name in told))
        console.print(table)


def _notes(console: Console, level: Figures, levels: Sequence[Figures]) -> None:
    """What a level says beside its figures: differences, errors, what was left out."""
    sides = sides_of(level)
    at = f" at {level_of(level)}" if len(levels) > 1 else ""
    if len(sides) > 1 and not at:
        _difference(console, level["compare"])
    for said in level.get("compare", {}).get("differs_in", []):
        console.print(f"not the same as in {level['compare']['saved']}: {said}{at}", style="yellow", soft_wrap=True)
    for side in sides:
        _errors(console, side, place_of(level, side, levels))
    if level["interrupted"]:
        count = sum(side["unfinished"] for side in sides)
        left_out = f": {count:,} requests on their way are not in the figures" if count else ""
        console.print(f"interrupted{at}{left_out}", style="yellow")


def _rows(sides: list[Figures]) -> Iterator[tuple[str, list[str]]]:
    yield "requests", [f"{side['requests']:,} by {spoken_users(side['concurrency'])}" for side in sides]
    yield "duration", [f"{side['total_duration_ms'] / 1000:,.2f} s" for side in sides]
    yield "throughput", [f"{side['throughput_rps']:,.1f} req/s" for side in sides]
    yield "errors", [f"{side['errors']:,} ({side['error_rate']:.2%})" for side in sides]
    names = {
        "latency": ["p50_latency_ms", "p90_latency_ms", "p99_latency_ms", "max_latency_ms"],
        "first byte": ["ttfb_p50_ms", "ttfb_p90_ms", "ttfb_p99_ms"],
        "first token": ["ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms"],
        "per output token": ["tpot_p50_ms", "tpot_p90_ms", "tpot_p99_ms"],
        "first event": ["first_event_p50_ms", "first_event_p90_ms", "first_event_p99_ms"],
        "gap of events": ["event_gap_p50_ms", "event_gap_p90_ms", "event_gap_p99_ms"],
        "delay of events": ["event_delay_p50_ms", "event_delay_p90_ms", "event_delay_p99_ms"],
        "TCP connect": ["connect_p50_ms", "connect_p90_ms", "connect_p99_ms"],
        "TLS handshake": ["tls_p50_ms", "tls_p90_ms", "tls_p99_ms"],
        "sent late by": ["send_delay_p50_ms", "send_delay_p90_ms", "send_delay_p99_ms"],
    }
    yield "mean latency", [spoken_ms(side["average_latency_ms"]) for side in sides]
    for name, keys in names.items():
        if len(sides) == 2:
            # Four numbers side by side are too wide for two columns.
            yield from ((f"{name} {_short(key)}", [spoken_ms(side.get(key)) for side in sides]) for key in keys)
        else:
            label = f"{name} {' / '.join(map(_short, keys))}"
            yield label, [_spread([side.get(key) for key in keys]) for side in sides]
    for name in ("input", "output"):
        yield f"{name} tokens", [_tokens(side, name) for side in sides]
    yield "output tokens/s", [spoken_count(side.get("output_tokens_per_s")) for side in sides]
    yield "goodput", [_goodput(side) for side in sides]
    yield "events", [_count(side.get("events")) for side in sides]
    yield "events lost", [_count(side.get("events_lost")) for side in sides]
    yield "streams at once", [_count(side.get("streams_at_once")) for side in sides]
    yield "streams that kept the pace", [_count(side.get("streams_sustained")) for side in sides]


def _short(key: str) -> str:
    return next(part for part in key.split("_") if part == "max" or part[1:].isdigit())


def _spread(values: list[float | None]) -> str:
    return "-" if all(value is None for value in values) else " / ".join(map(spoken_ms, values))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _tokens(side: Figures, name: str) -> str:
    total = side.get(f"{name}_tokens")
    return "-" if total is None else f"{total:,}, {spoken_count(side[f'{name}_tokens_per_request'])} per request"


def _goodput(side: Figures) -> str:
    """The share, and the limits that it kept: `97.00%, 19.4 req/s within 500 ms to the first token`."""
    if "goodput" not in side:
        return "-"
    if side["goodput"] is None:
        return "unknown: the server told no tokens"
    return f"{side['goodput']:.2%}, {side['goodput_rps']:,.1f} req/s within {spoken_limits(side)}"


def _difference(console: Console, other: Figures) -> None:
    compared = {name: found for name, found in other["difference"].items() if found is not None}
    if not compared:
        console.print("nothing to compare: one of them has no responses", style="yellow")
        return
    title = "the first minus the second, and divided by it"
    console.print(Text(title if "saved" in other else f"{title} (95 % interval)", style="bold"))
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="dim")
    for name, found in compared.items():
        table.add_row(
            spoken_time(name),
            f"{found['difference_ms']:+.3f} ms{_interval(other, found['difference_interval_ms'], '+.3f')}",
            f"{found['ratio']:.3f}{_interval(other, found['ratio_interval'], '.3f')}",
        )
    console.print(table)


def _interval(other: Figures, ends: list[float] | None, form: str) -> str:
    # Of a saved run there is none.
    return "" if "saved" in other else f" ({spoken_interval(ends, form)})"


def _errors(console: Console, side: Figures, place: str) -> None:
    if not side["errors_by_cause"]:
        return
    table = Table(box=None, padding=(0, 2), show_header=False)
    for found in side["errors_by_cause"]:
        table.add_row(Text(f"{found['count']:,}", style="red"), Text(found["cause"]), Text(found["message"] or ""))
    console.print(Text(f"errors of {place}" if place else "errors", style="bold red"))
    console.print(table)
