"""How long hostile shapes keep others waiting: each shape is whole, and each is tried on a running server."""

from pathlib import Path

import pytest

from measure.suite import waiting
from measure.suite.hostile import query_of, shapes
from measure.suite.waiting import NOTHING, longest_waits


def test_each_shape_has_a_name_of_its_own() -> None:
    names = [shape.name for shape in shapes()]

    assert len({query_of(name) for name in names} | {NOTHING}) == len(names) + 1


def test_a_request_names_the_shape_that_the_upstream_answers_with() -> None:
    for shape in shapes():
        opening = shape.opening(b"the-token")

        if b"Bearer the-token" in opening:
            assert b"?shape=%b HTTP/1.1\r\n" % query_of(shape.name) in opening
        else:
            assert shape.piece, shape.name


def test_the_wait_of_each_shape_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [shape for shape in shapes() if shape.name in {"empty lines", "20 MB of brackets"}]
    monkeypatch.setattr(waiting, "shapes", lambda: chosen)

    found = longest_waits(tmp_path, seconds=0.2, rounds=1)

    assert set(found) == {NOTHING, "empty lines", "20 MB of brackets"}
    assert min(wait.ms for wait in found.values()) > 0
    # A wait may be all somebody else's: what of it the worker computed is counted in ticks, and may be none.
    assert min(wait.computed_ms for wait in found.values()) >= 0
