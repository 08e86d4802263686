"""Who sends when, and when a run is over."""

import pytest

from benchmark.load.schedule import Schedule

SECOND = 1_000_000_000


@pytest.mark.parametrize(("duration_s", "end_s"), [(None, 2), (1.0, 2), (3.0, 3)])
def test_a_run_is_over_with_its_last_answer_and_not_before_the_time_that_was_asked_for(duration_s, end_s):
    schedule = Schedule(requests=None if duration_s else 5, duration_s=duration_s, rate=None)

    # Its clock has not begun: it stands at zero.
    assert schedule.end_ns(2 * SECOND) == end_s * SECOND
