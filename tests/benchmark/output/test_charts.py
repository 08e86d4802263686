"""Where lines, dots, bars and labels stand."""

import pytest

from benchmark.output import charts


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [1.0, 2.0, 3.0], [0.2, 5.0, 4000.0], [440.0, 454.0]])
@pytest.mark.parametrize("kind", charts.WIDTHS)
def test_every_distribution_fits_into_its_chart(values, kind):
    chart = charts.cdf([values, values[:1]], kind)

    assert 2 <= len(chart.x_ticks) <= 12
    assert all(charts.LEFT <= x <= chart.right for x, _ in chart.x_ticks)
    assert all(charts.LEFT <= mark.x <= chart.right and mark.y >= charts.TOP for mark in chart.marks)


@pytest.mark.parametrize("slowest", [0.9, 9.5, 95.0, 950.0, 1500.0, 14_000.0])
def test_the_labels_of_a_time_line_fit_beside_it(slowest):
    chart = charts.timeline([charts.Point(0.1, slowest * 0.9, 0), charts.Point(0.2, slowest, 0)], "wide")

    # Some 7 pixels a letter, and 8 from the axis; what is wider is cut by the edge.
    assert max(len(label) for _, label in chart.y_ticks) * 7 + 8 <= charts.LEFT + 5


def test_few_requests_are_put_into_few_bars():
    points = [charts.Point(number / 60, 5.0, 0) for number in range(60)]
    bars = charts.throughput(points, "wide").bars

    assert len(bars) == charts.FEWEST_BINS and {bar[3] for bar in bars} == {bars[0][3]}


def test_a_line_is_interrupted_where_nothing_came():
    assert charts.path([(0, 1), (1, 2), None, (3, 4), (5, 6)]) == "M0,1L1,2M3,4L5,6"


def test_a_time_line_shows_answers_failures_and_no_more_dots_than_can_be_seen():
    points = [charts.Point(number / 100, 1.0 + number % 7, 0) for number in range(5000)]
    chart = charts.timeline([*points, charts.Point(1.0, None, 0)], "wide")

    assert 1000 < len(chart.dots) <= charts.MOST_DOTS and len(chart.failed) == 1
    assert sum(bar[4] == "bad" for bar in charts.throughput([*points, charts.Point(1.0, None, 0)], "wide").bars) == 1
