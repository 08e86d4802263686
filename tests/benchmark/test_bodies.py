"""The bodies of requests."""

import json
import random
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from benchmark.bodies import Variety, bodies_of, payload_of
from benchmark.prompts import Length, parse_length, read_prompts
from benchmark.refused import Refused


def one_body(payload: bytes, endpoint: str, *, stream: bool) -> bytes:
    [body] = bodies_of(payload, endpoint, stream=stream)
    return body


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]", b"NaN", b'"text"', b"\xff"])
def test_a_payload_that_is_no_json_object_is_refused(payload):
    with pytest.raises(Refused, match="--payload"):
        one_body(payload, "/v1/chat/completions", stream=False)


def test_a_payload_is_sent_as_it_stands():
    assert one_body(b'{ "a":1.0 }', "/v1/anything", stream=False) == b'{ "a":1.0 }'


def test_streaming_is_added_to_a_payload_unless_that_says_otherwise():
    assert json.loads(one_body(b'{"a": 1}', "/v1/x", stream=True)) == {"a": 1, "stream": True}
    assert one_body(b'{ "stream" : true }', "/v1/x", stream=True) == b'{ "stream" : true }'
    with pytest.raises(Refused, match="--stream"):
        one_body(b'{"stream": false}', "/v1/x", stream=True)


@pytest.mark.parametrize(
    ("endpoint", "payload", "options"),
    [
        ("/v1/chat/completions", b"{}", {"include_usage": True}),
        ("/v1/completions?x=1", b"{}", {"include_usage": True}),
        ("/openai/deployments/x/chat/completions", b'{"stream_options": null}', {"include_usage": True}),
        ("/v1/chat/completions", b'{"stream_options": {"a": 1}}', {"include_usage": True, "a": 1}),
        ("/v1/chat/completions", b'{"stream_options": {"include_usage": false}}', {"include_usage": False}),
        ("/v1/responses", b"{}", None),
    ],
)
def test_a_stream_that_tells_its_usage_on_demand_is_asked_for_it(endpoint, payload, options):
    assert json.loads(one_body(payload, endpoint, stream=True)).get("stream_options") == options


def test_a_stream_that_was_asked_for_its_usage_is_sent_as_it_stands():
    payload = b'{ "stream" : true, "stream_options": {"include_usage":true} }'

    assert one_body(payload, "/v1/chat/completions", stream=True) == payload


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/v1/embeddings?x=1", "input")],
)
def test_known_endpoints_have_a_payload_of_their_kind(endpoint, field):
    assert field in json.loads(payload_of(None, endpoint, "POST"))


def test_an_unknown_endpoint_wants_a_payload():
    with pytest.raises(Refused, match="--payload"):
        payload_of(None, "/v1/audio/speech", "POST")


def test_a_payload_comes_from_a_file(tmp_path):
    (tmp_path / "payload").write_bytes(b'{"a": 1}')

    assert payload_of(f"@{tmp_path}/payload", "/v1/x", "POST") == b'{"a": 1}'
    with pytest.raises(Refused, match="No such file"):
        payload_of(f"@{tmp_path}/missing", "/v1/x", "POST")


def test_only_a_post_has_a_body_of_its_own():
    assert payload_of(None, "/v1/chat/completions", "GET") is None
    assert bodies_of(None, "/v1/models", stream=False) == (b"",)
    assert payload_of('{"a": 1}', "/v1/x", "PATCH") == b'{"a": 1}'
    with pytest.raises(Refused, match="no payload to put"):
        bodies_of(None, "/v1/models", stream=False, variety=Variety(asked=Length(5)))


def asked(payload: str, variety: Variety, endpoint: str = "/v1/chat/completions") -> list[dict]:
    return [json.loads(body) for body in bodies_of(payload.encode(), endpoint, stream=False, variety=variety)]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('{"messages": []}', {"messages": [{"role": "user", "content": "Hi"}]}),
        (
            '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}',
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        ),
        ('{"model": "m", "input": "Hello"}', {"model": "m", "input": "Hi"}),
        ('{"model": "m", "prompt": "Hello"}', {"model": "m", "prompt": "Hi"}),
    ],
)
def test_a_prompt_takes_the_place_of_what_the_payload_asks(payload, expected):
    assert asked(payload, Variety(prompts=["Hi"])) == [expected]


def test_a_payload_without_a_place_for_a_prompt_is_refused():
    with pytest.raises(Refused, match="no messages, input or prompt"):
        asked('{"file": "x"}', Variety(prompts=["Hi"]))


def test_fields_of_a_prompt_are_laid_over_the_payload():
    prompts = [{"model": "other"}, {"messages": [], "n": 2}]

    assert asked('{"model": "m", "messages": [1]}', Variety(prompts=prompts)) == [
        {"model": "other", "messages": [1]},
        {"model": "m", "messages": [], "n": 2},
    ]


def test_a_prompt_that_is_no_stream_contradicts_stream():
    with pytest.raises(Refused, match="--stream"):
        bodies_of(b"{}", "/v1/x", stream=True, variety=Variety(prompts=[{}, {"stream": False}]))


@pytest.mark.parametrize(
    ("payload", "endpoint", "field"),
    [
        ('{"messages": []}', "/v1/chat/completions", "max_tokens"),
        ('{"messages": [], "max_completion_tokens": 9}', "/v1/chat/completions", "max_completion_tokens"),
        ('{"input": "x"}', "/v1/responses", "max_output_tokens"),
        ('{"prompt": "x"}', "/v1/completions", "max_tokens"),
    ],
)
def test_the_length_of_an_answer_goes_by_the_name_that_the_payload_or_the_endpoint_has_for_it(
    payload, endpoint, field
):
    assert asked(payload, Variety(answered=Length(256)), endpoint) == [json.loads(payload) | {field: 256}]


def test_made_up_prompts_have_about_so_many_words_no_two_the_same_and_the_same_again_with_the_same_seed():
    variety = Variety(asked=Length(512, 128), answered=Length(256, 64), needed=200)
    first, again = asked('{"prompt": ""}', variety), asked('{"prompt": ""}', variety)
    lengths = [len(one["prompt"].split()) for one in first]

    assert first == again != asked('{"prompt": ""}', replace(variety, seed=2))
    assert len({one["prompt"] for one in first}) == 200
    assert 480 < fmean(lengths) < 544 and 100 < stdev(lengths) < 156
    assert 240 < fmean(one["max_tokens"] for one in first) < 272


@pytest.mark.parametrize(
    ("asked", "needed", "count"),
    [(Length(10), 40, 40), (Length(10), 5000, 1000), (Length(10), None, 1000), (Length(100_000), None, 111)],
)
def test_no_more_is_made_up_than_is_needed_or_fits(asked, needed, count):
    assert Variety(asked=asked, needed=needed).count == count


@pytest.mark.parametrize(
    ("text", "length"),
    [("512", Length(512)), ("512±128", Length(512, 128)), ("512 +- 128", Length(512, 128)), ("1+/-0", Length(1))],
)
def test_a_length_is_a_mean_and_a_deviation(text, length):
    assert parse_length(text, "--input-tokens") == length


@pytest.mark.parametrize("text", ["", "0", "-5", "512-128", "1.5", "five", "512±", "99999999"])
def test_what_is_no_length_is_refused(text):
    with pytest.raises(Refused, match="--input-tokens is a number of tokens"):
        parse_length(text, "--input-tokens")


def test_a_length_is_never_less_than_one_token():
    dice = random.Random(1)

    assert min(Length(1, 50).draw(dice) for _ in range(200)) == 1


def test_prompts_are_texts_or_fields_one_on_each_line(tmp_path):
    lines = [
        '"as a string"',
        "",
        '{"prompt": "as a prompt"}',
        '{"text": "as a text"}',
        '{"prompt": "x", "n": 2}',
        '{"prompt": [5]}',
    ]
    (tmp_path / "prompts.jsonl").write_text("\r\n".join(lines) + "\n")

    assert read_prompts(str(tmp_path / "prompts.jsonl")) == [
        "as a string",
        "as a prompt",
        "as a text",
        {"prompt": "x", "n": 2},
        {"prompt": [5]},
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('"a"\n{nope\n', "line 2 is not JSON"),
        ("[1]", "line 1 is neither a text nor an object"),
        ('"a"\n5', "line 2 is neither"),
        ("\n\n", "holds no prompt"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_line(tmp_path, text, complaint):
    (tmp_path / "prompts.jsonl").write_text(text)

    with pytest.raises(Refused, match=complaint):
        read_prompts(str(tmp_path / "prompts.jsonl"))
