"""How values read."""

from datetime import UTC, datetime, timedelta

import pytest

from blueprints.admin.charts import Chart, Series
from blueprints.admin.display import Bar, compact, milliseconds, number, relative, size, span, usd, when

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (5399, "90 minutes"),
        (5400, "2 hours"),
        (36 * 3600, "2 days"),
        (21 * 86400, "3 weeks"),
        (60 * 86400, "2 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_a_length_of_time_is_told_in_one_unit(seconds: float, words: str):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "just now"), (-4, "just now"), (10800, "in 3 hours"), (-172800, "2 days ago")]
)
def test_a_time_is_told_from_now(seconds: int, words: str):
    assert relative(NOW + timedelta(seconds=seconds), NOW) == words


def test_no_time_is_told_as_absent():
    assert when(None, "unknown") == '<span class="quiet">unknown</span>'


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (999, "999"), (9999, "9,999"), (12_345, "12.3k"), (2e6, "2M"), (1.25e9, "1.2B")]
)
def test_numbers_are_compact(value: float, words: str):
    assert compact(value) == words


def test_no_number_is_a_dash():
    assert number(None) == milliseconds(None) == "\N{EN DASH}"


def test_sizes_and_durations_carry_their_units():
    assert [size(value) for value in (512, 1536, 3 << 20, 5 << 30, 2 << 40)] == [
        "512 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "2.0 TiB",
    ]
    assert [milliseconds(value) for value in (0.4, 850, 12_400, 210_000)] == ["0 ms", "850 ms", "12.4 s", "3.5 min"]


@pytest.mark.parametrize(("percent", "tone"), [(0, "withered"), (15, "withered"), (16, "fading"), (51, "fresh")])
def test_a_bar_changes_colour_as_it_withers(percent: int, tone: str):
    assert Bar(percent, "").tone == tone


def chart(kind, values) -> Chart:
    return Chart("t", kind, "count", [Series("s", "fresh", values)], list(range(len(values))), len(values), "UTC")


def test_a_chart_tells_what_was_not_measured_by_a_dash():
    made = chart("lines", [1, None])

    assert (made.words(0), made.words(1)) == (["1"], ["–"])


@pytest.mark.parametrize(
    ("microdollars", "words"),
    [
        (0, "$0"), (1, "$0.000001"), (120, "$0.00012"), (9_999, "$0.009999"), (32_250, "$0.0323"), (500_000, "$0.50"),
        (1_382_505, "$1.38"), (12_500_000, "$12.50"), (9_999_000_000, "$9,999.00"), (12_345_000_000, "$12.3k"),
    ],
)  # fmt: skip
def test_money_is_read_at_a_glance(microdollars: int, words: str):
    assert usd(microdollars) == words


def test_no_money_is_not_nothing():
    assert usd(None) == "\N{EN DASH}"
