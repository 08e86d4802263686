"""Records of calls for tests of what reads the log."""

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmproxy.api_log.read_record import ReadRecord, parse_line

PROJECT = "f3f9d3f5-46a5-4c3e-9c5a-0c7f6f5f2b11"
TOKEN = "3f0f8f8e-7a39-4c1b-8f4b-6f9df3f4a7b1"


def record(**changes: Any) -> dict[str, Any]:
    """A call that went well, with `changes`."""
    return {
        "timestamp": "2026-11-23T10:15:30.123Z",
        "request_id": str(uuid.uuid4()),
        "token": TOKEN,
        "project_id": PROJECT,
        "endpoint": "/v1/chat/completions",
        "method": "POST",
        "status_code": 200,
        "duration_ms": 640.5,
        "metadata": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
            "model": "gpt-4o",
        },
        "outcome": "complete",
        "stream": False,
        "ttft_ms": 120.0,
        "upstream_status": 200,
        "upstream_request_id": "req_1",
        "bytes_in": 120,
        "bytes_out": 640,
        "usage_source": "reported",
        "error": None,
        "cost_usd": 0.00007,
        "cost_source": "reported",
        "price_date": "2026-11-26",
        "service_tier": "default",
        "requested_model": None,
    } | changes


def older(**changes: Any) -> dict[str, Any]:
    """The same by a version that put no price on calls."""
    new = ("cost_usd", "cost_source", "price_date", "service_tier", "requested_model")
    return {name: value for name, value in record(**changes).items() if name not in new}


def refused(code: str = "rate_limit_exceeded", **changes: Any) -> dict[str, Any]:
    """A call that the proxy refused."""
    nothing = {"metadata": None, "ttft_ms": None, "upstream_status": None, "usage_source": "absent"}
    nothing |= {"cost_usd": 0, "cost_source": "none", "price_date": None, "service_tier": None}
    error = {"code": code, "type": "requests"}
    return record(**{"status_code": 429, "outcome": "refused", "error": error, **nothing, **changes})


def read(call: dict[str, Any]) -> ReadRecord:
    """The call as who reads the log finds it."""
    found = parse_line(json.dumps(call).encode())
    assert found is not None
    return found


def append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records to the end of a log, as a writer does."""
    with path.open("ab") as file:
        for each in records:
            file.write(json.dumps(each, separators=(",", ":")).encode() + b"\n")
