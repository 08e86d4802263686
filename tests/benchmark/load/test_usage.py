"""The counts of tokens in answers of every surface, and what of a stream is output."""

import orjson
import pytest

from benchmark.load.event_stream import StreamTimes
from benchmark.load.events import output_of
from benchmark.load.usage import Tokens, tokens_in
from tests.benchmark.samples import MS


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}, Tokens(9, 12)),
        ({"input_tokens": 9, "output_tokens": 12}, Tokens(9, 12)),
        ({"prompt_tokens": 9, "total_tokens": 9}, Tokens(9, None)),
        (
            {"prompt_tokens": 9, "completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 7}},
            Tokens(9, 12, 7),
        ),
        (
            {"input_tokens": 9, "output_tokens": 12, "output_tokens_details": {"reasoning_tokens": 12}},
            Tokens(9, 12, 12),
        ),
        ({"prompt_tokens": 11.0, "completion_tokens": 2.5}, Tokens(11, 3)),
        ({"prompt_tokens": True, "completion_tokens": 3}, Tokens(None, 3)),
        ({"prompt_tokens": -1, "completion_tokens": "3"}, None),
        ({"type": "duration", "seconds": 9}, None),
        (None, None),
    ],
)
def test_tokens_are_read_by_whichever_name_they_have(usage, tokens):
    assert tokens_in(orjson.dumps({"id": "x", "usage": usage, "metadata": {"a": "ü"}})) == tokens


@pytest.mark.parametrize(
    "text",
    [
        b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "usage": null}',
        b'{"choices": [{"usage":{"prompt_tokens":1,"completion_tokens":2}}]}',
        b'event: x\ndata: {"response" : {"usage" : {"input_tokens": 1, "output_tokens": 2}, "a": "\\"usage\\": {}"}}',
        b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "metadata": {"usage": {"of": "ours"}}}',
    ],
)
def test_the_last_usage_that_counts_is_the_one(text):
    assert tokens_in(text) == Tokens(1, 2)


@pytest.mark.parametrize("text", [b"", b'"usage"', b'{"usage":', b'{"usage": {"prompt_tokens": 1, "com', b"\xff\xfe"])
def test_what_is_cut_has_no_tokens(text):
    assert tokens_in(text) is None


@pytest.mark.parametrize(
    ("data", "output"),
    [
        ('{"choices": [{"delta": {"role": "assistant", "content": "", "refusal": null}}]}', None),
        ('{"choices": [{"delta": {"content": "Hi"}}]}', "answer"),
        ('{"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}', "answer"),
        ('{"choices": [{"delta": {"reasoning_content": "Hm"}}]}', "reasoning"),
        ('{"choices": [{"delta": {"reasoning": "Hm", "content": ""}}]}', "reasoning"),
        ('{"choices": [{"delta": {"reasoning_content": null, "content": "Hi"}}]}', "answer"),
        ('{"choices": [{"delta": {}, "finish_reason": "stop"}]}', None),
        ('{"choices": [], "usage": {"prompt_tokens": 1}}', None),
        ('{"choices": [{"text": "Hi", "index": 0}]}', "answer"),
        ('{"choices": [{"text": "", "index": 0}]}', None),
        ('{"type": "response.created"}', None),
        ('{"type": "response.output_text.delta", "delta": "Hi"}', "answer"),
        ('{"type": "response.reasoning_summary_text.delta", "delta": "Hm"}', "reasoning"),
        ('{"type": "response.output_text.done"}', None),
        ('{"type": "transcript.text.delta"}', "answer"),
        ('{"type": "image_generation.partial_image"}', "answer"),
        ('{"of": "an unknown surface"}', "answer"),
        ("no JSON", "answer"),
        ("[DONE]", None),
    ],
)
def test_an_event_carries_output_or_none_yet(data, output):
    assert output_of(f"event: x\ndata: {data}".encode()) == output


def chat(*events: tuple[float, str]) -> StreamTimes:
    """A stream that has ended: when each event came in milliseconds, and its data."""
    times = StreamTimes()
    for came_ms, data in events:
        times.feed(f"data: {data}\n\n".encode(), int(came_ms * MS))
    times.finish()
    return times


def word(text: str) -> str:
    return orjson.dumps({"choices": [{"delta": {"content": text}}]}).decode()


ROLE = '{"choices": [{"delta": {"role": "assistant", "content": ""}}]}'
STOP = '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'
USAGE = '{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}'


def test_the_first_and_the_last_token_are_those_that_carry_output():
    times = chat(
        (5, ROLE), (600, word("a")), (620, word("b")), (640, word("c")), (700, STOP), (800, USAGE), (900, "[DONE]")
    )

    assert (times.first_output_ns, times.last_output_ns) == (600 * MS, 640 * MS)
    assert times.tokens == Tokens(9, 3)


def test_a_long_stream_is_known_by_its_end():
    times = chat((5, ROLE), *((10 + number, word("a")) for number in range(1000)), (2000, USAGE), (2001, "[DONE]"))

    assert (times.first_output_ns, times.last_output_ns, times.tokens) == (10 * MS, 1009 * MS, Tokens(9, 3))


def test_a_stream_without_output_has_no_token():
    times = chat((5, ROLE), (600, STOP), (900, "[DONE]"))

    assert (times.first_output_ns, times.last_output_ns, times.tokens) == (None, None, None)
