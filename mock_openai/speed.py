"""How fast the mock upstream is on this machine: what it can answer, so that nobody takes it for what is measured."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from mock_openai.mock import MockOpenAI
from mock_openai.plain_load import PlainLoad

REQUESTS, WARMUP, CONCURRENCY = 30_000, 2_000, 32
BODY = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nAuthorization: Bearer sk-self-test\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def tell(requests: int = REQUESTS) -> None:
    """Loads a mock of its own from this process and prints what came of it."""
    with MockOpenAI() as mock, PlainLoad(int(mock.url.rpartition(":")[2]), REQUEST, CONCURRENCY) as load:
        load.times_s(WARMUP)
        cpu_s, start = _cpu_s(mock.pid), time.perf_counter()
        count = len(load.times_s(requests))
        took_s, cpu_s = time.perf_counter() - start, _cpu_s(mock.pid) - cpu_s
    print(f"{count / took_s:,.0f} requests/s answered, the load on the same machine")
    print(f"{cpu_s / count * 1e6:.0f} µs of CPU each: {count / cpu_s:,.0f} requests/s for each core it gets")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
