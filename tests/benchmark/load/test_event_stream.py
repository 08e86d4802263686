"""Events as they arrive: split anywhere, counted, timed, failed."""

import pytest

from benchmark.load.event_stream import StreamTimes
from tests.benchmark.samples import MS

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
        (b'data: {"type": "response.failed", "response": {"status": "failed"}}', "no code", ""),
        (b'event: response.failed\ndata: {"sequence_number": 4, "response": {}}', "no code", ""),
        (
            b'event: thread.run.failed\n'
            b'data: {"status": "failed", "last_error": {"code": "server_error", "message": "m"}}',
            "server_error",
            "m",
        ),
        (b'event: thread.run.failed\ndata: {"status": "failed", "last_error": null}', "no code", ""),
        (b'data: {"choices": [], "x_groq": {"id": "x", "error": "m"}}', "no code", "m"),
        (b'data: {"error": {"code": "overloaded", "message": "half of it: \\ud83d"}}', "overloaded", "half of it: ?"),
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
        b'data: {"choices": [], "x_groq": {"id": "x", "error": null}}',
        b'data: {"choices": [{"delta": {"content": "half of an error: \\ud83d"}}], "error": null}',
        b"data: [DONE]",
    ],
)  # fmt: skip
def test_text_about_errors_and_what_a_model_can_get_over_are_none(event):
    times = StreamTimes()
    times.feed(event + b"\n\n", 0)

    assert (times.events, times.failure) == (1, None)


@pytest.mark.parametrize(("gap_ms", "kept"), [(20, True), (20.9, True), (21.5, False)])
def test_a_pace_is_kept_within_five_percent(gap_ms, kept):
    times = StreamTimes()
    for number in range(11):
        times.feed(b"data: {}\n\n", int(number * gap_ms * MS))

    assert times.kept_pace(50) is kept
