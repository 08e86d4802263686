"""What each level of load brought, and what it cost: a time over a throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.output.charts.axis import count_axis, latency_axis
from benchmark.output.charts.chart import LEFT, TOP, Chart, Mark, spoken_tick_ms
from benchmark.output.spoken import spoken_count


@dataclass(frozen=True)
class Step:
    """One level of load: how much of it there was in a second, and the median and the 99th percentile of a time."""

    name: str
    per_s: float
    p50_ms: float
    p99_ms: float


def curve(sides: Sequence[Sequence[Step]], kind: str) -> Chart:
    """Two lines for each side, in the order of its levels. At least one side has one."""
    chart = Chart(kind, height=300)
    steps = [step for side in sides for step in side]
    x = count_axis(max(step.per_s for step in steps), LEFT, chart.right, steps=5)
    y = latency_axis(sorted(value for step in steps for value in (step.p50_ms, step.p99_ms)), chart.bottom, TOP)
    chart.axis = y
    chart.add_x_ticks(x, wide=10, narrow=4, told=lambda value: f"{spoken_count(value)}/s")
    chart.add_y_ticks(y, 5, spoken_tick_ms)
    for number, side in enumerate(sides):
        medians = [(x.at(step.per_s), y.at(step.p50_ms)) for step in side]
        tails = [(x.at(step.per_s), y.at(step.p99_ms)) for step in side]
        chart.add_line(medians, number, "curve")
        chart.add_line(tails, number, "curve dashed")
        chart.dots += [(*place, number) for place in medians]
        chart.marks += [Mark(*place, step.name, number) for place, step in zip(tails, side, strict=True)]
    chart.name_marks()
    return chart
