"""The observer tells the same of an answer at every split and in every coding, and nothing that was not reported."""

import base64
import gzip
import json
import tracemalloc
import zlib
from itertools import pairwise

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.observe import usage
from llmproxy.observe.usage import observe
from tests.llmproxy.observe import openai_bodies as bodies
from tests.llmproxy.observe.openai_bodies import ANSWERS, JSON, SSE, Answer

A_MEGABYTE = 1 << 20
CODINGS = {
    None: bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "gzip, br": lambda body: brotli.compress(gzip.compress(body)),
}


def observer_of(answer: Answer, content_encoding=None):
    return observe(
        answer.endpoint,
        method=answer.method,
        status=answer.status,
        content_type=answer.content_type,
        content_encoding=content_encoding,
    )


def told(observer, chunks):
    """What an observer tells that is spared what it says it ignores."""
    for chunk in chunks:
        if not observer.ignores(chunk):
            observer.feed(chunk)
    observer.finish()
    return observer.facts.metadata(), observer.facts.usage_source, observer.facts.error


def told_of_json(body: bytes | dict, *, status=200, endpoint="/v1/chat/completions", content_type=JSON):
    observer = observe(endpoint, status=status, content_type=content_type, content_encoding=None)
    return told(observer, [body if isinstance(body, bytes) else json.dumps(body).encode()])


def told_of_stream(*chunks: bytes):
    return told(observe("/v1/chat/completions", status=200, content_type=SSE, content_encoding=None), chunks)


@pytest.fixture(params=ANSWERS, ids=lambda answer: answer.name)
def answer(request):
    return request.param


@pytest.fixture(params=CODINGS, ids=lambda coding: coding or "identity")
def coding(request):
    return request.param


def test_an_answer_is_read_whole(answer, coding):
    expected = answer.metadata, answer.usage_source, answer.error

    assert told(observer_of(answer, coding), [CODINGS[coding](answer.body)]) == expected


def test_an_answer_is_read_byte_by_byte(answer, coding):
    body = CODINGS[coding](answer.body)
    expected = answer.metadata, answer.usage_source, answer.error

    assert told(observer_of(answer, coding), [body[i : i + 1] for i in range(len(body))]) == expected


def test_an_answer_is_read_at_every_split(answer, coding):
    body = CODINGS[coding](answer.body)
    expected = answer.metadata, answer.usage_source, answer.error

    for at in range(1, len(body)):
        assert told(observer_of(answer, coding), [body[:at], body[at:]]) == expected


def test_a_large_body_is_read_as_a_small_one(answer, monkeypatch):
    monkeypatch.setattr(usage, "MAX_BUFFERED_BODY_BYTES", 16)
    monkeypatch.setattr(usage, "MAX_EVENT_BYTES", 16)
    expected = answer.metadata, answer.usage_source, answer.error

    for at in range(1, len(answer.body)):
        assert told(observer_of(answer), [answer.body[:at], answer.body[at:]]) == expected


def test_what_is_ignored_may_be_fed_all_the_same(answer, coding):
    body, observer = CODINGS[coding](answer.body), observer_of(answer, coding)
    for at in range(0, len(body), 20):
        observer.feed(body[at : at + 20])

    assert told(observer, []) == (answer.metadata, answer.usage_source, answer.error)


def test_events_that_tell_nothing_are_ignored_once_the_model_is_known():
    observer = observe("/v1/chat/completions", status=200, content_type=SSE, content_encoding=None)
    event = b'data: {"model":"gpt-4o","choices":[],"usage":null}\n\n'
    seen = [observer.ignores(event), observer.feed(event), observer.ignores(event + event)]

    assert seen == [False, None, True]
    assert not observer.ignores(event[:-1])
    assert not observer.ignores(event.replace(b"null", b'{"total_tokens":1}'))


def test_nothing_compressed_is_ignored_whatever_its_bytes_look_like():
    observer = observe("/v1/chat/completions", status=200, content_type=SSE, content_encoding="gzip")
    observer.feed(CODINGS["gzip"](b'data: {"model":"gpt-4o"}\n\n')[:-8])  # the checksum is still to come

    assert not observer.ignores(b"data: it is not\n\n")


@pytest.mark.parametrize(("content_type", "ignored"), [("audio/mpeg", True), (JSON, False)])
def test_all_of_a_body_that_is_not_looked_into_is_ignored(content_type, ignored):
    observer = observe("/v1/audio/speech", status=200, content_type=content_type, content_encoding=None)

    assert observer.ignores(b"{}") is ignored


def test_only_event_streams_are_streams(answer):
    assert observer_of(answer).is_stream is (answer.content_type == SSE)


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/mpeg",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
        "text/html",
        "application/jsonl",
    ],
)
def test_other_content_types_are_not_looked_into(content_type):
    assert told_of_json(bodies.CHAT.body, content_type=content_type) == (None, "absent", None)


@pytest.mark.parametrize(
    "content_type", ["Application/JSON", "application/json ; charset=UTF-8", "application/problem+json"]
)
def test_json_is_known_by_any_of_its_names(content_type):
    assert told_of_json(bodies.CHAT.body, content_type=content_type)[0] == bodies.CHAT.metadata


def test_a_coding_we_cannot_undo_is_not_looked_into():
    observer = observer_of(bodies.CHAT, "compress")

    assert told(observer, [bodies.CHAT.body]) == (None, "absent", None)


def test_a_body_that_is_not_in_the_coding_it_names_tells_nothing_and_raises_nothing(coding):
    if coding is not None:
        assert told(observer_of(bodies.CHAT, coding), [bodies.CHAT.body] * 3) == (None, "absent", None)


def test_finish_may_come_twice_and_bytes_after_it_change_nothing():
    observer = observer_of(bodies.CHAT)
    told(observer, [bodies.CHAT.body])

    observer.feed(bodies.COMPLETION.body)
    assert told(observer, [])[0] == bodies.CHAT.metadata


# What was seen before the end of a call that was cut.


def test_a_cut_body_tells_what_was_complete_in_it():
    body = bodies.CHAT.body
    cut = body[: body.index(b'"choices"')]

    metadata = {"model": "gpt-4.1-2025-04-14", "created": 1741569952}
    assert told_of_json(cut) == (metadata, "absent", None)


def test_a_cut_compressed_body_tells_what_arrived():
    compressor = zlib.compressobj(wbits=31)
    sent = compressor.compress(bodies.CHAT.body) + compressor.flush(zlib.Z_SYNC_FLUSH)

    assert told(observer_of(bodies.CHAT, "gzip"), [sent])[0] == bodies.CHAT.metadata


def test_a_damaged_checksum_does_not_take_back_what_was_read():
    body = bytearray(gzip.compress(bodies.CHAT.body))
    body[-8] ^= 1

    chunks = [bytes(body[:-8]), bytes(body[-8:])]
    assert told(observer_of(bodies.CHAT, "gzip"), chunks)[0] == bodies.CHAT.metadata


def test_a_stream_cut_between_events_keeps_what_was_seen():
    stream = bodies.CHAT_STREAM.body

    assert told_of_stream(stream[: stream.index(b"data: [DONE]")])[0] == bodies.CHAT_STREAM.metadata


def test_an_event_without_its_blank_line_never_happened():
    stream = bodies.CHAT_STREAM.body.removesuffix(b"\n\ndata: [DONE]\n\n")

    metadata = {"model": "gpt-4o-mini", "created": 1694268190}
    assert told_of_stream(stream) == (metadata, "absent", None)
    assert told_of_stream(stream + b"\n\n")[0] == bodies.CHAT_STREAM.metadata


# The last usage wins.


def test_the_last_usage_of_a_stream_wins_and_is_no_sum():
    first, last = ({"prompt_tokens": n, "total_tokens": n, "prompt_tokens_details": {"a": n}} for n in (5, 3))
    del last["prompt_tokens_details"]
    events = [b"data: %s\n\n" % json.dumps({"usage": value}).encode() for value in (first, last, None, {})]

    assert told_of_stream(*events) == ({"prompt_tokens": 3, "total_tokens": 3}, "reported", None)


# Traps.


@pytest.mark.parametrize(
    "document",
    [
        {"choices": [{"message": {"usage": {"prompt_tokens": 1}}}]},
        {"data": {"usage": {"prompt_tokens": 1}, "model": "m", "error": {"code": "x"}}},
        {"text": '"usage":{"prompt_tokens":1},"model":"m"'},
        {"text": '\\","usage":{"prompt_tokens":1},"model":"m","x":"'},
        {"usage": None, "model": None, "created": None, "error": None},
        {"usage": {}, "model": "", "error": {}},
        {"usage": [1], "model": ["m"], "created": "1", "error": ["code"]},
        {"usage": "prompt_tokens", "error": "code"},
        {"response": {"usage": {"prompt_tokens": 1}}},
        {"type": 5, "response": {"usage": {"prompt_tokens": 1}}},
    ],
)
def test_what_is_no_member_of_the_answer_is_not_taken(document):
    event = b"data: %s\n\n" % json.dumps(document).encode()
    spaced = b"data:%s\n\n" % json.dumps(document, indent=1).encode().replace(b"\n", b"\ndata:")

    assert told_of_json(document) == (None, "absent", None)
    assert told_of_stream(event) == (None, "absent", None)
    assert told_of_stream(b": hi\n\n", spaced) == (None, "absent", None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[1]", b"null", b"5", b'"usage"', b"{}", b"{", b"nonsense", b"\xff\xfe{"]
)
def test_a_body_without_an_object_tells_nothing(body):
    assert told_of_json(body) == (None, "absent", None)


@pytest.mark.parametrize("count", [True, -1, -0.5, 2**53 + 1, "7", None, [7], 10**30, 1e300])
def test_a_count_that_is_no_count_is_left_out(count):
    metadata, _, _ = told_of_json({"usage": {"prompt_tokens": count, "total_tokens": 7}})

    assert metadata == {"total_tokens": 7}


@pytest.mark.parametrize("count", [0, 2**53])
def test_the_smallest_and_the_largest_count_are_taken(count):
    assert told_of_json({"usage": {"prompt_tokens": count}}) == ({"prompt_tokens": count}, "reported", None)


def test_absent_counts_stay_absent_and_are_never_zero():
    assert told_of_json({"usage": {"total_tokens": 7}})[0] == {"total_tokens": 7}


def test_details_are_counts_under_plain_names():
    deeper = {"a": 1, "cost": 0.5, "further": {"b": 1}}
    details = {"cached_tokens": 1, "cost": 0.5, "Not A Name": 1, "nested": deeper, "empty": {}, "flag": True}

    metadata, _, _ = told_of_json({"usage": {"prompt_tokens": 1, "prompt_tokens_details": details}})
    assert metadata["prompt_tokens_details"] == {"cached_tokens": 1, "nested": {"a": 1}}


def test_details_are_few():
    details = {f"kind_{number}": number for number in range(100)}

    metadata, _, _ = told_of_json({"usage": {"prompt_tokens": 1, "prompt_tokens_details": details}})
    assert len(metadata["prompt_tokens_details"]) == 16


@pytest.mark.parametrize("model", ["", "m" * 201, "a\nb", "a\x00b", "a\u0085b", 5, None, ["m"]])
def test_a_model_that_is_no_name_is_left_out(model):
    assert told_of_json({"model": model})[0] is None


@pytest.mark.parametrize("model", ["m" * 200, "ft:gpt-4o-mini-2024-07-18:acme::AbC123xy", "org/Modèle 1"])
def test_a_model_is_taken_as_it_was_sent(model):
    assert told_of_json({"model": model})[0] == {"model": model}


@pytest.mark.parametrize("seconds", [0, 9, 8.47])
def test_transcriptions_by_duration_are_told_in_seconds(seconds):
    assert told_of_json({"usage": {"type": "duration", "seconds": seconds}})[0] == {"seconds": seconds}


@pytest.mark.parametrize("seconds", [-1, True, "9", 1e300])
def test_seconds_that_are_no_duration_are_left_out(seconds):
    assert told_of_json({"usage": {"type": "duration", "seconds": seconds}})[0] is None


def test_a_first_event_without_a_model_does_not_hide_the_one_that_has_it():
    first = b'data: {"choices":[],"created":0,"id":"","model":"","prompt_filter_results":[]}\n\n'

    assert told_of_stream(first, bodies.CHAT_STREAM.body)[0] == bodies.CHAT_STREAM.metadata


@pytest.mark.parametrize(
    ("usage_member", "counts"),
    [
        (b'"usage":\ndata: {"total_tokens":5}', {"total_tokens": 5}),
        (b'"usage"\ndata\ndata::\t{"total_tokens":5}', {"total_tokens": 5}),
        (b'"usage" :\ndata:\tnull', {}),
        (b'"usage" : nullify', {}),
    ],
)
def test_a_value_on_a_line_of_its_own_is_read_as_on_the_same_line(usage_member, counts):
    event = b"data: {" + usage_member + b"}\n\n"

    assert told_of_stream(b'data: {"model":"m"}\n\n', event)[0] == {**counts, "model": "m"}


def test_an_event_that_is_no_json_is_passed_over():
    broken = b'data: {"usage":{"total_tokens":1}\n\n'

    assert told_of_stream(broken, bodies.CHAT_STREAM.body, broken)[0] == bodies.CHAT_STREAM.metadata


# Errors.


@pytest.mark.parametrize(
    "code",
    [
        "invalid_api_key",
        "rate_limit_exceeded",
        "invalid_base64_image",
        "context_length_exceeded",
        "unsupported_country_region_territory",
        "BadRequestError",
        "content-filter.blocked",
        "E1234",
        "429",
    ],
)
def test_the_code_of_an_error_is_told(code):
    assert told_of_json({"error": {"code": code, "type": None}}, status=400)[2] == {"code": code, "type": None}


def test_a_code_that_is_a_number_is_told_as_text():
    assert told_of_json({"error": {"code": 400, "type": "bad_request"}})[2] == {"code": "400", "type": "bad_request"}


SECRETS = [
    "sk-proj-Zq3vX9bT1mK7",
    "sk-abcdefghijklmnop",
    "sk_live_abcdefgh",
    "sess-abcdef",
    "Bearer abcdefg",
    "Bearer.abcdefg",
    "550e8400-e29b-41d4-a716-446655440000",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "Zq3vX9bT1mK7wR5yP2",
    "QWxhZGRpbjpvcGVuIHNlc2FtZQ",
    "a" * 65,
    "call 555 0100",
    "two\nlines",
    "",
    "12345678901234",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_may_be_a_secret_is_never_told(secret):
    error = {"message": secret, "code": secret, "type": secret, "param": secret}
    flat = {"type": "error", "code": secret, "message": secret}

    assert told_of_json({"error": error}, status=401) == (None, "absent", None)
    assert told_of_json({"error": {**error, "type": "server_error"}})[2] == {"code": None, "type": "server_error"}
    assert told_of_stream(b"data: %s\n\n" % json.dumps(flat).encode())[2] == {"code": None, "type": "error"}


@given(st.uuids())
def test_no_uuid_is_ever_told(uuid):
    assert told_of_json({"error": {"code": str(uuid), "type": uuid.hex}})[2] is None


@given(st.binary(min_size=18, max_size=40))
def test_no_random_key_is_ever_told(noise):
    key = base64.b32encode(noise).decode()

    assert told_of_json({"error": {"code": key, "type": "sk-" + key}})[2] is None


# What a reader more forgiving than ours takes.

TOLD = b'"usage":{"prompt_tokens":20,"completion_tokens":9,"total_tokens":29}'


@pytest.mark.parametrize(
    "odd",
    [
        rb'"text":"cut \ud83d"',
        rb'"\udc00":1',
        b'"text":"\xff\xfe"',
        b'"score":NaN',
        b'"score":[Infinity,-Infinity]',
        b'"text":"tab\tand\x01"',
        b'"number":' + b"9" * 400,
        b'"number":' + b"9" * 5000,
        b'"numbers":[NaN,-' + b"9" * 5000 + b"]",
        b'"deep":' + b"[" * 2000 + b"]" * 2000,
        b'"deeper":' + b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_an_oddity_beside_the_usage_takes_nothing_along(odd):
    document = b'{"model":"m",' + odd + b"," + TOLD + b"}"
    expected = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29, "model": "m"}

    assert told_of_json(document)[0] == expected
    assert told_of_stream(b"data: " + document + b"\n\n")[0] == expected


def test_an_oddity_within_the_usage_is_left_out_alone():
    document = b'{"usage":{"total_tokens":29,"cost":NaN,"note":"\\ud83d"}}'

    assert told_of_json(document)[0] == {"total_tokens": 29}
    assert told_of_json(document + b" " * usage.MAX_BUFFERED_BODY_BYTES)[0] == {"total_tokens": 29}


@pytest.mark.parametrize(
    ("counts", "source"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 9}, "reported"),
        ({"prompt_tokens": 20}, "reported"),
        ({"prompt_tokens": 20, "completion_tokens": None}, "reported"),
        ({"prompt_tokens": 20, "completion_tokens": "nine"}, "partial"),
        ({"prompt_tokens": -1, "completion_tokens": 9}, "partial"),
        ({"input_tokens": [], "total_tokens": 9}, "partial"),
        ({"prompt_tokens": None, "completion_tokens": 9}, "partial"),
        ({"output_tokens": 9}, "partial"),
        ({"output_tokens": 9, "total_tokens": 29}, "reported"),
        ({"completion_tokens": 0}, "reported"),
        ({"prompt_tokens": "20", "completion_tokens": "9"}, "absent"),
    ],
)
def test_a_count_that_cannot_be_read_is_told(counts, source):
    assert told_of_json({"usage": counts})[1] == source


@pytest.mark.parametrize(("count", "whole"), [(11.0, 11), (11.2, 12), (0.0, 0), (1e3, 1000)])
def test_counts_are_the_whole_numbers_that_they_mean(count, whole):
    details = {"prompt_tokens_details": {"cached_tokens": count}}

    metadata, _, _ = told_of_json({"usage": {"prompt_tokens": count} | details})
    assert metadata == {"prompt_tokens": whole, "prompt_tokens_details": {"cached_tokens": whole}}


@pytest.mark.parametrize(
    "cached",
    [
        {"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6},
        {"cached_tokens": 4},
        {"cached_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}},
    ],
)
def test_cached_tokens_are_known_by_all_their_names(cached):
    metadata, _, _ = told_of_json({"usage": {"prompt_tokens": 10} | cached})

    assert metadata == {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}


def _message_stream(**start):
    """The events of an Anthropic stream up to its text, and that which ends it."""
    message = {"id": "msg_1", "type": "message", "model": "claude-sonnet-4-5", "usage": {"output_tokens": 1} | start}
    events = (
        ("message_start", {"type": "message_start", "message": message}),
        ("content_block_delta", {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}}),
        ("message_delta", {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}}),
    )
    return [f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in events]


def test_an_anthropic_stream_tells_what_was_read_first_and_what_was_written_last():
    *begin, end = _message_stream(input_tokens=25)

    whole = {"prompt_tokens": 25, "completion_tokens": 15, "model": "claude-sonnet-4-5"}
    assert told_of_stream(*begin, end) == (whole, "reported", None)
    cut = {"prompt_tokens": 25, "model": "claude-sonnet-4-5"}
    assert told_of_stream(*begin) == (cut, "partial", None)


def test_tokens_of_anthropics_cache_are_the_prompts_once():
    cache = {"cache_read_input_tokens": 7, "cache_creation_input_tokens": 3}
    prompt = {"prompt_tokens": 35, "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 3}}

    assert told_of_json({"usage": {"input_tokens": 25} | cache})[0] == prompt
    assert told_of_stream(*_message_stream(input_tokens=25, **cache))[0] == (
        prompt | {"completion_tokens": 15, "model": "claude-sonnet-4-5"}
    )
    beside = told_of_json({"usage": {"prompt_tokens": 35, "input_tokens": 35} | cache})[0]
    assert beside["prompt_tokens"] == 35


@pytest.mark.parametrize(
    "endpoint", ["/v1/audio/transcriptions", "/v1/audio/translations/", "/v1/%61udio/translations"]
)
def test_a_transcription_that_tells_its_duration_is_told_in_seconds(endpoint):
    body = {"task": "transcribe", "duration": 8.47, "text": "hello"}

    assert told_of_json(body, endpoint=endpoint) == ({"seconds": 8.47}, "reported", None)
    assert told_of_json(body, endpoint="/v1/chat/completions") == (None, "absent", None)


# Labels.


@pytest.mark.parametrize("content_type", [JSON, SSE, "text/plain", "text/plain; charset=utf-8", "", None])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n\n", b"\xef\xbb\xbf \r\n"])
@pytest.mark.parametrize("answer", [bodies.CHAT, bodies.CHAT_STREAM], ids=["json", "sse"])
def test_a_body_is_read_as_what_it_is_whatever_it_is_called(answer, before, content_type):
    for size in (1, 2, 5, 10_000):
        observer = observe("/v1/x", status=200, content_type=content_type, content_encoding=None)
        body = before + answer.body
        metadata, _, _ = told(observer, [body[at : at + size] for at in range(0, len(body), size)])

        assert (metadata, observer.is_stream) == (answer.metadata, answer is bodies.CHAT_STREAM)


@pytest.mark.parametrize(
    "content_type", ["text/html", "application/octet-stream", "application/x-ndjson", "text/json"]
)
def test_a_stream_is_read_whatever_it_is_called(content_type):
    observer = observe("/v1/x", status=200, content_type=content_type, content_encoding=None)

    assert told(observer, [bodies.CHAT_STREAM.body])[0] == bodies.CHAT_STREAM.metadata


def test_text_that_is_neither_is_passed_over():
    text = b"A data: \n\ndata: {}" + bodies.CHAT_STREAM.body

    assert told_of_json(text, content_type="text/plain") == (None, "absent", None)


# Errors amid what went well.


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"error": {"message": "boom"}}, None),
        ({"error": "boom"}, None),
        ({"error": ["boom"]}, None),
        ({"x_groq": {"error": "over_capacity"}}, None),
        ({"type": "error", "code": "server_error", "message": "boom"}, {"code": "server_error", "type": "error"}),
        ({"type": "response.failed", "response": {"status": "failed", "error": None}}, None),
        ({"choices": [{"finish_reason": "error", "delta": {}}]}, None),
        ({"choices": [{"finish_reason": "stop"}, {"index": 1, "finish_reason": "error"}]}, None),
    ],
)
def test_an_event_that_says_so_is_a_failure(event, error):
    observer = observe("/v1/x", status=200, content_type=SSE, content_encoding=None)
    told(observer, [b'data: {"model":"m"}\n\n', b"data: %s\n\n" % json.dumps(event).encode()])

    assert (observer.facts.has_failed, observer.facts.error) == (True, error)


@pytest.mark.parametrize("endpoint", ["/v1/threads/t/runs", "/v1/chat/completions"])
@pytest.mark.parametrize("name", [b"event: error\n", b"id: 1\r\nevent:error\r\n"])
def test_an_event_that_is_called_an_error_is_a_failure(endpoint, name):
    observer = observe(endpoint, status=200, content_type=SSE, content_encoding=None)
    flat = name + b'data: {"code":"server_error","message":"boom"}\n\n'
    told(observer, [b'data: {"model":"m"}\n\n', flat])

    assert (observer.facts.has_failed, observer.facts.error) == (True, {"code": "server_error", "type": None})


@pytest.mark.parametrize("data", [b"Bad Gateway", b"", b"{}", b"null"])
def test_an_error_need_not_be_json(data):
    observer = observe("/v1/chat/completions", status=200, content_type=SSE, content_encoding=None)
    told(observer, [b'data: {"model":"m"}\n\n', b"event: error\ndata: " + data + b"\n\n"])

    assert observer.facts.has_failed


@pytest.mark.parametrize("event", [b"event: error_rate\ndata: {}\n\n", b'data: {"text":"event: error\\n"}\n\n'])
def test_what_only_has_the_word_is_no_failure(event):
    observer = observe("/v1/chat/completions", status=200, content_type=SSE, content_encoding=None)
    told(observer, [b'data: {"model":"m"}\n\n', event])

    assert not observer.facts.has_failed


def test_the_error_of_an_object_that_is_read_is_no_failure_of_reading():
    failed = {"id": "resp_1", "object": "response", "status": "failed", "error": {"code": "server_error"}}
    for method, endpoint, expected in (("GET", "/v1/responses/resp_1", False), ("POST", "/v1/responses", True)):
        observer = observe(endpoint, method=method, status=200, content_type=JSON, content_encoding=None)
        told(observer, [json.dumps(failed).encode()])

        assert observer.facts.has_failed is expected


def test_the_error_of_a_surface_without_usage_is_seen_only_when_it_failed():
    assert told_of_json({"error": {"code": "x"}}, endpoint="/v1/files/file-1", status=200)[2] is None
    assert told_of_json({"error": {"code": "x"}}, endpoint="/v1/files/file-1", status=404)[2] is not None


# Size.


def peak_bytes_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def completed_event_of(size: int) -> bytes:
    return bodies.response_event(
        b"response.completed",
        b'"response":'
        + (bodies.RESPONSE_SHAPE % (b"completed", b"null", bodies.RESPONSE_USAGE)).replace(
            b'"text":"', b'"text":"' + b'\\"usage\\":{ \xc3\xbc\\n' * (size // 16)
        ),
    )


@pytest.mark.parametrize("read_bytes", [1021, 65536, 20_000_000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_an_event_of_ten_megabytes_is_read_and_the_ones_around_it_too(read_bytes, line_end):
    failed = b'data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n'
    stream = (bodies.RESPONSES_STREAM_ERROR.body + completed_event_of(10_000_000) + failed).replace(b"\n", line_end)

    chunks = [stream[begin : begin + read_bytes] for begin in range(0, len(stream), read_bytes)]
    metadata, _, error = told_of_stream(*chunks)

    assert metadata == bodies.RESPONSES_STREAM.metadata
    assert error == {"code": "server_error", "type": None}


def test_an_event_of_ten_megabytes_needs_little_memory():
    stream = completed_event_of(10_000_000)
    chunks = [stream[begin : begin + 65536] for begin in range(0, len(stream), 65536)]

    assert peak_bytes_of(lambda: told_of_stream(*chunks)) < A_MEGABYTE


def test_a_body_of_twenty_megabytes_is_read_in_little_memory():
    body = bodies.IMAGES.body.replace(b"iVBORw0KGgo", b"iVBORw0KGgo+/" * 1_600_000)
    chunks = [body[begin : begin + 65536] for begin in range(0, len(body), 65536)]
    observer = observer_of(bodies.IMAGES)

    assert peak_bytes_of(lambda: told(observer, chunks)) < 1_000_000
    assert observer.facts.metadata() == bodies.IMAGES.metadata


@pytest.mark.parametrize("name", ["gzip", "zstd", "br"])
@pytest.mark.parametrize("answer", [bodies.CHAT, bodies.CHAT_STREAM], ids=["json", "sse"])
def test_a_bomb_is_survived_in_little_memory(name, answer):
    bomb = CODINGS[name](answer.body + b" " * 100_000_000)
    observer = observer_of(answer, name)

    assert peak_bytes_of(lambda: told(observer, [bomb])) < A_MEGABYTE
    assert observer.facts.metadata() == answer.metadata


@given(
    st.lists(st.sampled_from(ANSWERS), max_size=3), st.binary(max_size=40), st.lists(st.integers(0, 3000), max_size=6)
)
def test_no_bytes_make_the_observer_raise(answers, noise, positions):
    body = noise.join([b"", *(answer.body for answer in answers), b""])
    edges = [0, *sorted(min(position, len(body)) for position in positions), len(body)]
    chunks = [body[begin:end] for begin, end in pairwise(edges)]

    for content_type in (JSON, SSE):
        for coding in CODINGS:
            observer = observe("/v1/x", status=200, content_type=content_type, content_encoding=coding)
            told(observer, chunks)
