"""
The geometry of the report's charts: where lines, dots, bars and ticks stand. The template draws them.

Every chart is made in two widths, because an SVG that shrinks with the window shrinks its letters too.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.figures.percentiles import percentile
from benchmark.output.spoken import spoken_ms

WIDTHS = {"wide": 1000, "narrow": 343}
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 30
CDF_POINTS = 250
MOST_DOTS = 1500
SPARSE_DOTS = 300
# Bars and medians of fewer requests than these would show single answers and not a course.
MOST_BINS, FEWEST_BINS, REQUESTS_PER_BIN = 50, 10, 6
# Ticks may stand close together far from zero.
TICK_DIGITS = 4
MARKED = (50, 90, 99)
# A tail this many times longer than the fastest answer is only readable on a logarithmic axis.
LOG_FROM = 12


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values beyond the ends stand at the ends."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """About so many round values."""
        return _log_ticks(self.low, self.high, count) if self.is_log else _even_ticks(self.low, self.high, count)


def latency_axis(values: Sequence[float], start: float, end: float, *, from_zero: bool = True) -> Axis:
    """From zero, or round the smallest, to the largest of sorted values; logarithmic where these are far apart."""
    low, high = values[0], values[-1] or 1.0
    if low > 0 and high / low > LOG_FROM:
        return Axis(low / 1.1, high * 1.1, start, end, is_log=True)
    base = 0.0 if from_zero else low
    step = _step(((high - base) or high) / 4)
    return Axis(math.floor(base / step) * step, math.ceil(high * 1.001 / step) * step, start, end)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    step = _step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high
        ]
        if len(ticks) <= count:
            break
    return ticks


@dataclass
class Mark:
    """A point with a name."""

    x: float
    y: float
    label: str
    side: int


@dataclass
class Chart:
    """What the template draws; coordinates are pixels. `lines` are SVG paths, one or more for each side."""

    kind: str
    width: int
    height: int
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[tuple[str, int, str]] = field(default_factory=list)
    dots: list[tuple[float, float, int]] = field(default_factory=list)
    failed: list[tuple[float, float]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    axis: Axis | None = None

    @property
    def right(self) -> int:
        """Where the plot ends."""
        return self.width - RIGHT

    @property
    def is_sparse(self) -> bool:
        """Whether its dots are few enough to be drawn boldly."""
        return len(self.dots) < SPARSE_DOTS


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path through the points, interrupted where there is none."""
    drawn, command = "", "M"
    for point in points:
        drawn += f"{command}{point[0]:g},{point[1]:g}" if point else ""
        command = "L" if point else "M"
    return drawn


def cdf(sides: list[list[float]], kind: str) -> Chart:
    """The share of values up to each value. `sides` are sorted, and at least one is not empty."""
    width, height = WIDTHS[kind], 300
    every = sorted(value for side in sides for value in side)
    x = latency_axis(every, LEFT, width - RIGHT, from_zero=False)
    y = Axis(0, 100, height - BOTTOM, TOP)
    chart = Chart(kind, width, height, axis=x)
    chart.x_ticks = [(x.at(value), spoken_ms(value, TICK_DIGITS)) for value in x.ticks(9 if kind == "wide" else 4)]
    chart.y_ticks = [(y.at(value), f"{value} %") for value in (0, 25, 50, 75, 100)]
    for number, side in enumerate(sides):
        if side:
            curve = [(x.at(value), y.at(share)) for value, share in curve_of(side)]
            chart.lines.append((path([(curve[0][0], y.at(0)), *curve]), number, "curve"))
            chart.marks += _marks(side, number, x, y, named=kind == "wide" and number == 0)
    return chart


def curve_of(ordered: list[float]) -> list[tuple[float, float]]:
    """(value, percent of values that are at most it), evenly over the percents and finer at the slow end."""
    shares = [100 * number / CDF_POINTS for number in range(CDF_POINTS)] + [99.7, 99.8, 99.9, 99.95, 100.0]
    return [(value, share) for share in shares if (value := percentile(ordered, share)) is not None]


def _marks(ordered: list[float], side: int, x: Axis, y: Axis, *, named: bool) -> list[Mark]:
    found = []
    for percent in MARKED:
        value = percentile(ordered, percent)
        assert value is not None
        found.append(Mark(x.at(value), y.at(percent), f"p{percent} {spoken_ms(value)}" if named else "", side))
    return found


@dataclass(frozen=True)
class Point:
    """One request on the time line: seconds since the beginning, milliseconds (None: it failed), which side."""

    second: float
    latency: float | None
    side: int


def timeline(points: list[Point], kind: str) -> Chart:
    """Each answer when it came and how long it took, and the median as a line. At least one point is an answer."""
    width, height = WIDTHS[kind], 300
    points = sorted(points, key=lambda point: point.second)
    answers = [point for point in points if point.latency is not None]
    x = Axis(0, max(point.second for point in points) or 1e-3, LEFT, width - RIGHT)
    y = latency_axis(sorted(p.latency for p in answers if p.latency is not None), height - BOTTOM, TOP)
    chart = Chart(kind, width, height, axis=y)
    chart.x_ticks = _seconds(x, kind)
    chart.y_ticks = [(y.at(value), spoken_ms(value, TICK_DIGITS)) for value in y.ticks(5)]
    for point in _thin(answers):
        assert point.latency is not None
        chart.dots.append((x.at(point.second), y.at(point.latency), point.side))
    chart.failed = [(x.at(point.second), TOP) for point in _thin([p for p in points if p.latency is None])]
    for side in sorted({point.side for point in answers}):
        bins = _binned([p for p in answers if p.side == side], x.high, _bin_count(points))
        chart.lines.append((path(_medians(bins, x, y)), side, "median"))
    return chart


def _thin(points: list[Point]) -> list[Point]:
    return points[:: math.ceil(len(points) / MOST_DOTS) or 1]


def _seconds(x: Axis, kind: str) -> list[tuple[float, str]]:
    return [(x.at(value), f"{value:.3g} s") for value in x.ticks(10 if kind == "wide" else 4)]


def _medians(bins: list[list[Point]], x: Axis, y: Axis) -> list[tuple[float, float] | None]:
    line: list[tuple[float, float] | None] = []
    for number, inside in enumerate(bins):
        median = percentile(sorted(point.latency for point in inside if point.latency is not None), 50)
        line.append(None if median is None else (x.at((number + 0.5) * x.high / len(bins)), y.at(median)))
    return line


def _bin_count(points: list[Point]) -> int:
    return min(MOST_BINS, max(FEWEST_BINS, len(points) // REQUESTS_PER_BIN))


def _binned(points: list[Point], seconds: float, count: int) -> list[list[Point]]:
    edges = [seconds * (number + 1) / count for number in range(count - 1)]
    bins: list[list[Point]] = [[] for _ in range(count)]
    for point in points:
        bins[bisect_right(edges, point.second)].append(point)
    return bins


def throughput(points: list[Point], kind: str) -> Chart:
    """How many requests ended in each part of the time, per second; the failed ones on top."""
    width, height = WIDTHS[kind], 120
    seconds = max(point.second for point in points) or 1e-3
    bins = _binned(points, seconds, _bin_count(points))
    per_s = len(bins) / seconds
    highest = max(map(len, bins)) * per_s
    step = _step(highest / 2)
    x = Axis(0, seconds, LEFT, width - RIGHT)
    y = Axis(0, math.ceil(highest / step) * step, height - BOTTOM, TOP)
    chart = Chart(kind, width, height)
    chart.x_ticks = _seconds(x, kind)
    chart.y_ticks = [(y.at(value), f"{value:,.4g}") for value in y.ticks(2)]
    bar = (width - RIGHT - LEFT) / len(bins)
    for number, inside in enumerate(bins):
        left, low = round(LEFT + number * bar + 0.75, 1), 0.0
        kinds = Counter("bad" if point.latency is None else f"f{point.side}" for point in inside)
        for name in ("f0", "f1", "bad"):
            high = low + kinds[name] * per_s
            if high > low:
                chart.bars.append((left, y.at(high), round(bar - 1.5, 1), round(y.at(low) - y.at(high), 1), name))
            low = high
    return chart
