"""Which charts a report has, and the words above them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from benchmark.figures.percentiles import Figures
from benchmark.load.samples import Sample
from benchmark.output.charts import course, distribution, sweep
from benchmark.output.charts.chart import WIDTHS, Chart
from benchmark.output.sides import level_number, sides_of
from benchmark.session import Session

Values = Callable[[Sample], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """A chart with its words, in both widths; `curves` are the points that the pointer reads."""

    title: str
    text: str
    charts: list[Chart]
    curves: list[list[tuple[float, float]]] = field(default_factory=list)


def sweep_panels(levels: Sequence[Figures]) -> Iterator[Panel]:
    """What more load costs; nothing of levels that have no response, or no token."""
    of = "the rate" if "rate_rps" in levels[0] else "how many users sent them"
    text = f"The line is the median, the dashed one the 99th percentile; each point is named by {of}."
    told = (
        ("Latency over throughput", "Requests per second.", "throughput_rps", "{}_latency_ms"),
        ("Time to first token over throughput", "Output tokens per second.", "output_tokens_per_s", "ttft_{}_ms"),
        ("Time per output token over throughput", "Output tokens per second.", "output_tokens_per_s", "tpot_{}_ms"),
    )
    for title, unit, per_s, time in told:
        sides = [
            [step for side in column if side is not None and (step := _step(side, per_s, time)) is not None]
            for column in zip_longest(*map(sides_of, levels))
        ]
        if any(sides):
            yield _panel(title, f"{unit} {text}", [sweep.curve(sides, kind) for kind in WIDTHS])


def _step(side: Figures, per_s: str, time: str) -> sweep.Step | None:
    many, p50, p99 = (side.get(key) for key in (per_s, time.format("p50"), time.format("p99")))
    return None if many is None or p50 is None or p99 is None else sweep.Step(level_number(side), many, p50, p99)


def level_panels(session: Session) -> Iterator[Panel]:
    """What the last level's requests were like, one by one."""
    good = [[sample for sample in run.samples if sample.cause is None] for run in session.levels[-1].runs]
    if any(good):
        yield _cdf("How long responses took", "The share of responses that took at most so long.", good, _latency)
    yield from _over_time(session)
    told = (
        ("First token", "From the request to the first event that carries output.", _known("ttft_ms")),
        ("Per output token", "From the first token to the last, by the tokens after the first.", _known("tpot_ms")),
        ("First event", "From the request to the first event.", _first_event),
        ("Between two events", "The time from one event of a stream to its next.", _of_events("gaps_ms")),
        ("On the way", "From the upstream's send time to the arrival.", _of_events("delays_ms")),
    )
    for title, text, values in told:
        if any(values(sample) for side in good for sample in side):
            yield _cdf(title, text, good, values)


def _latency(sample: Sample) -> Sequence[float]:
    return [sample.latency_ms]


def _known(name: str) -> Values:
    def values(sample: Sample) -> Sequence[float]:
        value = getattr(sample, name)
        return [] if value is None else [value]

    return values


def _first_event(sample: Sample) -> Sequence[float]:
    times = sample.stream
    return [(times.first_ns - sample.due_ns) / 1e6] if times is not None and times.first_ns is not None else []


def _of_events(name: str) -> Values:
    def values(sample: Sample) -> Sequence[float]:
        return [] if sample.stream is None else getattr(sample.stream, name)

    return values


def _cdf(title: str, text: str, good: list[list[Sample]], values: Values) -> Panel:
    ordered = [sorted(value for sample in side for value in values(sample)) for side in good]
    curves = [[(round(v, 4), round(share, 2)) for v, share in distribution.curve_of(side)] for side in ordered]
    return _panel(title, text, [distribution.cdf(ordered, kind) for kind in WIDTHS], curves)


def _panel(title: str, text: str, drawn: list[Chart], curves: Sequence[list[tuple[float, float]]] = ()) -> Panel:
    axis = drawn[0].axis
    return Panel(title, f"{text} The scale is logarithmic." if axis and axis.is_log else text, drawn, [*curves])


def _over_time(session: Session) -> Iterator[Panel]:
    runs = session.levels[-1].runs
    began_ns = min(run.began_ns for run in runs)
    points = [
        course.Point(
            max(0.0, (sample.ended_ns - began_ns) / 1e9), sample.latency_ms if sample.cause is None else None, number
        )
        for number, run in enumerate(runs)
        for sample in run.samples
    ]
    if any(point.latency is not None for point in points):
        text = "Every response where it came; the line is the median, a red stroke at the top a request that failed."
        yield _panel("Over time", text, [course.timeline(points, kind) for kind in WIDTHS])
    if points:
        text = "Requests that ended per second; failed ones are red."
        yield Panel("Throughput", text, [course.throughput(points, kind) for kind in WIDTHS])
