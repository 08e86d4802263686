"""How much load, what contradicts itself, and what is filled in."""

import pytest

from benchmark.plan import allow_connections, make_plan
from benchmark.refused import Refused


@pytest.mark.parametrize(
    "asked",
    [{"requests": 0}, {"requests": -1}, {"duration_s": 0.0}, {"rate": 0.0}, {"concurrency": 0}, {"warmup": -1},
     {"requests": 5, "concurrency": 6}, {"requests": 5, "duration_s": 1.0}],
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
