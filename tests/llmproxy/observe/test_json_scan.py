"""The scanner finds in a document cut anywhere what a parser finds in the whole one."""

import json
import random
from itertools import pairwise

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmproxy.observe.json_scan import MAX_MEMBERS, MAX_VALUE_BYTES, JsonScanner, members

NAMES = ("usage", "model", "error", "created")
_texts = st.text(alphabet='ab"\\/{}[]:, ünull🌿\n\t\u0001', max_size=8)
_names = st.sampled_from([*NAMES, "response", "x", "us", 'usage"', "usage\\", "model:", ""]) | _texts
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4), max_leaves=12
)
documents = st.dictionaries(_names, _values, max_size=6)
layouts = st.sampled_from([{}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}, {"ensure_ascii": False}])
cuts = st.lists(st.integers(0, 300), max_size=10)


def scan(chunks, *, inside=None):
    scanner = JsonScanner(frozenset(name.encode() for name in NAMES), inside=inside)
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.document()


def cut_at(body, positions):
    edges = [0, *sorted(min(position, len(body)) for position in positions), len(body)]
    return [body[begin:end] for begin, end in pairwise(edges)]


def wanted(document):
    return {name: value for name, value in document.items() if name in NAMES}


@given(documents, layouts, cuts)
def test_any_split_finds_what_a_parser_finds(document, layout, positions):
    body = json.dumps(document, **layout).encode()

    assert scan(cut_at(body, positions)) == wanted(orjson.loads(body))


@given(documents, layouts)
def test_byte_by_byte_finds_what_a_parser_finds(document, layout):
    body = json.dumps(document, **layout).encode()

    assert scan([body[i : i + 1] for i in range(len(body))]) == wanted(orjson.loads(body))


@given(documents, layouts, cuts)
@example({"response": {"usage": 1}, "usage": 2}, {}, [])
def test_members_of_the_wanted_inner_object_are_found_too(document, layout, positions):
    body = json.dumps(document, **layout).encode()

    found = scan(cut_at(body, positions), inside=b"response")
    parsed = orjson.loads(body)
    inner = parsed.get("response")
    expected = wanted(inner) if isinstance(inner, dict) else {}
    assert found.pop("response", {}) == expected
    assert found == wanted(parsed)


@given(documents, st.integers(0, 300))
def test_a_document_cut_off_gives_only_members_that_are_complete(document, length):
    body = json.dumps(document).encode()

    found = scan([body[:length]])
    assert {name: wanted(document)[name] for name in found} == found


@given(st.binary(max_size=60), cuts)
def test_bytes_that_are_no_json_raise_nothing(noise, positions):
    scan(cut_at(b'{"usage":' + noise, positions), inside=b"response")
    scan(cut_at(noise, positions), inside=b"response")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"usage":1,"usage":2}', {"usage": 2}),
        (b'{"response":{"usage":1},"response":{"model":"a"}}', {"response": {"model": "a"}}),
        (b'{"response":{"usage":1},"response":null}', {}),
        (b'{"response":{"response":{"usage":1}}}', {}),
        (b'{"usage":12', {}),
        (b'{"usage":12}', {"usage": 12}),
        (b'[{"usage":1}]', {}),
        (b'"usage"', {}),
        (b"", {}),
        (b'{"a":"\\\\","usage":1}', {"usage": 1}),
        (b'{"us\\u0061ge":1,"\\ud83d":2}', {"usage": 1}),
        (b'{"a":"\\\\\\"usage\\":2","usage":1}', {"usage": 1}),
    ],
)
def test_doubles_inner_objects_and_cut_scalars(body, found):
    assert scan([body], inside=b"response") == found


def test_a_value_over_the_limit_is_stepped_over_and_the_next_is_found():
    body = b'{"error":"' + b"x" * MAX_VALUE_BYTES + b'","model":"m"}'

    assert scan(cut_at(body, [100, 9000])) == {"model": "m"}


def test_a_name_without_end_is_stepped_over():
    assert scan([b'{"', b"usage" * 100_000, b'":1,"model":"m"}']) == {"model": "m"}


def test_depth_costs_no_stack():
    body = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b',"model":"m"}'

    assert scan([body]) == {"model": "m"}


@given(documents, layouts, cuts)
def test_wanted_values_stand_where_it_says(document, layout, positions):
    body = json.dumps(document, **layout).encode()
    scanner = JsonScanner(frozenset(name.encode() for name in NAMES))
    for chunk in cut_at(body, positions):
        scanner.feed(chunk)

    places = {name: scanner.place_of(name.encode()) for name in wanted(document)}
    assert {name: orjson.loads(body[slice(*place)]) for name, place in places.items()} == wanted(document)
    assert scanner.is_whole


@pytest.mark.parametrize("body", [b"", b"{", b'{"usage":1', b'{"usage":{}', b'["usage"]', b'{"a":{"b":1}'])
def test_a_document_without_its_end_is_not_whole(body):
    scanner = JsonScanner(frozenset({b"usage"}))
    scanner.feed(body)

    assert not scanner.is_whole


@pytest.mark.parametrize(("count", "found"), [(MAX_MEMBERS - 1, {"model": "m"}), (MAX_MEMBERS, {})])
def test_an_object_of_more_members_than_any_is_given_up(count, found):
    assert scan([b'{%b"model":"m"}' % (b'"a":1,' * count)]) == found


@given(documents, layouts)
def test_members_are_given_with_the_place_of_their_values(document, layout):
    body = json.dumps(document, **layout).encode()

    found = [(name, orjson.loads(body[begin:end])) for name, begin, end in members(body)]
    assert found == list(document.items())


def test_a_large_document_of_many_small_values_is_found_through():
    rows = [{"token": "x\\n", "bytes": [1, 2], "top": [{"a": [{"b": None}]}]} for _ in range(2000)]
    body = json.dumps({"logprobs": rows, "model": "m", "usage": {"total_tokens": 1}}).encode()
    cutter = random.Random(1)

    chunks = cut_at(body, [cutter.randrange(len(body)) for _ in range(500)])
    assert scan(chunks) == {"model": "m", "usage": {"total_tokens": 1}}
