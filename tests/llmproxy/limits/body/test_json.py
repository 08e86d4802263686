"""JSON bodies: both readers see what any reader sees, or refuse."""

import json
import random
from itertools import pairwise

import orjson
import pytest

from llmproxy.errors import AmbiguousBody
from llmproxy.limits.body import reading
from llmproxy.limits.body.held import MOST_HELD_BYTES, MOST_HELD_VALUES, can_be_held, read_held
from llmproxy.limits.body.reading import WATCHED, is_misleading, names_models
from llmproxy.limits.body.scanner import KEPT_CHARS, MOST_DEPTH, MOST_STEPS, MOST_VALUES, PIECE, scan
from llmproxy.limits.judge import tool_types

OK = b'"gpt-4o-mini"'


def scanned(body):
    return scan([body])


readers = pytest.mark.parametrize("read", [read_held, scanned], ids=["held", "scanned"])


def body_of(document, **layout):
    return json.dumps(document, **layout).encode()


CHAT = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": 'say "model": "gpt-5" \\ and é'}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"model": {"type": "string"}}}}],
    "max_tokens": 5,
    "metadata": {"model": "mine"},
}


@readers
def test_a_chat_names_its_model_and_its_members(read):
    reading = read(body_of(CHAT))

    assert reading.model == "gpt-4o-mini"
    assert reading.models == {"gpt-4o-mini"}
    assert reading.members["max_tokens"] == 5
    assert reading.members["tools"][0]["type"] == "function"
    assert reading.size == len(body_of(CHAT))


@readers
@pytest.mark.parametrize("name", ["messages", "input", "prompt", "instructions", "items", "metadata"])
def test_what_is_said_to_the_model_is_no_member(read, name):
    reading = read(body_of({name: {"model": "x"}, "n": 1}))

    assert reading.members == {"n": 1}
    assert reading.models == frozenset()


# Each puts another model beside an allowed one. The list is the issue's, without what only HTTP can do.
HIDING = {
    "second member": b'{"model":%b,"model":"gpt-5"}',
    "first member": b'{"model":"gpt-5","model":%b}',
    "three": b'{"model":%b,"model":%b,"model":%b}',
    "escaped name before": b'{"\\u006dodel":"gpt-5","model":%b}',
    "escaped name behind": b'{"model":%b,"mode\\u006C":"gpt-5"}',
    "name in capitals": b'{"model":%b,"Model":"gpt-5"}',
    "name in capitals alone": b'{"MODEL":%b}',
    "name with a space": b'{"model":%b,"model ":"gpt-5"}',
    "name with a NUL": b'{"model":%b,"model\\u0000x":"gpt-5"}',
    "byte order mark": b'\xef\xbb\xbf{"model":%b}',
    "trailing text": b'{"model":%b} {"model":"gpt-5"}',
    "trailing comma": b'{"model":%b,}',
    "trailing NUL": b'{"model":%b}\x00',
    "a list of bodies": b'[{"model":%b}]',
    "a list of models": b'{"model":[%b]}',
    "an object as model": b'{"model":{"id":%b}}',
    "a number as model": b'{"model":5,"x":%b}',
    "nothing as model": b'{"model":null,"x":%b}',
    "a list of models inside": b'{"model":%b,"session":{"model":["gpt-5"]}}',
    "not a number": b'{"model":%b,"temperature":NaN}',
    "infinity": b'{"model":%b,"temperature":-Infinity}',
    "a comment": b'{"model":%b/*,*/}',
    "a comment with a quote": b'{"a":[/*"*/],"model":"gpt-5","b":[/*"*/],"model":%b}',
    "single quotes": b"{'model':%b}",
    "no quotes": b"{model:%b}",
    "bad UTF-8": b'{"model":%b,"user":"\xff"}',
    "cut UTF-8": b'{"model":%b}\xc3',
    "overlong UTF-8": b'{"model":%b,"user":"\xc0\xa2"}',
    "encoded surrogate": b'{"model":%b,"user":"\xed\xa0\x80"}',
    "line feed in a text": b'{"model":%b,"user":"a\nb"}',
    "unknown escape": b'{"model":%b,"user":"\\x41"}',
    "escape of three digits": b'{"model":%b,"user":"\\u041"}',
    "no end": b'{"model":%b',
    "no colon": b'{"model" %b}',
    "two colons": b'{"model"::%b}',
    "no comma": b'{"model":%b "n":1}',
    "wrong bracket": b'{"model":%b]',
    "leading zero": b'{"model":%b,"n":01}',
    "plus sign": b'{"model":%b,"n":+1}',
    "no fraction": b'{"model":%b,"n":1.}',
    "hexadecimal": b'{"model":%b,"n":0x1}',
    "literal in capitals": b'{"model":%b,"stream":True}',
    "vertical tab": b'{"model":%b}\x0b',
    "no-break space": b'{"model":%b}\xc2\xa0',
    "doubled inside": b'{"model":%b,"session":{"model":"gpt-5","model":%b}}',
    "doubled around": b'{"session":{"model":"gpt-5"},"session":{"model":%b}}',
    "doubled around unknown": b'{"x":{"model":"gpt-5"},"x":{"model":%b}}',
    "doubled around and then nothing": b'{"model":%b,"x":{"model":"gpt-5"},"x":1}',
    "doubled list": b'{"tools":[{"model":"gpt-5"}],"tools":[{"model":%b}]}',
    "doubled limit": b'{"model":%b,"max_tokens":5,"max_tokens":50000}',
    "limit in capitals": b'{"model":%b,"Max_Tokens":50000}',
    "limit with a long s": b'{"model":%b,"max_token\xc5\xbf":50000}',
    "limit with a Kelvin sign": b'{"model":%b,"max_to\xe2\x84\xaaens":50000}',
    "name with a ligature": b'{"model":%b,"reasoning_e\xef\xac\x80ort":"high"}',
    "two types of a tool": b'{"model":%b,"tools":[{"type":"web_search","type":"function"}]}',
    "empty": b"",
    "space": b"  ",
    "a text": b"%b",
    "a number": b"5",
}


@readers
@pytest.mark.parametrize("template", HIDING.values(), ids=HIDING)
def test_what_another_reader_may_read_otherwise_is_refused(read, template):
    with pytest.raises(AmbiguousBody):
        read(template.replace(b"%b", OK))


@readers
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_only_utf_8_is_read(read, encoding):
    body = '{"model":"gpt-4o-mini","user":"é"}'.encode(encoding)

    with pytest.raises(AmbiguousBody):
        read(body)


# What is odd, and yet read by all in one way.
ODD = {
    "an escaped name": b'{"\\u006dodel":"gpt-4o-mini"}',
    "an escaped value": b'{"model":"gpt-4o-min\\u0069"}',
    "half a pair of surrogates": b'{"model":"gpt-4o-mini","messages":"\\ud83d"}',
    "a quote as an escape": b'{"model":"gpt-4o-mini","messages":"\\u0022model\\u0022:"}',
    "spaces": b'\r\n\t {"model"\t:\n"gpt-4o-mini" } \r\n',
    "names twice that nobody looks at": b'{"model":"gpt-4o-mini","user":"a","user":"b"}',
    "names twice in a message": b'{"model":"gpt-4o-mini","messages":[{"model":"a","model":"b"}]}',
    "names twice in a schema": b'{"model":"gpt-4o-mini","tools":[{"parameters":{"model":"a","model":"b"}}]}',
    "a deep message": b'{"model":"gpt-4o-mini","messages":' + b"[" * 900 + b"]" * 900 + b"}",
    "a huge number": b'{"model":"gpt-4o-mini","seed":1e999}',
    "a long number": b'{"model":"gpt-4o-mini","seed":' + b"9" * 900 + b"}",
    "a solidus": b'{"model":"gpt-4o-mini","user":"a\\/b"}',
}


@readers
@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_what_is_only_odd_is_read(read, body):
    assert read(body).models == {"gpt-4o-mini"}


PLACES = {
    "session": {"session": {"model": "m"}},
    "transcription": {"session": {"audio": {"input": {"transcription": {"model": "m"}}}}},
    "old transcription": {"input_audio_transcription": {"model": "m"}},
    "tool": {"tools": [{"type": "image_generation", "model": "m"}]},
    "moderation": {"moderation": {"model": "m"}},
    "grader": {"method": {"reinforcement": {"grader": {"type": "score_model", "model": "m"}}}},
    "criteria": {"testing_criteria": [{"type": "label_model", "model": "m"}]},
    "eval run": {"data_source": {"type": "completions", "model": "m", "sampling_params": {}}},
    "unknown": {"x": [[{"y": {"model": "m"}}]]},
    "in a response": {"response": {"model": "m"}},
    "a list": {"models": ["m", "m"]},
    "a list inside": {"plugins": [{"allowed_models": ["m"]}]},
    "fallbacks": {"fallbacks": ["m", {"model": "m", "messages": [{"role": "user", "content": "x"}]}]},
    "fallbacks by model": {"x": {"contextWindowFallbacks": [{"m": ["m"]}]}},
    "fallbacks among graders, where no name is free": {"fallbacks": {"graders": {"metadata": {"x": "m"}}}},
    "a model of another name": {"safety_model": "m"},
    "beside an object of that name": {"session": {"model": {"model": "m"}}},
    "under a schema's name that is outermost": {"schema": {"model": "m"}},
}


@readers
@pytest.mark.parametrize("document", PLACES.values(), ids=PLACES)
def test_a_model_is_found_wherever_it_may_stand(read, document):
    assert read(body_of(document)).models == {"m"}
    assert read(body_of({"model": "n", **document})).models == {"m", "n"}


# Where OpenAI lets callers name what they like.
FREE_PLACES = {
    "a session's metadata": {"session": {"tracing": {"metadata": {"model": "x", "Type": "y", "tools": ["z"]}}}},
    "a message's metadata": {"thread": {"messages": [{"metadata": {"model": "x"}}]}},
    "attributes of a file": {"attributes": {"model": "x", "Model": 5}},
    "attributes of files": {"files": [{"file_id": "f", "attributes": {"model": 5}}]},
    "headers of an MCP server": {"tools": [{"type": "mcp", "headers": {"model": "x"}}]},
    "variables of a prompt": {"session": {"prompt": {"id": "p", "variables": {"model": "x"}}}},
    "variables of a workflow": {"workflow": {"id": "w", "state_variables": {"model": "x"}}},
    "what a tool gives back": {"tools": [{"type": "function", "output_schema": {"properties": {"model": {}}}}]},
    "a tool's arguments": {"response": {"input": [{"type": "mcp_call", "arguments": {"model": "x"}}]}},
    "a sample to grade": {"item": {"model": "x", "Model": ["y"]}},
    "items of a conversation": {"items": [{"type": "message", "content": [{"model": "x"}]}]},
    "a row of an eval's data": {"data_source": {"source": {"content": [{"item": {"model": 5}}]}}},
    "a sample of an eval": {"data_source": {"source": {"content": [{"sample": {"model": []}}]}}},
    "an item's environment": {"input": [{"type": "shell_call", "action": {"env": {"model": "x", "tools": "y"}}}]},
    "what a server has listed": {
        "input": [{"type": "mcp_list_tools", "tools": [{"name": "f", "input_schema": {"model": {"model": "x"}}}]}]
    },
}  # fmt: skip


@readers
@pytest.mark.parametrize("document", FREE_PLACES.values(), ids=FREE_PLACES)
def test_what_callers_may_name_names_no_model_and_no_tool(read, document):
    reading = read(body_of({"model": "m", **document}))

    assert reading.models == {"m"}
    assert set(tool_types(reading.members)) <= {"function", "mcp"}


BRINGING = {
    "an item": [{"type": "additional_tools", "tools": [{"type": "image_generation", "model": "gpt-5"}]}],
    "a search's item": [
        {"tools": [{"type": "namespace", "tools": [{"type": "image_generation", "model": "gpt-5"}]}]}
    ],
    "beside what a server lists": [{"tools": [{"type": "image_generation"}, {"input_schema": {}, "model": "gpt-5"}]}],
    "one item": {"tools": [{"type": "image_generation", "model": "gpt-5"}]},
    "like what a server lists": [{"tools": [{"type": "image_generation", "model": "gpt-5", "input_schema": {}}]}],
}


@readers
@pytest.mark.parametrize("name", ["input", "items", "item"])
@pytest.mark.parametrize("place", BRINGING.values(), ids=BRINGING)
def test_tools_that_an_item_brings_are_found(read, name, place):
    reading = read(body_of({"model": "m", name: place}))

    assert reading.models == {"m", "gpt-5"}
    assert "image_generation" in set(tool_types(reading.members))


@readers
def test_tools_that_an_item_brings_twice_are_all_found(read):
    reading = read(b'{"input":[{"tools":[{"type":"a"}],"tools":[{"type":"b"}]}]}')

    assert set(tool_types(reading.members)) == {"a", "b"}


@readers
@pytest.mark.parametrize("place", [[{"reasoning": {"effort": "high"}}], {"reasoning": {"effort": "high"}}])
def test_the_effort_that_an_item_brings_is_kept(read, place):
    document = {"input": place, "messages": [{"reasoning": {"effort": "low"}}]}

    assert read(body_of(document)).members == {"input": [{"reasoning": {"effort": "high"}}]}


@readers
@pytest.mark.parametrize("name", ["Tools", "tools ", "tool\\u017f", "tools\\u0000", "Reasoning", "rea\\u017foning"])
def test_what_may_be_read_as_brought_by_an_item_is_refused(read, name):
    with pytest.raises(AmbiguousBody):
        read(b'{"input":[{"%b":[{"type":"image_generation"}]}]}' % name.encode())


@readers
def test_a_grader_may_be_named_as_a_free_place(read):
    graders = {"metadata": {"type": "score_model", "model": "gpt-5"}}

    assert read(body_of({"grader": {"type": "multi", "graders": graders}})).models == {"gpt-5"}


@readers
def test_a_model_that_is_nothing_inside_is_none(read):
    assert read(b'{"session":{"model":null}}').models == frozenset()


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:x,AB"}}]}]}, (1, 9, 0, 0)),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]}, (0, 0, 0, 1)),
        ({"input": [{"content": [{"type": "input_image", "image_url": "data:x,AB"}]}]}, (1, 9, 0, 0)),
        ({"input": [{"content": [{"type": "input_image", "file_id": "f"}]}]}, (0, 0, 0, 1)),
        ({"input": [{"content": [{"type": "input_file", "file_data": "AB"}]}]}, (1, 2, 0, 1)),
        ({"input": [{"content": [{"type": "input_file", "file_url": "https://x"}]}]}, (0, 0, 0, 1)),
        ({"input": [{"content": [{"type": "input_audio", "input_audio": {"data": "ABC"}}]}]}, (0, 0, 3, 0)),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, (0, 0, 0, 1)),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, (0, 0, 0, 1)),
        ({"input": [{"id": "msg_1"}, {"type": None, "id": "msg_2"}, {"role": "user", "content": "x"}]}, (0, 0, 0, 2)),
        ({"input": {"id": "msg_1"}}, (0, 0, 0, 1)),
        ({"input": [{"output": [{"id": "1", "code": "x"}], "type": "computer_call_output"}]}, (0, 0, 0, 0)),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, (0, 0, 0, 1)),
        ({"images": [{"image_url": "data:x,AB"}, {"file_id": "f"}], "mask": {"file_id": "m"}}, (1, 9, 0, 2)),
        ({"input": [{"type": "computer_call_output", "output": {"image_url": "data:x"}}]}, (1, 6, 0, 0)),
        ({"prompt": {"id": "p", "variables": {"v": {"type": "input_file", "file_id": "f"}}}}, (0, 0, 0, 1)),
        ({"input": [{"annotations": [{"type": "url_citation", "url": "https://x"}]}]}, (0, 0, 0, 0)),
        ({"input": [{"type": "message", "id": "msg_1"}]}, (0, 0, 0, 0)),
        ({"metadata": {"file_id": "f"}}, (0, 0, 0, 0)),
        ({"messages": "data:x"}, (0, 0, 0, 0)),
    ],
)
@readers
def test_what_the_model_reads_besides_text_is_counted(read, document, found):
    parts = read(body_of(document)).parts

    assert (parts.inline, parts.inline_chars, parts.audio_chars, parts.stored) == found


@readers
@pytest.mark.parametrize("second", ["[]", "{}", "null", "1"])
def test_an_item_of_two_types_is_a_reference_where_any_of_them_is_no_text(read, second):
    for types in (f'"type":"message","type":{second}', f'"type":{second},"type":"message"'):
        assert read(b'{"input":[{"id":"msg_1",%b}]}' % types.encode()).parts.stored == 1


@readers
@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("one", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (["a"], 1), ([["a"]], 1),
        ([1, [2], "x"], 2), ([0.5] * 50 + ["x"] * 1000, 1000),
    ],
)  # fmt: skip
def test_prompts_are_counted(read, prompt, count):
    reading = read(body_of({"prompt": prompt}))

    assert (reading.parts.prompts, reading.has_stored_prompt) == (count, False)


@readers
def test_a_prompt_that_is_stored_is_told(read):
    assert read(body_of({"prompt": {"id": "p"}})).has_stored_prompt


@readers
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_characters_of_a_text_are_counted_as_they_are_read(read, ascii_only):
    text = 'ab "c" \\ \n é 🌿' * 5

    assert read(body_of({"input": text}, ensure_ascii=ascii_only)).parts.characters == len(text)
    assert read(body_of({"input": [text]})).parts.characters == 0


def test_parts_are_left_out_where_nobody_asks():
    assert read_held(body_of(CHAT), counts_parts=False).parts is None


@pytest.mark.parametrize("body", [*ODD.values(), *(t.replace(b"%b", OK) for t in HIDING.values()), body_of(CHAT)])
def test_a_body_in_pieces_is_read_as_the_whole(body):
    def outcome(pieces):
        try:
            return scan(pieces)
        except AmbiguousBody:
            return None

    whole = outcome([body])
    assert outcome([body[at : at + 1] for at in range(len(body))]) == whole
    for seed in range(20):
        chosen = random.Random(seed)
        edges = [0, *sorted(chosen.choices(range(len(body) + 1), k=3)), len(body)]
        assert outcome([body[begin:end] for begin, end in pairwise(edges)]) == whole


def test_a_body_of_any_size_is_read_in_little_memory():
    image = "data:image/png;base64," + "A" * 5_000_000
    document = {"messages": [{"content": [{"image_url": {"url": image}}, {"text": "é" * 500_000}]}], "model": "m"}
    body = body_of(document)

    reading = scan(body[at : at + PIECE] for at in range(0, len(body), PIECE))

    assert reading.models == {"m"}
    assert reading.parts.inline_chars == len(image)
    assert orjson.dumps(reading.members) == b'{"model":"m"}'


def test_the_reader_pauses_after_each_piece():
    pauses = []

    read_held(b'{"user":"\\ud83d"' + b" " * 3 * PIECE + b"}", pause=lambda: pauses.append(1))

    assert len(pauses) == 4


@pytest.mark.parametrize(
    "entry", ["{}", '{"a":1}', "[[]]", '""', "1", '{"a":[{"b":{"c":null}}]}', '{"type":"text","text":""}']
)
def test_millions_of_small_values_are_stepped_over(entry):
    body = b'{"messages":[' + b",".join([entry.encode()] * 300_000) + b'],"model":"m"}'

    assert scan(body[at : at + PIECE] for at in range(0, len(body), PIECE)).models == {"m"}


def test_what_takes_too_many_steps_is_refused():
    body = b'{"messages":[' + b",".join([b"[[[[[[[]]]]]]]"] * MOST_STEPS) + b"]}"

    with pytest.raises(AmbiguousBody, match="nested too deep in too many places"):
        scan([body])


def test_what_is_nested_too_deep_is_refused():
    with pytest.raises(AmbiguousBody, match="nested deeper than"):
        scan([b'{"messages":' + b"[" * MOST_DEPTH])


@pytest.mark.parametrize(
    "document",
    [
        {"x": [1] * (MOST_VALUES + 1)},
        {f"n{number}": "a" * 900 for number in range(400)},
        {"x" * 990 + str(n): 1 for n in range(400)},
    ],
)
def test_what_would_fill_the_memory_is_refused(document):
    with pytest.raises(AmbiguousBody, match="Besides what is said to the model"):
        scanned(body_of(document))


def test_long_texts_are_cut():
    assert scanned(body_of({"user": "a" * 5000})).members["user"] == "a" * KEPT_CHARS


def test_a_number_without_end_is_refused():
    with pytest.raises(AmbiguousBody):
        scan([b'{"n":1', *[b"0" * 1000] * 3, b"}"])


def test_what_takes_long_to_parse_is_not_held():
    assert can_be_held(b" " * MOST_HELD_BYTES)
    assert not can_be_held(b" " * (MOST_HELD_BYTES + 1))
    assert can_be_held(b"{[," * (MOST_HELD_VALUES // 3))
    assert not can_be_held(b"{[," * (MOST_HELD_VALUES // 3 + 1))


def test_the_names_that_are_watched_mislead_nobody():
    assert not any(map(is_misleading, WATCHED))
    assert not is_misleading("models") and names_models("models")
    assert is_misleading("Tools")


def test_long_names_of_callers_are_not_kept():
    kept = reading._known_kind_of.cache_info().currsize

    assert is_misleading(" " * 250_000 + "MODEL") and not is_misleading("x" * 250_000)
    assert reading._known_kind_of.cache_info().currsize == kept
