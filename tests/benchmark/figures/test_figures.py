"""Figures from samples made by hand."""

from array import array

import pytest

from benchmark.call import Call
from benchmark.figures.comparison import joined
from benchmark.figures.figures import figures
from benchmark.figures.goals import Goals
from benchmark.figures.percentiles import percentile
from benchmark.load.event_stream import StreamTimes
from benchmark.load.samples import Run
from benchmark.load.strain import Strain
from tests.benchmark.samples import CALL, MS, TARGET, plan, run_of, sample


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7.0], 99, 7.0),
        ([1, 2], 50, 1.5),
        ([1, 2, 3], 0, 1),
        ([1, 2, 3], 100, 3),
        (range(101), 99, 99),
        ([], 50, None),
    ],
)
def test_percentiles_are_interpolated(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_a_failed_request_counts_and_its_time_does_not():
    samples = [sample(10), sample(20), sample(9000, cause="timeout"), sample(0.1, cause="429 rate_limit_exceeded")]
    found = figures(run_of(samples, 0.5), TARGET, CALL, plan())

    assert (found["requests"], found["errors"], found["error_rate"]) == (4, 2, 0.5)
    assert (found["average_latency_ms"], found["p50_latency_ms"], found["max_latency_ms"]) == (15, 15, 20)
    assert (found["throughput_rps"], found["successes_rps"], found["total_duration_ms"]) == (8, 4, 500)


def test_no_answer_at_all_is_null_and_never_zero():
    found = figures(run_of([], 0.0), TARGET, CALL, plan())

    assert (found["requests"], found["throughput_rps"], found["p99_latency_ms"]) == (0, 0, None)


def test_what_a_server_says_is_told_once_and_without_the_token():
    bad = [sample(1, cause="401", message="no such key: secret-token"), sample(1, cause="401", message="other")]
    [group] = figures(run_of(bad), TARGET, CALL, plan())["errors_by_cause"]

    assert group == {"cause": "401", "count": 2, "message": "no such key: [token]"}


def test_streams_open_at_the_same_moment_are_counted():
    samples = [sample(10, due_ms=0), sample(10, due_ms=5), sample(10, due_ms=10)]
    for each in samples:
        each.stream = StreamTimes()
        each.stream.feed(b"data: {}\n\n", each.ended_ns)
    found = figures(run_of(samples), TARGET, Call("/v1/x", (b"{}",), stream=True), plan(), Goals(pace=1.0))

    assert (found["streams_at_once"], found["streams_sustained"], found["events"]) == (2, 3, 3)
    assert (found["events_lost"], found["event_gap_p50_ms"], found["first_event_p50_ms"]) == (None, None, 10)


def test_the_own_cpu_of_all_rounds_is_told_as_a_share_of_a_core():
    rounds = [Run([sample(10, first_byte_ns=MS)], 0, 2.0, strain=Strain(cpu, array("d", [lag]))) for cpu, lag in
              ((1.0, 1.0), (3.0, 5.0))]  # fmt: skip
    found = figures(joined(rounds), TARGET, CALL, plan())

    assert (found["client_cpu_share"], found["client_lag_p50_ms"]) == (1.0, 3.0)
    assert "100% of a core" in found["client_warning"]


def test_a_lateness_that_spoils_the_gaps_of_a_stream_is_told_however_late_its_first_byte():
    answer = sample(4000, first_byte_ns=500 * MS, stream=StreamTimes())
    for number in range(3):
        answer.stream.feed(b"data: {}\n\n", number * 20 * MS)
    run = Run([answer], 0, 4.0, strain=Strain(0.1, array("d", [12.0])))

    assert "12 ms" in figures(run, TARGET, Call("/v1/x", (b"{}",), stream=True), plan())["client_warning"]
    assert figures(run, TARGET, CALL, plan())["client_warning"] is None
