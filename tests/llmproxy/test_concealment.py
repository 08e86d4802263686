"""A key is masked wherever it stands, by as many bytes, and nothing else is touched."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.concealment import MIN_CHARS, NOTHING, Concealment

KEY = "sk-abcabcabd-0123"
MASK = "*" * len(KEY)
conceals = Concealment(KEY)


@given(
    st.lists(st.sampled_from([KEY.encode(), b"sk-abc", b"sk-abcabcabd-012", b"s", b"\x00{}", KEY.encode()[3:]])),
    st.data(),
)
def test_a_body_is_masked_wherever_it_is_cut(parts, data):
    body = b"".join(parts)
    mask = conceals.body_mask()
    out = b""
    while body:
        size = data.draw(st.integers(1, len(body)))
        piece, body = body[:size], body[size:]
        out += mask.feed(piece)
    out += mask.finish()

    assert out == b"".join(parts).replace(KEY.encode(), MASK.encode())


def test_what_cannot_become_a_key_is_not_held_back():
    mask = conceals.body_mask()

    assert [mask.feed(piece) for piece in (b'{"a": "sk-', b'other"}', b"sk")] == [b'{"a": "', b'sk-other"}', b""]
    assert mask.finish() == b"sk"


def test_names_and_values_of_headers_are_masked():
    headers = [("x-" + KEY, "1"), ("x-a", f"Bearer {KEY}"), ("x-b", "fine"), ("x-c", "")]

    assert conceals.fields(headers) == [("x-" + MASK, "1"), ("x-a", f"Bearer {MASK}"), ("x-b", "fine"), ("x-c", "")]


def test_headers_that_show_nothing_stay_as_they_are():
    headers = [("x-a", ""), ("x-b", "sk-abcabcabd-012"), ("openai-organization", "org")]

    assert conceals.fields(headers) is headers


def test_the_account_is_left_out_where_that_is_asked():
    hiding = Concealment(KEY, headers=frozenset({"openai-organization"}))

    assert hiding.fields([("OpenAI-Organization", "org"), ("x-a", "1")]) == [("x-a", "1")]


@pytest.mark.parametrize("told", [KEY, {"a": [f"x{KEY}"]}, {KEY: 1}])
def test_what_was_told_is_looked_into_deeply(told):
    assert conceals.is_in(orjson.dumps(told))


def test_every_text_in_what_was_told_is_masked():
    told = {"model": f"a {KEY}", KEY: 1, "details": {"n": [KEY, None, 2.5]}}

    assert conceals.value(told) == {"model": f"a {MASK}", MASK: 1, "details": {"n": [MASK, None, 2.5]}}


@pytest.mark.parametrize("conceals", [NOTHING, Concealment("x" * (MIN_CHARS - 1))])
def test_what_is_too_short_for_a_secret_is_not_looked_for(conceals):
    text = "x" * 50 + "\0"

    assert not conceals.has_key and not conceals.is_in(orjson.dumps(text))
    assert conceals.fields([("x-a", "x" * 50)]) == [("x-a", "x" * 50)]


def test_a_key_over_the_border_of_two_pieces_is_found():
    assert conceals.is_in_pieces([b"x" * 100 + b"sk-abcabcabd", b"-0123 x"])
    assert not conceals.is_in_pieces([b"sk-abcabcabd", b"+0123 x", b""])


def test_it_shows_nothing_of_itself():
    assert KEY not in repr(conceals)
