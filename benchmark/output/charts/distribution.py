"""Which share of the responses came within so long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.figures.percentiles import percentile
from benchmark.output.charts.axis import Axis, latency_axis
from benchmark.output.charts.chart import LEFT, TOP, Chart, Mark, spoken_tick_ms
from benchmark.output.spoken import spoken_ms

CDF_POINTS = 250
MARKED = (50, 90, 99)


def cdf(sides: Sequence[Sequence[float]], kind: str) -> Chart:
    """The share of values up to each value. `sides` are sorted, and at least one is not empty."""
    chart = Chart(kind, height=300)
    every = sorted(value for side in sides for value in side)
    x = latency_axis(every, LEFT, chart.right, from_zero=False)
    y = Axis(0, 100, chart.bottom, TOP)
    chart.axis = x
    chart.add_x_ticks(x, wide=9, narrow=4, told=spoken_tick_ms)
    chart.add_y_ticks(y, 4, lambda value: f"{value:g} %")
    for number, side in enumerate(sides):
        if side:
            curve = [(x.at(value), y.at(share)) for value, share in curve_of(side)]
            chart.add_line([(curve[0][0], y.at(0)), *curve], number, "curve")
            chart.marks += _marks(side, number, x, y)
    chart.name_marks()
    return chart


def curve_of(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """(value, percent of values that are at most it), evenly over the percents and finer at the slow end."""
    shares = [100 * number / CDF_POINTS for number in range(CDF_POINTS)] + [99.7, 99.8, 99.9, 99.95, 100.0]
    return [(value, share) for share in shares if (value := percentile(ordered, share)) is not None]


def _marks(ordered: Sequence[float], side: int, x: Axis, y: Axis) -> Iterator[Mark]:
    for percent in MARKED:
        if (value := percentile(ordered, percent)) is not None:
            yield Mark(x.at(value), y.at(percent), f"p{percent} {spoken_ms(value)}", side)
