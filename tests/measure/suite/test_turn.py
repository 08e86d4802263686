"""What a call costs, from many turns."""

import pytest

from measure.suite.turn import Turn, cost_us


def test_a_cost_is_the_mean_of_the_turns() -> None:
    assert cost_us([Turn(1e-3, 10), Turn(3e-3, 10)]) == pytest.approx(200)


def test_a_turn_with_background_work_counts_and_one_that_stood_still_is_cut_down() -> None:
    turns = [Turn(1e-3, 10)] * 8

    assert cost_us([*turns, Turn(3e-3, 10), Turn(3e-3, 10)]) == pytest.approx(140)
    assert cost_us([*turns, Turn(1, 10), Turn(3e-3, 10)]) == pytest.approx(150)
