"""Figures from samples made by hand: percentiles, streams, causes, intervals, charts."""

import random
import ssl
from array import array

import pytest

from benchmark.call import Call
from benchmark.figures.comparison import comparison, in_turn, joined, rounds_of
from benchmark.figures.figures import figures, percentile, spoken_ms
from benchmark.load import causes
from benchmark.load.event_stream import StreamTimes
from benchmark.load.samples import Run, Sample
from benchmark.load.strain import Strain, warning
from benchmark.output import charts
from benchmark.plan import Plan
from benchmark.target import Target

TARGET = Target("http://host", "secret-token")
CALL = Call("/v1/chat/completions", b"{}")
MS = 1_000_000


def sample(latency_ms: float, *, due_ms: float = 0.0, **extra) -> Sample:
    due = int(due_ms * MS)
    return Sample(due_ns=due, sent_ns=due, ended_ns=due + int(latency_ms * MS), status=200, **extra)


def run_of(samples: list[Sample], duration_s: float = 1.0) -> Run:
    return Run(samples, 0, duration_s)


def plan(**changes) -> Plan:
    return Plan(**({"requests": 100, "duration_s": None, "concurrency": 10} | changes))


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


STREAM = (
    b': sent_ns=00000000000000000000 event=000000 of=000003\ndata: {"a": 1}\n\n'
    b": sent_ns=00000000000001000000 event=000001 of=000003\r\ndata: {}\r\n\r\n"
    b": sent_ns=00000000000002000000 event=000002 of=000003\ndata: [DONE]\n\n"
)


@pytest.mark.parametrize("size", range(1, len(STREAM) + 1))
def test_a_stream_may_be_split_anywhere(size):
    times = StreamTimes()
    for start in range(0, len(STREAM), size):
        times.feed(STREAM[start : start + size], start)

    assert (times.events, times.lost, len(times.gaps_ms), len(times.delays_ms)) == (3, 0, 2, 3)


def test_gaps_and_delays_are_milliseconds():
    times = StreamTimes()
    for number, event in enumerate(STREAM.replace(b"\r\n", b"\n").split(b"\n\n")[:3]):
        times.feed(event + b"\n\n", (number + 5) * 2 * MS)

    assert list(times.gaps_ms) == [2.0, 2.0]
    assert list(times.delays_ms) == [10.0, 11.0, 12.0]


@pytest.mark.parametrize(("kept", "lost"), [((0, 1, 2), 0), ((0, 2), 1), ((0, 1), 1), ((2,), 2)])
def test_lost_events_are_counted_wherever_they_were(kept, lost):
    times = StreamTimes()
    for number in kept:
        times.feed(b": sent_ns=%020d event=%06d of=%06d\ndata: {}\n\n" % (0, number, 3), 0)

    assert times.lost == lost


def test_numbers_of_the_responses_api_show_a_hole_and_chats_have_none():
    numbered, plain = StreamTimes(), StreamTimes()
    for number in (0, 1, 3):
        numbered.feed(b'data: {"type": "x", "sequence_number": %d}\n\n' % number, 0)
        plain.feed(b"data: {}\n\n", 0)

    assert (numbered.lost, plain.lost) == (1, None)


@pytest.mark.parametrize("block", [b": ping", b": ping\n: pong", b"retry: 3000", b"id: 7", b""])
def test_what_carries_no_data_is_no_event(block):
    times = StreamTimes()
    times.feed(block + b"\n\n", 6 * MS)
    times.feed(b": before\nevent: x\ndata: {}\n\n", 600 * MS)

    assert (times.events, times.first_ns) == (1, 600 * MS)


@pytest.mark.parametrize(
    ("event", "cause", "message"),
    [
        (b'data: {"error": {"code": "server_overloaded", "message": "m"}}', "server_overloaded", "m"),
        (b'event: error\ndata: {"error": {"type": "overloaded", "code": null, "message": "m"}}', "overloaded", "m"),
        (b'event: error\ndata: {"message": "m"}', "no code", "m"),
        (b'event: error\ndata: out of memory', "no code", ""),
        (b'data: {"error": "m"}', "no code", "m"),
        (b'event: error\ndata: {"type": "error", "code": "quota", "message": "m"}', "quota", "m"),
        (
            b'event: response.failed\ndata: {"type": "response.failed", "sequence_number": 9, "response": '
            b'{"status": "failed", "error": {"code": "server_error", "message": "m"}}}',
            "server_error",
            "m",
        ),
        (b'event: response.failed\ndata: {"type": "response.failed", "response": {"error": null}}', "no code", ""),
        (b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}', "finish_reason", ""),
        (
            b'data: {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "m"}}]}',
            "502",
            "m",
        ),
        (b': sent_ns=00000000000000000007\ndata: {"error": {"code": "late", "message": "m"}}', "late", "m"),
        (b'event: error\r\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}\r',
         "overloaded_error", "m"),
    ],
)  # fmt: skip
def test_an_error_in_a_stream_is_one_on_every_surface(event, cause, message):
    times = StreamTimes()
    times.feed(event + b"\n\n", 0)

    assert times.failure == (f"error in the stream: {cause}", message)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices": [{"delta": {"content": "an \\"error\\" is a word"}}], "error": null}',
        b'event: response.created\ndata: {"type": "response.created", "response": {"error": null}}',
        b'event: response.output_item.done\ndata: {"type": "response.output_item.done", "item": {"error": "x"}}',
        b'event: response.mcp_call.failed\ndata: {"type": "response.mcp_call.failed", "item_id": "x"}',
        b'event: x\ndata: the word error',
        b"data: [DONE]",
    ],
)  # fmt: skip
def test_text_about_errors_and_what_a_model_can_get_over_are_none(event):
    times = StreamTimes()
    times.feed(event + b"\n\n", 0)

    assert (times.events, times.failure) == (1, None)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"error": {"code": "server_error", "message": "m"}}', "error in the body: server_error"),
        (b'{"status": "failed", "error": {"code": "rate", "message": "m"}, "output": []}', "error in the body: rate"),
        (b'{"choices": [{"finish_reason": "error"}]}', "error in the body: finish_reason"),
        (b'{"status": "completed", "error": null}', None),
        (b'{"choices": [{"message": {"content": "\\"error\\""}}]}', None),
        (b'not JSON, "error"', None),
        (b"", None),
    ],
)
def test_an_answer_of_200_whose_body_is_an_error_failed(body, cause):
    found = causes.of_body(body)

    assert (found and found[0]) == cause


@pytest.mark.parametrize(("gap_ms", "kept"), [(20, True), (20.9, True), (21.5, False)])
def test_a_pace_is_kept_within_five_percent(gap_ms, kept):
    times = StreamTimes()
    for number in range(11):
        times.feed(b"data: {}\n\n", int(number * gap_ms * MS))

    assert times.kept_pace(50) is kept


def test_streams_open_at_the_same_moment_are_counted():
    samples = [sample(10, due_ms=0), sample(10, due_ms=5), sample(10, due_ms=10)]
    for each in samples:
        each.stream = StreamTimes()
        each.stream.feed(b"data: {}\n\n", each.ended_ns)
    found = figures(run_of(samples), TARGET, Call("/v1/x", b"{}", stream=True), plan(), pace=1.0)

    assert (found["streams_at_once"], found["streams_sustained"], found["events"]) == (2, 3, 3)
    assert (found["events_lost"], found["event_gap_p50_ms"], found["first_event_p50_ms"]) == (None, None, 10)


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

    assert "12 ms" in figures(run, TARGET, Call("/v1/x", b"{}", stream=True), plan())["client_warning"]
    assert figures(run, TARGET, CALL, plan())["client_warning"] is None


@pytest.mark.parametrize(
    ("error", "answered", "cause"),
    [
        (TimeoutError("timed out"), False, "timeout"),
        (TimeoutError("timed out"), True, "timeout"),
        (ConnectionRefusedError(), False, "connection refused"),
        (ConnectionResetError(), False, "connection reset"),
        (ConnectionResetError(), True, "answer cut short"),
        (OSError(113, "No route to host"), False, "No route to host"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), False, "TLS: "),
        (Exception("Incomplete response."), True, "answer cut short"),
        (Exception("connection closed."), False, "connection closed without an answer"),
        (Exception("Expected HTTP/, RTSP/ or ICE/"), False, "the answer is no HTTP"),
    ],
)
def test_what_happened_on_the_wire_has_a_name(error, answered, cause):
    assert causes.of_exception(error, answered=answered).startswith(cause)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (
            b'{"error": {"message": "m", "type": "requests", "code": "rate_limit_exceeded"}}',
            "429 rate_limit_exceeded",
        ),
        (b'{"error": {"message": "m", "type": "requests", "code": null}}', "429 requests"),
        (b'{"error": "text"}', "429"),
        (b"<html>", "429"),
        (b"[]", "429"),
    ],
)
def test_a_status_is_named_with_the_code_of_its_error(body, cause):
    assert causes.of_answer(429, body)[0] == cause


@pytest.mark.parametrize(
    ("requests", "users", "sizes"), [(43, 2, [5] * 3 + [4] * 7), (25, 10, [13, 12]), (5, 5, [5])]
)
def test_rounds_are_together_the_plan_and_each_has_work_for_every_user(requests, users, sizes):
    assert [one.requests for one in rounds_of(plan(requests=requests, concurrency=users))] == sizes


def test_rounds_swap_their_order():
    assert list(in_turn(3)) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def test_an_interval_holds_the_true_difference_and_leaves_zero_out():
    dice = random.Random(5)
    slow = [run_of([sample(dice.gauss(30, 3)) for _ in range(400)]) for _ in range(10)]
    fast = [run_of([sample(dice.gauss(20, 3)) for _ in range(400)]) for _ in range(10)]
    found = comparison(slow, fast)

    for name in ("average_latency_ms", "p50_latency_ms"):
        low, high = found[name]["difference_interval_ms"]
        assert 9 < low < 10 < high < 11
        assert found[name]["ratio_interval"][0] < 1.5 < found[name]["ratio_interval"][1]


def test_rounds_that_differ_make_a_wider_interval_than_their_requests_would():
    slow = [run_of([sample(20.0 + 10 * (number % 2))] * 100) for number in range(10)]
    steady = [run_of([sample(20.0)] * 100) for _ in range(10)]
    low, high = comparison(slow, steady)["average_latency_ms"]["difference_interval_ms"]

    assert low <= 2 and high >= 8


def test_one_round_or_no_answer_has_no_interval():
    one, failed = [run_of([sample(10)])], [run_of([sample(10, cause="500")])]

    assert comparison(one, one)["p50_latency_ms"]["ratio_interval"] is None
    assert comparison(one, failed) == dict.fromkeys(["average_latency_ms", "p50_latency_ms", "p99_latency_ms"])


def test_rounds_are_joined_to_one_run_of_their_own_time():
    both = joined([run_of([sample(1)], 2.0), run_of([sample(2)], 3.0)])

    assert (len(both.samples), both.duration_s) == (2, 5.0)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0], [1.0, 2.0, 3.0], [0.2, 5.0, 4000.0], [440.0, 454.0]])
@pytest.mark.parametrize("kind", charts.WIDTHS)
def test_every_distribution_fits_into_its_chart(values, kind):
    chart = charts.cdf([values, values[:1]], kind)

    assert 2 <= len(chart.x_ticks) <= 12
    assert all(charts.LEFT <= x <= chart.right for x, _ in chart.x_ticks)
    assert all(charts.LEFT <= mark.x <= chart.right and mark.y >= charts.TOP for mark in chart.marks)


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (0.0, "0 ms"), (0.4567, "0.457 ms"), (99.96, "100 ms"), (999.4, "999 ms"), (999.6, "1 s"),
     (1156.0, "1.16 s"), (60_000.0, "60 s")],
)  # fmt: skip
def test_milliseconds_are_told_in_three_digits(value, told):
    assert spoken_ms(value) == told


@pytest.mark.parametrize("slowest", [0.9, 9.5, 95.0, 950.0, 1500.0, 14_000.0])
def test_the_labels_of_a_time_line_fit_beside_it(slowest):
    chart = charts.timeline([charts.Point(0.1, slowest * 0.9, 0), charts.Point(0.2, slowest, 0)], "wide")

    # Some 7 pixels a letter, and 8 from the axis; what is wider is cut by the edge.
    assert max(len(label) for _, label in chart.y_ticks) * 7 + 8 <= charts.LEFT + 5


def test_few_requests_are_put_into_few_bars():
    points = [charts.Point(number / 60, 5.0, 0) for number in range(60)]
    bars = charts.throughput(points, "wide").bars

    assert len(bars) == charts.FEWEST_BINS and {bar[3] for bar in bars} == {bars[0][3]}


def test_a_line_is_interrupted_where_nothing_came():
    assert charts.path([(0, 1), (1, 2), None, (3, 4), (5, 6)]) == "M0,1L1,2M3,4L5,6"


def test_a_time_line_shows_answers_failures_and_no_more_dots_than_can_be_seen():
    points = [charts.Point(number / 100, 1.0 + number % 7, 0) for number in range(5000)]
    chart = charts.timeline([*points, charts.Point(1.0, None, 0)], "wide")

    assert 1000 < len(chart.dots) <= charts.MOST_DOTS and len(chart.failed) == 1
    assert sum(bar[4] == "bad" for bar in charts.throughput([*points, charts.Point(1.0, None, 0)], "wide").bars) == 1
