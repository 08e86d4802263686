import json
from datetime import UTC, datetime

import pytest

from llmproxy.api_log.read_record import parse_line
from llmproxy.api_log.record import MAX_LINE_BYTES

KEYS = [
    "timestamp", "request_id", "token", "project_id", "endpoint", "method", "status_code", "duration_ms", "metadata",
    "outcome", "stream", "ttft_ms", "upstream_status", "upstream_request_id", "bytes_in", "bytes_out",
    "usage_source", "error", "cost_usd", "cost_source", "price_date", "service_tier", "requested_model",
]  # fmt: skip


def test_a_line_has_the_documented_keys_in_their_order(call_record):
    line = call_record().to_line()

    assert list(json.loads(line)) == KEYS
    assert line.endswith(b"}\n") and line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("epoch_s", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1700000000.0004, "2023-11-14T22:13:20.000Z"),
        (1700000000.9996, "2023-11-14T22:13:21.000Z"),
        (1709251199.5, "2024-02-29T23:59:59.500Z"),
    ],
)
def test_the_timestamp_is_utc_with_milliseconds_and_z(call_record, epoch_s, written):
    assert json.loads(call_record(timestamp=epoch_s).to_line())["timestamp"] == written
    assert datetime.fromisoformat(written).tzinfo == UTC


@pytest.mark.parametrize(
    "endpoint",
    [
        "/v1/\udcff\udc80",
        b"/v1/\xff\xc3".decode("utf-8", "surrogateescape"),
        "/v1/\ud800",
        "/v1/a\nb\r\x00\u2028",
        "/v1/" + "é" * 2_000_000,
    ],
)
def test_no_endpoint_can_break_the_line(call_record, endpoint):
    line = call_record(endpoint=endpoint).to_line()

    assert line.decode("utf-8").count("\n") == 1 and len(line) <= MAX_LINE_BYTES
    assert parse_line(line).endpoint.startswith("/v1/")


@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt_tokens": 10**30},
        {"prompt_tokens": 10**5000},
        {"ratio": float("nan"), "other": float("inf")},
        {1: {"a": ("b", {"c"})}},
        {"when": object},
        {"text": "x" * (2 * MAX_LINE_BYTES)},
    ],
)
def test_no_metadata_can_break_the_line(call_record, metadata):
    record = call_record(metadata=metadata)

    line = record.to_line()

    assert len(line) <= MAX_LINE_BYTES
    assert parse_line(line).request_id == record.request_id


def test_metadata_nested_without_end_becomes_null_below_a_depth(call_record):
    nested = {}
    for _ in range(5000):
        nested = {"deeper": nested}

    assert parse_line(call_record(metadata=nested).to_line()) is not None
