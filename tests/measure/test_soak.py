"""Mixed traffic leaves nothing behind, and the soak would tell if it did."""

from collections import Counter

import pytest

from measure.soak import State, Traffic, problems, soak
from measure.suite.server import Server

CLIENTS = 4


def test_mixed_traffic_leaves_nothing_behind() -> None:
    before, after, traffic, recorded = soak(8, CLIENTS)

    assert problems(before, after, traffic, recorded, CLIENTS) == []
    assert set(traffic.made) == {"chat", "stream", "hang_up", "refusal", "upload"}


@pytest.mark.parametrize(
    ("after", "recorded", "told"),
    [
        (State(100, 20, 3), 5, ["memory grew from 80 to 100 MB"]),
        (State(80, 90, 3), 5, ["descriptors grew from 20 to 90"]),
        (State(80, 20, 9), 5, ["threads grew from 3 to 9"]),
        (State(80, 20, 3), 4, ["5 calls left 4 records"]),
        (State(81, 22, 3), 5, []),
    ],
)
def test_what_grew_is_told(after: State, recorded: int, told: list[str]) -> None:
    traffic = Traffic(Server(9), CLIENTS)
    traffic.made = Counter(chat=5)

    assert problems(State(80, 20, 3), after, traffic, recorded, CLIENTS) == told


def test_faults_are_told_with_their_number() -> None:
    traffic = Traffic(Server(9), CLIENTS)
    traffic.faults = Counter({"401 instead of 200": 2, "a stream broke off": 1})
    state = State(80, 20, 3)

    assert problems(state, state, traffic, 0, CLIENTS) == ["2 x 401 instead of 200", "1 x a stream broke off"]
