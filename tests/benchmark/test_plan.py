"""How much load, what contradicts itself, and what is filled in."""

import pytest

from benchmark.plan import allow_connections, make_levels, make_plan
from benchmark.refused import Refused


@pytest.mark.parametrize(
    "asked",
    [{"requests": 0}, {"requests": -1}, {"duration_s": 0.0}, {"rate": 0.0}, {"concurrency": 0}, {"warmup": -1},
     {"requests": 5, "concurrency": 6}, {"requests": 5, "duration_s": 1.0}, {"arrivals": "poisson"}],
)  # fmt: skip
def test_a_plan_that_contradicts_itself_is_refused(asked):
    with pytest.raises(Refused):
        make_plan(**asked)


def test_more_connections_than_the_process_may_have_are_refused():
    with pytest.raises(Refused, match="ulimit"):
        allow_connections(10**9)


@pytest.mark.parametrize(
    ("asked", "requests", "users"),
    [({}, 100, 10), ({"requests": 5}, 5, 5), ({"duration_s": 1.0}, None, 10), ({"rate": 9.0}, 100, 100),
     ({"rate": 9.0, "duration_s": 1.0}, None, 256), ({"requests": 20, "concurrency": 20}, 20, 20)],
)  # fmt: skip
def test_a_plan_has_users_enough_and_never_more_than_requests(asked, requests, users):
    plan = make_plan(**asked)

    assert (plan.requests, plan.concurrency) == (requests, users)


def test_a_sweep_has_a_plan_for_each_number_of_users_or_rate():
    users = make_levels("1, 2,40", duration_s=2.0)
    rates = make_levels("2.5/s,10/s", requests=50, concurrency=20, arrivals="poisson")

    assert [(level.concurrency, level.rate, level.duration_s) for level in users] == [
        (1, None, 2.0),
        (2, None, 2.0),
        (40, None, 2.0),
    ]
    assert [(level.concurrency, level.rate, level.arrivals) for level in rates] == [
        (20, 2.5, "poisson"),
        (20, 10.0, "poisson"),
    ]
    assert make_levels(None, requests=7) == [make_plan(requests=7)]


@pytest.mark.parametrize(
    ("sweep", "others", "complaint"),
    [
        ("", {}, "of the form"),
        ("1,two", {}, "of the form"),
        ("1,2/s", {}, "of the form"),
        ("1.5", {}, "of the form"),
        ("x/s", {}, "of the form"),
        ("0,1", {}, "--concurrency must be greater than 0"),
        ("inf/s", {}, "--rate must be a number"),
        ("1,200", {}, "--concurrency 200 is above --requests 100"),
        ("1,2", {"concurrency": 4}, "--sweep and --concurrency contradict"),
        ("1/s", {"rate": 5.0}, "--sweep and --rate contradict"),
        ("1,2", {"arrivals": "poisson"}, "--arrivals poisson is for --rate"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep, others, complaint):
    with pytest.raises(Refused, match=complaint):
        make_levels(sweep, **others)
