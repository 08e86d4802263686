"""Sends JSON calls over kept connections, and tells what they cost the server and how long they took."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from measure.suite.stage import BODY, CHAT, Server
from mock_openai import plain_load

_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "User-Agent": "benchmark",
    "Accept-Encoding": "gzip, deflate",
}


@dataclass(frozen=True)
class JsonRound:
    """One round against one server: CPU of the processes that answer, and how long each call took, sorted."""

    cpu_us: float
    per_s: float
    times_ms: list[float]

    def percentile(self, share: float) -> float:
        """A call's time in milliseconds."""
        return self.times_ms[int(len(self.times_ms) * share)]


def json_round(server: Server, *, requests: int, concurrency: int) -> JsonRound:
    """Send `requests` and measure. Raises when any of them fails."""
    request = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.bearer}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in _HEADERS.items())
        + f"Content-Length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    cpu, start = server.cpu_s(), time.perf_counter()
    times = sorted(plain_load.times(server.port, request, requests, concurrency))
    took, cpu = time.perf_counter() - start, server.cpu_s() - cpu
    return JsonRound(cpu / len(times) * 1e6, len(times) / took, [seconds * 1000 for seconds in times])


def requests_per_s(server: Server, work: Path, *, duration_s: int, concurrency: int = 32) -> float:
    """What the server manages with wrk as the load, which leaves the processors to it; without wrk, this module's."""
    if not shutil.which("wrk"):
        return json_round(server, requests=3000 * duration_s, concurrency=concurrency).per_s
    script = work / "wrk.lua"
    body = BODY.decode()
    headers = _HEADERS | {"Authorization": f"Bearer {server.bearer}"}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = [[{body}]]", *lines]))
    options = ["-t1", f"-c{concurrency}", f"-d{duration_s}s", "-s", str(script), server.url + CHAT]
    told = subprocess.run(["wrk", *options], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert found, told
    return float(found[1])
