"""The report of a run as one HTML file that needs nothing beside it: figures, distribution, time line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.load.samples import Sample
from benchmark.output import charts
from benchmark.output.spoken import spoken_interval, spoken_ms
from benchmark.session import Session

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Panel:
    """A chart with its words, in both widths; `curves` are the points that the pointer reads."""

    title: str
    text: str
    charts: list[charts.Chart]
    curves: list[list[tuple[float, float]]]


def page(session: Session) -> str:
    """The whole file."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sides = [session.figures, *([session.figures["compare"]] if "compare" in session.figures else [])]
    return environment.get_template("report.html").render(
        figures=session.figures,
        sides=sides,
        tiles=[_tiles(side) for side in sides],
        difference=_difference(session.figures),
        panels=list(_panels(session)),
        rows=_rows(sides),
        geometry={"left": charts.LEFT, "top": charts.TOP, "bottom": charts.BOTTOM},
    )


def _tiles(side: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value, and what stands below it."""
    rate = f"{side['throughput_rps']:,.0f}" if side["throughput_rps"] >= 100 else f"{side['throughput_rps']:.3g}"
    tiles = [
        ("p50 latency", spoken_ms(side["p50_latency_ms"]), f"mean {spoken_ms(side['average_latency_ms'])}"),
        ("p90 latency", spoken_ms(side["p90_latency_ms"]), f"p95 {spoken_ms(side['p95_latency_ms'])}"),
        ("p99 latency", spoken_ms(side["p99_latency_ms"]), f"max {spoken_ms(side['max_latency_ms'])}"),
        ("throughput", f"{rate}/s", f"{side['requests']:,} requests"),
        ("errors", f"{side['errors']:,}", f"{side['error_rate']:.2%}"),
    ]
    if "events" in side:
        lost = side["events_lost"]
        told = "not numbered" if lost is None else f"{lost:,} lost"
        first = (
            "p50 first event",
            spoken_ms(side["first_event_p50_ms"]),
            f"p99 {spoken_ms(side['first_event_p99_ms'])}",
        )
        tiles.insert(3, first)
        tiles.insert(4, ("events", f"{side['events']:,}", told))
    return tiles


def _difference(figures: dict[str, Any]) -> list[dict[str, str]]:
    other = figures.get("compare", {})
    is_saved = "saved" in other
    return [
        {
            "name": name.removesuffix("_latency_ms").replace("average", "mean"),
            "difference": f"{one['difference_ms']:+.3f} ms",
            "interval": "" if is_saved else spoken_interval(one["difference_interval_ms"], "+.3f"),
            "ratio": f"{one['ratio']:.3f}",
            "ratio_interval": "" if is_saved else spoken_interval(one["ratio_interval"], ".3f"),
        }
        for name, one in other.get("difference", {}).items()
        if one is not None
    ]


def _panels(session: Session) -> Iterable[Panel]:
    good = [[s for s in run.samples if s.cause is None] for run in session.levels[-1].runs]
    if any(good):
        yield _cdf("How long answers took", "The share of answers that took at most so long.", good, _latency)
    yield from _over_time(session)
    if session.call.stream and any(good):
        yield _cdf("First event", "From the request to the first event.", good, _first_event)
        yield from _of_events(
            "Between two events", "The time from one event of a stream to its next.", good, "gaps_ms"
        )
        yield from _of_events("On the way", "From the upstream's send time to the arrival.", good, "delays_ms")


def _latency(sample: Sample) -> list[float]:
    return [sample.latency_ms]


def _first_event(sample: Sample) -> list[float]:
    times = sample.stream
    return [(times.first_ns - sample.due_ns) / 1e6] if times is not None and times.first_ns is not None else []


def _of_events(title: str, text: str, good: list[list[Sample]], name: str) -> Iterable[Panel]:
    def values(sample: Sample) -> list[float]:
        return [] if sample.stream is None else list(getattr(sample.stream, name))

    if any(values(sample) for side in good for sample in side):
        yield _cdf(title, text, good, values)


def _cdf(title: str, text: str, good: list[list[Sample]], values: Callable[[Sample], list[float]]) -> Panel:
    ordered = [sorted(value for sample in side for value in values(sample)) for side in good]
    curves = [[(round(v, 4), round(share, 2)) for v, share in charts.curve_of(side)] for side in ordered]
    return _panel(title, text, [charts.cdf(ordered, kind) for kind in charts.WIDTHS], curves)


def _panel(title: str, text: str, drawn: list[charts.Chart], curves: list[list[tuple[float, float]]]) -> Panel:
    axis = drawn[0].axis
    return Panel(title, f"{text} The scale is logarithmic." if axis and axis.is_log else text, drawn, curves)


def _over_time(session: Session) -> Iterable[Panel]:
    runs = session.levels[-1].runs
    began_ns = min(run.began_ns for run in runs)
    points = [
        charts.Point(
            max(0.0, (sample.ended_ns - began_ns) / 1e9), sample.latency_ms if sample.cause is None else None, number
        )
        for number, run in enumerate(runs)
        for sample in run.samples
    ]
    if any(point.latency is not None for point in points):
        text = "Every answer where it came, the line is the median; a red stroke at the top is a request that failed."
        yield _panel("Over time", text, [charts.timeline(points, kind) for kind in charts.WIDTHS], [])
    if points:
        text = "Requests that ended per second; failed ones are red."
        yield Panel("Throughput", text, [charts.throughput(points, kind) for kind in charts.WIDTHS], [])


def _rows(sides: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Every plain figure under the name it has in the JSON."""
    left_out = {
        "base_url",
        "endpoint",
        "compare",
        "errors_by_cause",
        "difference",
        "client_warning",
        "sweep",
        "setup",
    }
    return [
        (name, [f"{side[name]:,}" if type(side[name]) in (int, float) else str(side[name]) for side in sides])
        for name in sides[0]
        if name not in left_out and sides[0][name] is not None and all(name in side for side in sides)
    ]
