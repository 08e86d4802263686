"""What happened when: every response on a time line, and how many there were in a second."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.figures.percentiles import percentile
from benchmark.output.charts.axis import Axis, count_axis, latency_axis
from benchmark.output.charts.chart import LEFT, TOP, Chart, spoken_seconds, spoken_tick_ms
from benchmark.output.spoken import spoken_count

MOST_DOTS = 1500
# Bars and medians of fewer requests than these would show single responses and not a course.
MOST_BINS, FEWEST_BINS, REQUESTS_PER_BIN = 50, 10, 6


@dataclass(frozen=True)
class Point:
    """One request on the time line: seconds since the beginning, milliseconds (None: it failed), which side."""

    second: float
    latency: float | None
    side: int


def timeline(points: Sequence[Point], kind: str) -> Chart:
    """Each response when it came and how long it took, and the median as a line. At least one point is a response."""
    chart = Chart(kind, height=300)
    points = sorted(points, key=lambda point: point.second)
    responses = [point for point in points if point.latency is not None]
    x = Axis(0, _end(points), LEFT, chart.right)
    y = latency_axis(sorted(p.latency for p in responses if p.latency is not None), chart.bottom, TOP)
    chart.axis = y
    chart.add_x_ticks(x, wide=10, narrow=4, told=spoken_seconds)
    chart.add_y_ticks(y, 5, spoken_tick_ms)
    for point in _thin(responses):
        assert point.latency is not None
        chart.dots.append((x.at(point.second), y.at(point.latency), point.side))
    chart.failed = [(x.at(point.second), TOP) for point in _thin([p for p in points if p.latency is None])]
    for side in sorted({point.side for point in responses}):
        bins = _binned([p for p in responses if p.side == side], x.high, _bin_count(points))
        chart.add_line(_medians(bins, x, y), side, "median")
    return chart


def throughput(points: Sequence[Point], kind: str) -> Chart:
    """How many requests ended in each part of the time, per second; the failed ones on top."""
    chart = Chart(kind, height=120)
    seconds = _end(points)
    bins = _binned(points, seconds, _bin_count(points))
    per_s = len(bins) / seconds
    y = count_axis(max(map(len, bins)) * per_s, chart.bottom, TOP, steps=2)
    chart.add_x_ticks(Axis(0, seconds, LEFT, chart.right), wide=10, narrow=4, told=spoken_seconds)
    chart.add_y_ticks(y, 2, spoken_count)
    width = (chart.right - LEFT) / len(bins)
    for number, inside in enumerate(bins):
        chart.bars += _stack(inside, per_s, y, left=LEFT + number * width, width=width)
    return chart


def _end(points: Sequence[Point]) -> float:
    return max(point.second for point in points) or 1e-3


def _stack(
    inside: list[Point], per_s: float, y: Axis, *, left: float, width: float
) -> list[tuple[float, float, float, float, str]]:
    """The bars of one part of the time, one upon the other."""
    bars, low = [], 0.0
    kinds = Counter("bad" if point.latency is None else f"f{point.side}" for point in inside)
    for name in ("f0", "f1", "bad"):
        high = low + kinds[name] * per_s
        if high > low:
            height = round(y.at(low) - y.at(high), 1)
            bars.append((round(left + 0.75, 1), y.at(high), round(width - 1.5, 1), height, name))
        low = high
    return bars


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    return points[:: math.ceil(len(points) / MOST_DOTS) or 1]


def _medians(bins: list[list[Point]], x: Axis, y: Axis) -> list[tuple[float, float] | None]:
    line: list[tuple[float, float] | None] = []
    for number, inside in enumerate(bins):
        median = percentile(sorted(point.latency for point in inside if point.latency is not None), 50)
        line.append(None if median is None else (x.at((number + 0.5) * x.high / len(bins)), y.at(median)))
    return line


def _bin_count(points: Sequence[Point]) -> int:
    return min(MOST_BINS, max(FEWEST_BINS, len(points) // REQUESTS_PER_BIN))


def _binned(points: Sequence[Point], seconds: float, count: int) -> list[list[Point]]:
    edges = [seconds * (number + 1) / count for number in range(count - 1)]
    bins: list[list[Point]] = [[] for _ in range(count)]
    for point in points:
        bins[bisect_right(edges, point.second)].append(point)
    return bins
