"""Limits that fail a run."""

import pytest

from benchmark.figures.fail_if import parse
from benchmark.refused import Refused


@pytest.mark.parametrize("text", ["", "p99", "p99>", ">5", "p99>five", "p99=5", "p99>5 ms", "a b>1"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(Refused, match="--fail-if"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "breaks"),
    [("a>4", True), ("a>5", False), ("a >= 5", True), ("a<5", False), ("a<=5.0", True), ("a==5", True),
     ("a!=5", False), ("in.side>1", True), ("in.side>3", False), ("all.1.a>6", True), ("all.1.a>7", False),
     ("all.2.a>0", True), ("all.x>0", True), ("in>1", True), ("unknown>1", True),
     ("none>1", True), ("flag>0", True)],
)  # fmt: skip
def test_a_limit_is_broken_by_its_number_and_by_none(text, breaks):
    figures = {"a": 5, "in": {"side": 2.5}, "all": [{"a": 1}, {"a": 7}], "none": None, "flag": True}

    assert (parse(text).broken_by(figures) is not None) is breaks
