"""A bill can be made of whatever an upstream and a caller said, and its parts add up."""

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.api_log.read_record import ReadRecord
from llmproxy.api_log.record import MICRO
from llmproxy.bill import Sent, bill, bill_response
from llmproxy.limits.charge import UNKNOWN, Charge
from llmproxy.limits.cost import MOST_MICRODOLLARS
from llmproxy.limits.prices import Prices, read_sheet
from llmproxy.observe.facts import Facts
from llmproxy.observe.usage import observe

PRICES = Prices(read_sheet((Path(__file__).resolve().parents[2] / "prices" / "openai.json").read_bytes()))
ENDPOINTS = (
    "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations", "/v1/audio/speech",
    "/v1/audio/transcriptions", "/v1/videos", "/v1/batches/b", "/v1/containers", "/v1/files", "/v1/unknown",
)  # fmt: skip

counts = st.one_of(st.integers(-5, 10**6), st.integers(0, 2**60), st.floats(), st.none(), st.text(max_size=3))
leaves = st.one_of(counts, st.booleans(), st.sampled_from(["gpt-5", "flex", "24h", "1024x1024", "web_search_call"]))
names = st.sampled_from([
    "usage", "model", "service_tier", "prompt_tokens", "input_tokens", "output_tokens", "total_tokens", "output",
    "prompt_tokens_details", "input_tokens_details", "cached_tokens", "cached_tokens_details", "audio_tokens", "type",
    "object", "seconds", "size", "quality", "tools", "container", "container_id", "action", "background_options",
    "completion_window", "n", "input", "memory_limit", "status", "id", "error",
])  # fmt: skip
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=25
)
documents = st.dictionaries(names, values, max_size=10)


def billed(
    document, asked=None, *, endpoint="/v1/chat/completions", method="POST", status=200, prices=PRICES, tier=None
):
    observer = observe(endpoint, method=method, status=status, content_type="application/json", content_encoding=None)
    observer.feed(json.dumps(document).encode())
    observer.finish()
    body = None if asked is None else json.dumps(asked).encode()
    return bill(prices, Sent("project", method, endpoint, status, observer, body, tier))


endpoints, methods, statuses = (st.sampled_from(choices) for choices in (ENDPOINTS, ("POST", "GET"), (200, 404)))


@given(documents, documents, endpoints, methods, statuses)
def test_whatever_was_said_makes_a_bill(document, asked, endpoint, method, status):
    charge = billed(document, asked, endpoint=endpoint, method=method, status=status).charge

    assert charge.source in ("reported", "stored", "computed", "none", "absent", "unpriced")
    has_cost = charge.source not in ("absent", "unpriced")
    assert (charge.microdollars is not None) is has_cost
    assert 0 <= (charge.microdollars or 0) <= MOST_MICRODOLLARS


@given(documents, endpoints)
def test_prices_change_nothing_of_what_a_call_told_but_what_cannot_be(document, endpoint):
    priced, bare = (billed(document, endpoint=endpoint, prices=prices) for prices in (PRICES, None))

    assert bare.charge.source is None
    if not priced.charge.is_clamped:
        assert priced[1:] == bare[1:]


def test_what_was_asked_for_is_no_use_where_it_failed_inside():
    asked = {"model": "tts-1", "input": "hello"}

    assert billed({"error": {"code": "x"}}, asked, endpoint="/v1/audio/speech").charge.source == "absent"
    assert billed({}, asked, endpoint="/v1/audio/speech").charge == (75, "computed", False)


@pytest.mark.parametrize(
    ("usage", "charge"),
    [
        # At $2.50 a million tokens in and $10 out.
        ({"prompt_tokens": "1000", "completion_tokens": 100, "total_tokens": 1100}, Charge(3500, "reported")),
        ({"prompt_tokens": 1000, "completion_tokens": "100", "total_tokens": 1100}, Charge(3500, "reported")),
        ({"prompt_tokens": "1000", "completion_tokens": 100}, UNKNOWN),
        ({"prompt_tokens": 1000, "completion_tokens": -1}, UNKNOWN),
    ],
)
def test_a_count_that_nobody_can_read_is_not_free(usage, charge):
    document = {"model": "gpt-4o", "usage": usage}
    told = Facts()
    told.take(document)

    assert billed(document).charge == bill_response(PRICES, "project", "/v1/realtime", told).charge == charge


@pytest.mark.parametrize(
    ("told", "asked", "held", "dollars"),
    [
        (None, None, None, 10),
        (None, "flex", None, 5),
        (None, "priority", None, 17.5),
        (None, "auto", None, 10),
        (None, "a word of another upstream's", None, 10),
        (None, None, "flex", 5),
        (None, "auto", "priority", 17.5),
        ("default", "priority", "priority", 10),
    ],
)
def test_a_tier_that_nobody_told_is_the_one_that_was_asked_for(told, asked, held, dollars):
    usage = {"prompt_tokens": 10**6, "completion_tokens": 10**6}
    document, request = {"model": "o3", "usage": usage, "service_tier": told}, {"service_tier": asked}

    charge = billed(document, request, tier=held).charge

    assert charge == Charge(int(dollars * MICRO), "reported")


@given(st.lists(st.integers(0, MOST_MICRODOLLARS), max_size=20))
def test_the_cost_of_a_sum_is_the_sum_of_costs_also_over_the_log(costs):
    lines = [orjson.dumps({"request_id": "r", "cost_usd": cost / MICRO}) for cost in costs]

    assert sum(ReadRecord(line, orjson.loads(line)).cost or 0 for line in lines) == sum(costs)
