"""How often holders have asked: by all processes together, and by as many holders as there is room for."""

import pytest

from control import asked
from control.asked import Asked

NOW = 29_000_000


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_shared", None)
    asked.share()


def test_all_that_share_count_together_and_each_minute_anew() -> None:
    one, other = Asked(), Asked()

    assert [one.count("a", NOW), other.count("a", NOW), one.count("b", NOW), other.count("a", NOW)] == [1, 2, 1, 3]
    assert [one.count("a", NOW + 1), one.count("b", NOW + 1)] == [1, 1]


def test_a_flood_of_others_lets_nobody_ask_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_BUCKETS", 1)
    counts = Asked()
    for _ in range(60):
        counts.count("eager", NOW)
    for number in range(100):
        counts.count(f"guess {number}", NOW)

    assert counts.count("eager", NOW) == 61


def test_a_minute_that_is_over_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_BUCKETS", 1)
    counts = Asked()
    for number in range(8):
        for _ in range(60):
            counts.count(f"yesterday's {number}", NOW)

    assert [counts.count(name, NOW + 1) for name in ("a", "b", "a", "b")] == [1, 1, 2, 2]
