"""Asking for usage changes one member of the request; hiding the answer takes one event out of the stream."""

import json
from itertools import pairwise

import gevent
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.observe.asked_usage import MAX_BRACKETS, MAX_EVENT_BYTES, PARSED_BYTES, UsageChunkFilter, ask_for_usage
from llmproxy.observe.json_scan import MAX_MEMBERS
from tests.llmproxy.observe.openai_bodies import CHAT_STREAM, CHAT_STREAM_CRLF, CHAT_STREAM_UNASKED

ASKED = {"include_usage": True}


OPTIONS_ESCAPED = b"".join(b"\\u%04x" % letter for letter in b"stream_options")


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (b' \n{ "stream" : true }', b' \n{"stream_options":{"include_usage":true}, "stream" : true }'),
        (b'{"stream":true,"stream_options":null}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream":true,"stream_options":{}}', b'{"stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"stream":true,"stream_options":{ }}', b'{"stream":true,"stream_options":{"include_usage":true }}'),
        (
            b'{"stream_options":{"include_usage" : false,"x":[1]} ,"stream":true}',
            b'{"stream_options":{"include_usage" : true,"x":[1]} ,"stream":true}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_usage":null}}',
            b'{"stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"stream_options":{"include_obfuscation":false}}',
            b'{"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}',
        ),
        (
            b'{"stream":false,"stream":true,"stream_options":1,"stream_options":null}',
            b'{"stream":false,"stream":true,"stream_options":1,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"a":{"stream_options":null},"b":"\\"stream_options\\":null","str\\u0065am":true,"stream_options":null}',
            b'{"a":{"stream_options":null},"b":"\\"stream_options\\":null","str\\u0065am":true,'
            b'"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"stream\\u005foptions":{"include_usage":false}}',
            b'{"stream":true,"stream\\u005foptions":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"\\ud83d":"\\ud83d","stream_options":null}',
            b'{"stream":true,"\\ud83d":"\\ud83d","stream_options":{"include_usage":true}}',
        ),
        (
            b'{"stream":true,"seed":' + b"9" * 5000 + b"}",
            b'{"stream_options":{"include_usage":true},"stream":true,"seed":' + b"9" * 5000 + b"}",
        ),
        (
            b'{"stream":true,"stream_options":{%b}}' % (b" " * 20_000),
            b'{"stream":true,"stream_options":{"include_usage":true%b}}' % (b" " * 20_000),
        ),
        (
            b'{"str\\u0065am":true,"%b":{},"a":"%b"}' % (OPTIONS_ESCAPED, b"x" * PARSED_BYTES),
            b'{"str\\u0065am":true,"%b":{"include_usage":true},"a":"%b"}' % (OPTIONS_ESCAPED, b"x" * PARSED_BYTES),
        ),
    ],
    ids=lambda body: body[:60],
)
def test_usage_is_asked_for_by_splicing(body, asked):
    assert ask_for_usage(body) == asked


def test_of_a_large_body_no_other_byte_changes():
    large = b'{"model":"m","messages":["%b"],"stream":true,"stream_options":{}}' % (b'\\"[' * PARSED_BYTES)

    assert ask_for_usage(large) == large.replace(b"{}", b'{"include_usage":true}')


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"stream":false}',
        b'{"stream":1}',
        b'{"stream":"true"}',
        b'{"stream":null}',
        b'{"x":{"stream":true}}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":"yes"}}',
        b'{"stream":true,"stream_options":{"include_usage":0}}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":true,"stream_options":false}',
        b'[{"stream":true}]',
        b'{"stream":true',
        b'{"stream":true,"stream_options":{"a":}}',
        b'{"stream":true,"a":"%b"' % (b"x" * PARSED_BYTES),
        b'{"stream":true,%b"a":1}' % (b'"a":1,   ' * MAX_MEMBERS),
        b'{"stream":true,"a":%b%b}' % (b"[" * (MAX_BRACKETS + 1), b"]" * (MAX_BRACKETS + 1)),
        b'\xef\xbb\xbf{"stream":true}',
        b"\x1f\x8b\x08",
        b"",
    ],
    ids=lambda body: body[:60],
)
def test_there_is_nothing_to_change(body):
    assert ask_for_usage(body) is None


def test_others_run_while_a_large_body_is_looked_into():
    turns = []
    other = gevent.spawn(turns.append, "turn")
    ask_for_usage(b'{"stream":true,"stream_options":{},%b"a":1}' % (b'"a":1,' * 600_000))

    assert turns
    other.join()


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(alphabet='a"\\{}[]:, ü\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_options = st.none() | st.dictionaries(st.sampled_from(["include_obfuscation", "x"]), _values, max_size=2)


@given(
    st.dictionaries(st.sampled_from(["model", "messages", "stream_", 'a"', "ü"]), _values),
    _options,
    st.booleans(),
    st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}]),
)
def test_the_request_means_the_same_and_asks(request_body, options, has_options, layout):
    request_body["stream"] = True
    if has_options:
        request_body["stream_options"] = options
    body = json.dumps(request_body, **layout).encode()

    asked = orjson.loads(ask_for_usage(body))

    assert asked.pop("stream_options") == {**(options or {} if has_options else {}), **ASKED}
    assert asked == {name: value for name, value in request_body.items() if name != "stream_options"}


# The way down.

USAGE_CHUNK = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1694268190,"model":"gpt-4o-mini",'
    b'"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}\n\n'
)
LARGE_CHUNK = USAGE_CHUNK.replace(b'"chatcmpl-123"', b'"' + b"x" * MAX_EVENT_BYTES + b'"')
DONE = b"data: [DONE]\n\n"
BLANK = b"\n"
# Events that are no usage chunk, however much they look like one.
OTHERS = [
    DONE,
    b": keep-alive\n\n",
    BLANK,
    b"event: ping\ndata: {}\n\n",
    b'data: {"choices":[],"usage":null}\n\n',
    b'data: {"choices":[],"prompt_filter_results":[{"usage":{}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\"choices\\":[],\\"usage\\":{}"}}],"usage":null}\n\n',
    b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"total_tokens":1}}\n\n',
    b'data: {"x":{"choices":[]},"usage":{"total_tokens":1}}\n\n',
    b'data: {"choices":[],"usage":[]}\n\n',
    b'data: ["choices",[],"usage",{}]\n\n',
    b'data: {"error":{"message":"usage"}}\n\n',
    b'data: not json "usage"\n\n',
    'data: {"choices":[{"delta":{"content":"ü🌿"}}]}\n\n'.encode(),
]
line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.tuples(st.lists(st.sampled_from(OTHERS), max_size=4), st.lists(st.sampled_from(OTHERS), max_size=4))
cuts = st.lists(st.integers(0, 900), max_size=10)


def filtered(chunks):
    usage_filter = UsageChunkFilter()
    return b"".join([*(usage_filter.feed(chunk) for chunk in chunks), usage_filter.finish()])


def cut_at(stream, positions):
    edges = [0, *sorted(min(position, len(stream)) for position in positions), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(edges)]


@given(streams, line_ends, cuts)
def test_exactly_the_usage_chunk_is_taken_out_at_any_split(around, line_end, positions):
    before, chunk, after = (
        part.replace(b"\n", line_end) for part in (b"".join(around[0]), USAGE_CHUNK, b"".join(around[1]))
    )

    assert filtered(cut_at(before + chunk + after, positions)) == before + after


@given(streams, line_ends)
def test_exactly_the_usage_chunk_is_taken_out_byte_by_byte(around, line_end):
    before, chunk, after = (
        part.replace(b"\n", line_end) for part in (b"".join(around[0]), USAGE_CHUNK, b"".join(around[1]))
    )
    stream = before + chunk + after

    assert filtered([stream[i : i + 1] for i in range(len(stream))]) == before + after


@given(streams, line_ends, cuts, st.integers(0, 60))
def test_a_stream_without_the_chunk_stays_as_it_is_even_cut_off(around, line_end, positions, missing):
    stream = b"".join(around[0] + around[1]).replace(b"\n", line_end)
    stream = stream[: max(0, len(stream) - missing)]

    assert filtered(cut_at(stream, positions)) == stream


@given(st.binary(max_size=80), cuts)
def test_bytes_that_are_no_events_stay_as_they_are(noise, positions):
    assert filtered(cut_at(noise, positions)) == noise


def test_the_stream_is_the_one_a_caller_gets_who_did_not_ask_but_for_the_nulls():
    assert filtered([CHAT_STREAM.body]).endswith(b'"usage":null}\n\n' + DONE)
    assert filtered([CHAT_STREAM_UNASKED.body]) == CHAT_STREAM_UNASKED.body


def test_a_chunk_on_several_lines_is_known_too():
    taken = filtered([CHAT_STREAM_CRLF.body])

    assert b"prompt_tokens" not in taken
    assert taken.endswith(b'"usage":null}\r\n\r\ndata: [DONE]\r\n\r\n')


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"choices":[],"note":"\\ud83d","usage":{"prompt_tokens":1}}',
        b'{"choices":[],"score":NaN,"usage":{"prompt_tokens":1}}',
        b'{"choices":null,"usage":{"prompt_tokens":1}}',
        b'{"usage":{"prompt_tokens":1},"error":null}',
    ],
)
def test_a_usage_chunk_is_known_as_other_upstreams_write_it(chunk):
    assert filtered([b"data: " + chunk + b"\n\n" + DONE]) == DONE


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"usage":{"prompt_tokens":1},"error":{"code":"overloaded"}}',
        b'{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}',
        b'{"choices":"none","usage":{"prompt_tokens":1}}',
        b'{"choices":[],"usage":{"prompt_tokens":1}',
        b'{"choices":[],"usage":' + b"[" * 30_000 + b"}",
    ],
)
def test_what_tells_more_than_usage_or_is_no_chunk_stays(chunk):
    assert filtered([b"data: " + chunk + b"\n\n" + DONE]) == b"data: " + chunk + b"\n\n" + DONE


def test_only_the_first_usage_chunk_is_taken():
    assert filtered([USAGE_CHUNK + USAGE_CHUNK + DONE]) == USAGE_CHUNK + DONE


@pytest.mark.parametrize("missing", [1, 2])
def test_a_usage_chunk_whose_blank_line_never_came_is_hidden_too(missing):
    assert filtered([DONE, USAGE_CHUNK[:-missing]]) == DONE


@pytest.mark.parametrize("read_bytes", [1000, 100_000])
def test_an_event_over_the_limit_is_passed_through(read_bytes):
    stream = LARGE_CHUNK + DONE + USAGE_CHUNK + DONE

    chunks = [stream[begin : begin + read_bytes] for begin in range(0, len(stream), read_bytes)]
    assert filtered(chunks) == LARGE_CHUNK + DONE + DONE


def test_no_more_than_one_small_event_is_held_back():
    usage_filter = UsageChunkFilter()
    sent = passed = 0

    for begin in range(0, len(LARGE_CHUNK) - 10, 1000):
        chunk = LARGE_CHUNK[begin : min(begin + 1000, len(LARGE_CHUNK) - 10)]
        sent += len(chunk)
        passed += len(usage_filter.feed(chunk))
        assert sent - passed <= MAX_EVENT_BYTES
    assert sent == passed


def test_whole_events_are_passed_on_at_once():
    usage_filter = UsageChunkFilter()

    for event in OTHERS:
        if event is BLANK:
            continue  # the beginning of an event, as yet
        assert usage_filter.feed(event) == event


@pytest.mark.parametrize(
    "start",
    [
        b'data: {"id":"a","created":1,"model":"m","choices":[{',
        b'data: {"id":"\\"","n":null,"choices" : [ {"index":0,"delta":{"content":"wor',
        b'data:{"choices":[1',
        b"data: [DONE]",
        b"data: oops",
    ],
)
def test_an_event_is_passed_on_as_soon_as_it_cannot_be_the_usage_chunk(start):
    usage_filter = UsageChunkFilter()
    usage_filter.feed(b": start\n\n")

    assert usage_filter.feed(start) == start
    assert usage_filter.feed(b" more") == b" more"
    assert usage_filter.feed(b"\n") + usage_filter.feed(b"\n") == b"\n\n"
    assert usage_filter.feed(USAGE_CHUNK) == b""


@pytest.mark.parametrize("length", [1, 6, 30, 120, len(USAGE_CHUNK) - 1])
def test_what_may_become_the_usage_chunk_is_held_back(length):
    usage_filter = UsageChunkFilter()
    usage_filter.feed(b": start\n\n")

    assert usage_filter.feed(USAGE_CHUNK[:length]) == b""
    assert usage_filter.feed(USAGE_CHUNK[length:] + DONE) == DONE
