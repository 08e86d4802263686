"""Numbers as people read them."""

import pytest

from benchmark.output.spoken import spoken_count, spoken_ms


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (0.0, "0 ms"), (0.4567, "0.457 ms"), (0.04567, "0.0457 ms"), (0.000012, "0.000012 ms"),
     (99.96, "100 ms"), (999.4, "999 ms"), (999.6, "1 s"), (1156.0, "1.16 s"), (60_000.0, "60 s"),
     (15_000_000.0, "15,000 s")],
)  # fmt: skip
def test_milliseconds_are_told_in_three_digits(value, told):
    assert spoken_ms(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (0, "0"), (0.0456, "0.0456"), (2.5, "2.5"), (9.999, "10"), (12.34, "12.3"), (999.6, "1,000"),
     (10_000, "10,000"), (12_345.6, "12,346"), (-3.25, "-3.25")],
)  # fmt: skip
def test_counts_have_three_digits_all_of_those_before_the_point_and_no_exponent(value, told):
    assert spoken_count(value) == told
