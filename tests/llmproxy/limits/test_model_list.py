"""The list of models with those left out that may not be used."""

import gzip
import json

import pytest

from llmproxy.limits.model_list import MOST_BYTES, ModelListFilter

LIST = b'{"object":"list","data":[{"id":"gpt-5","owned_by":"x"},{"id":"o3"},{"object":"model"},"gpt-5"],"more":null}'


def filtered(body: bytes, step: int) -> bytes:
    """A body that came in pieces of so many bytes."""
    one = ModelListFilter(lambda name: name == "gpt-5")
    pieces = [one.feed(body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join([*pieces, one.finish()])


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_may_be_used_stays_with_all_that_is_told_of_it(step: int) -> None:
    told = {"object": "list", "data": [{"id": "gpt-5", "owned_by": "x"}], "more": None}

    assert json.loads(filtered(LIST, step)) == told


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b'{"data": {"id": "o3"}}', LIST.ljust(MOST_BYTES + 1), gzip.compress(LIST), LIST[20:]],
    ids=["cut", "a list", "an object", "too long", "compressed", "the rest of one"],
)
def test_of_what_cannot_be_told_nothing_is_shown(body: bytes) -> None:
    assert json.loads(filtered(body, 100_000)) == {"object": "list", "data": []}


def test_a_long_list_is_filtered() -> None:
    assert json.loads(filtered(LIST.ljust(2 * 1024 * 1024), 100_000))["data"] == [{"id": "gpt-5", "owned_by": "x"}]


def test_an_empty_body_stays_empty() -> None:
    assert filtered(b"", 1) == b""
