"""Numbers as people read them."""

import pytest

from benchmark.output.spoken import spoken_ms


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (0.0, "0 ms"), (0.4567, "0.457 ms"), (99.96, "100 ms"), (999.4, "999 ms"), (999.6, "1 s"),
     (1156.0, "1.16 s"), (60_000.0, "60 s")],
)  # fmt: skip
def test_milliseconds_are_told_in_three_digits(value, told):
    assert spoken_ms(value) == told
