"""Refusals become one line per second and reason, and none goes missing."""

import uuid
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.api_log.record import CallRecord
from llmproxy.api_log.refusals import CHARS, MAX_REASONS, PER_S, Refusals


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines(list[CallRecord]):
    """What was written."""

    @property
    def counts(self) -> list[int]:
        return [record.count for record in self]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return Lines()


@pytest.fixture
def refusals(clock, lines):
    return Refusals(lines.append, monotonic=clock)


@pytest.fixture
def refused(call_record):
    def make(code="invalid_api_key", token_id=None, **changes):
        error = {"code": code, "type": "invalid_request_error"}
        fields = {"outcome": "refused", "status_code": 401, "error": error, "metadata": None}
        return call_record(**(fields | {"token_id": token_id, "project_id": None} | changes))

    return make


def test_the_first_is_written_at_once_and_the_second_s_others_as_one_line(refusals, refused, lines, clock):
    calls = [refused() for _ in range(10)]
    for call in calls:
        refusals.add(call)
    at_once = lines.counts
    clock.now += PER_S
    refusals.flush()

    assert (at_once, lines.counts) == ([1], [1, 9])
    assert [line.request_id for line in lines] == [calls[0].request_id, calls[1].request_id]


def test_a_flood_of_many_seconds_is_one_line_each(refusals, refused, lines, clock):
    for _ in range(1000):
        refusals.add(refused())
        clock.now += 0.01
        refusals.flush()
    refusals.flush(at_once=True)

    assert sum(lines.counts) == 1000 and 10 <= len(lines) <= 12


def test_without_a_flush_the_next_refusal_writes_what_was_counted(refusals, refused, lines, clock):
    for _ in range(3):
        refusals.add(refused())
    clock.now += 5 * PER_S
    refusals.add(refused())

    assert lines.counts == [1, 3]


def test_after_a_quiet_second_each_is_a_record_like_any_other(refusals, refused, lines, clock):
    for _ in range(3):
        refusals.add(refused())
        clock.now += PER_S
        refusals.flush()

    assert lines.counts == [1, 1, 1]


@pytest.mark.parametrize(
    "other", [{"code": None}, {"status_code": 400}, {"token_id": "t-1"}, {"outcome": "client_closed"}]
)
def test_another_reason_has_a_line_of_its_own(refusals, refused, lines, other):
    refusals.add(refused())
    refusals.add(refused(**other))

    assert lines.counts == [1, 1]


def test_paths_and_methods_are_cut(refusals, refused, lines):
    for _ in range(2):
        refusals.add(refused(endpoint="/v1/" + "x" * 8000, method="M" * 8000))
    refusals.flush(at_once=True)

    assert {(len(line.endpoint), len(line.method)) for line in lines} == {(CHARS, CHARS)}


def test_the_refusals_of_very_many_tokens_are_told_apart_no_longer(refusals, refused, lines, clock):
    for _ in range(2):
        for number in range(MAX_REASONS * 3):
            refusals.add(refused("token_expired", str(number)))
    refusals.flush(at_once=True)

    assert sum(lines.counts) == MAX_REASONS * 6
    assert len(lines) <= 2 * MAX_REASONS + 2
    by_token = Counter()
    for line in lines:
        by_token[line.token_id] += line.count
    assert by_token["0"] == 2 and by_token[None] == MAX_REASONS * 4


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3), st.booleans()), max_size=60))
def test_none_goes_missing_and_none_counts_twice(calls):
    clock, lines = Clock(), Lines()
    refusals = Refusals(lines.append, monotonic=clock)
    told = Counter()
    for token, pause_s, is_flushed in calls:
        told[str(token)] += 1
        refusals.add(_refused(str(token)))
        clock.now += pause_s
        if is_flushed:
            refusals.flush()
    refusals.flush(at_once=True)

    found = Counter()
    for line in lines:
        found[line.token_id] += line.count
    assert found == told
    assert len({line.request_id for line in lines}) == len(lines)


def _refused(token_id: str) -> CallRecord:
    return CallRecord(
        timestamp=0.0, request_id=str(uuid.uuid4()), token_id=token_id, project_id="p", endpoint="/v1/x",
        method="GET", status_code=401, duration_ms=1.0, metadata=None, outcome="refused", stream=False, ttft_ms=None,
        upstream_status=None, upstream_request_id=None, bytes_in=0, bytes_out=0, usage_source="absent", error=None,
    )  # fmt: skip
