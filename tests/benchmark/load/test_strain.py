"""Whether the tool itself was what was measured."""

import pytest

from benchmark.load.strain import warning


@pytest.mark.parametrize(
    ("cpu_share", "lag_ms", "measured_ms", "warned"),
    [
        (0.79, 1.0, 5.0, None),
        (0.8, 1.0, 5.0, "80% of a core"),
        (0.1, 9.9, 5.0, None),  # a late clock of so little is a busy loop's, and no bottleneck
        (0.1, 10.0, 5.0, "10 ms"),
        (0.1, 99.0, 1000.0, None),  # less than a tenth of what is measured
        (0.1, 100.0, 1000.0, "100 ms"),
        (0.1, 100.0, None, None),
    ],
)
def test_a_client_that_may_be_what_was_measured_says_so(cpu_share, lag_ms, measured_ms, warned):
    said = warning(cpu_share=cpu_share, lag_ms=lag_ms, measured_ms=measured_ms)

    assert said is None if warned is None else warned in said
