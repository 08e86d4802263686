"""Where lines, dots, bars and labels stand."""

import random
from itertools import combinations, pairwise

import pytest

from benchmark.output.charts import course, distribution, sweep
from benchmark.output.charts.chart import LEFT, TOP, WIDTHS, Chart, path
from benchmark.output.charts.sweep import Step

RANGES = [[5.0], [5.0, 5.0], [0.0], [1.0, 2.0, 3.0], [0.2, 5.0, 4000.0], [440.0, 454.0], [1001.0, 1049.0],
          [9_990.0, 120_000.0], [0.01, 0.02], [0.5, 6.0], [1.0, 11.9], [3.0, 10_000_000.0]]  # fmt: skip


def overlap(one, other) -> bool:
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]


def assert_labels_are_readable(chart: Chart) -> None:
    """None of them is cut by the edge, and none stands on another."""
    texts = [*chart.x_ticks, *(mark.label for mark in chart.marks if mark.label is not None)]

    assert all(text.box[0] >= 0 and text.box[2] <= chart.width and text.box[3] <= chart.height for text in texts)
    assert [pair for pair in combinations(texts, 2) if overlap(pair[0].box, pair[1].box)] == []


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("kind", WIDTHS)
def test_every_distribution_fits_into_its_chart(values, kind):
    chart = distribution.cdf([values, values[:1]], kind)

    assert 1 <= len(chart.x_ticks) <= 12
    assert all(LEFT <= mark.x <= chart.right and mark.y >= TOP for mark in chart.marks)
    assert_labels_are_readable(chart)


@pytest.mark.parametrize("shift", [1.0, 1.01, 1.2, 3.0])
@pytest.mark.parametrize("kind", WIDTHS)
def test_the_percentiles_of_both_servers_are_named_and_collide_with_nothing(shift, kind):
    dice = random.Random(7)
    first = sorted(dice.lognormvariate(3, 0.5) for _ in range(500))
    chart = distribution.cdf([first, [value * shift for value in first]], kind)

    assert [(mark.side, mark.label.text[:4]) for mark in chart.marks if mark.label] == [
        (side, f"p{percent} ") for side in (0, 1) for percent in (50, 90, 99)
    ]
    assert_labels_are_readable(chart)


def test_a_name_avoids_the_lines_where_it_can():
    chart = distribution.cdf([[float(value) for value in range(500, 1501)]], "wide")
    inked = [(x, y) for mark in chart.marks for x, y in chart._ink if mark.label and inside(mark.label.box, x, y)]

    assert len(chart.marks) == 3 and inked == []


def inside(box, x, y) -> bool:
    return box[0] < x < box[2] and box[1] < y < box[3]


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("fastest", [1.0, 40.0, 12_000.0])
def test_a_sweep_names_its_levels_and_they_collide_with_nothing(kind, fastest):
    steps = [Step(f"{2**n}", fastest * (1 - 0.7**n), 10.0 + n, 20.0 * 1.5**n) for n in range(1, 10)]
    chart = sweep.curve([steps, steps[::2]], kind)
    named = [mark for mark in chart.marks if mark.label is not None]

    assert len(chart.lines) == 4 and len(chart.marks) == 14 and len(named) >= 10
    assert all(text.text.endswith("/s") and "e+" not in text.text for text in chart.x_ticks)
    assert_labels_are_readable(chart)


def test_a_sweep_of_a_single_level_without_a_time_fits_too():
    chart = sweep.curve([[Step("1", 0.0, 0.0, 0.0)], []], "narrow")

    assert len(chart.marks) == 1
    assert_labels_are_readable(chart)


@pytest.mark.parametrize("slowest", [0.9, 9.5, 95.0, 950.0, 1500.0, 14_000.0, 2_000_000.0])
def test_the_labels_of_a_time_line_fit_beside_it(slowest):
    chart = course.timeline([course.Point(0.1, slowest * 0.9, 0), course.Point(0.2, slowest, 0)], "wide")

    # Some 7 pixels a letter, and 8 from the axis; what is wider is cut by the edge.
    assert max(len(tick.text) for tick in chart.y_ticks) * 7 + 8 <= LEFT + 5


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("seconds", [0.04, 1.0, 61.0, 9_000.0, 400_000.0])
def test_no_number_beside_an_axis_has_an_exponent(kind, seconds):
    # 20,000 answers in the first instant: 1e+04 and more in a second.
    points = [course.Point(0.0, 1.0, 0)] * 20_000 + [course.Point(seconds, 1.0, 0)]
    over_time, bars = course.timeline(points[-9:], kind), course.throughput(points, kind)

    assert [tick.text for tick in (*over_time.x_ticks, *bars.x_ticks, *bars.y_ticks) if "e" in tick.text] == []
    assert_labels_are_readable(over_time)
    assert_labels_are_readable(bars)


def test_few_requests_are_put_into_few_bars():
    points = [course.Point(number / 60, 5.0, 0) for number in range(60)]
    bars = course.throughput(points, "wide").bars

    assert len(bars) == course.FEWEST_BINS and {bar[3] for bar in bars} == {bars[0][3]}


def test_a_line_is_interrupted_where_nothing_came():
    assert path([(0, 1), (1, 2), None, (3, 4), (5, 6)]) == "M0,1L1,2M3,4L5,6"


def test_a_time_line_shows_answers_failures_and_no_more_dots_than_can_be_seen():
    points = [course.Point(number / 100, 1.0 + number % 7, 0) for number in range(5000)]
    chart = course.timeline([*points, course.Point(1.0, None, 0)], "wide")

    assert 1000 < len(chart.dots) <= course.MOST_DOTS and len(chart.failed) == 1
    assert sum(bar[4] == "bad" for bar in course.throughput([*points, course.Point(1.0, None, 0)], "wide").bars) == 1


def test_ticks_of_an_axis_come_in_order():
    chart = distribution.cdf([[0.2, 5.0, 4000.0]], "narrow")

    assert all(left.x < right.x for left, right in pairwise(chart.x_ticks))
