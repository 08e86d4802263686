"""What a reader finds in a line: typed, and absent where it is not what it should be."""

import json
from datetime import UTC, datetime

import pytest

from llmproxy.api_log.read_record import ReadRecord, parse_line
from tests.records import record


def read(**changes: object) -> ReadRecord:
    return parse_line(json.dumps(record(**changes)).encode())


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"{", b"null", b"[]", b"12", b'{"a":1}', b'{"request_id":7}', b"\xff\xfe", b"\x00" * 50]
)
def test_what_is_no_record_parses_to_none(line):
    assert parse_line(line) is None


def test_a_record_with_fields_of_a_later_version_still_parses():
    line = b'{"request_id":"a","brand_new":1}'
    found = parse_line(line)

    assert (found.line, found.fields, found.request_id) == (line, {"request_id": "a", "brand_new": 1}, "a")


def test_what_was_written_is_what_is_read(call_record):
    metadata = {"model": "m", "prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
    written = call_record(timestamp=1700000000.5, metadata=metadata)
    found = parse_line(written.to_line())

    assert (found.token_id, found.status_code, found.outcome) == (
        written.token_id,
        written.status_code,
        written.outcome,
    )
    assert found.arrived_at == datetime.fromtimestamp(written.timestamp, UTC)
    assert (found.model, found.prompt_tokens, found.cached_tokens) == ("m", 3, 2)
    assert (found.completion_tokens, found.error_code) == (None, None)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("endpoint", [None, 5, ["/v1"], True]),
        ("status_code", [None, "200", 200.0, True, []]),
        ("duration_ms", [None, True, "many", [], {}]),
        ("stream", [None, "true", 1]),
    ],
)
def test_a_value_of_another_type_is_absent(field, values):
    name = {"stream": "is_stream"}.get(field, field)

    assert [getattr(read(**{field: value}), name) for value in values] == [None] * len(values)


@pytest.mark.parametrize("metadata", [None, "text", [], {}, {"prompt_tokens": "12", "prompt_tokens_details": []}])
def test_what_lies_deeper_is_absent_where_the_way_to_it_is_none(metadata):
    found = read(metadata=metadata)

    assert (found.model, found.prompt_tokens, found.cached_tokens) == (None, None, None)


@pytest.mark.parametrize(
    ("timestamp", "hour"),
    [("2026-11-23T10:15:30.123Z", 10), ("2026-11-23T10:15:30+02:00", 8), ("2026-11-23T10Z", 10)],
)
def test_a_time_is_read_in_utc(timestamp, hour):
    assert read(timestamp=timestamp).arrived_at.replace(minute=0, second=0, microsecond=0) == datetime(
        2026, 11, 23, hour, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "timestamp", [None, "", "yesterday", "2026-01-01T00:00:00", 5, ["x"], "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_with_a_zone_is_absent(timestamp):
    assert read(timestamp=timestamp).arrived_at is None
