"""Sends JSON calls over kept connections, and tells what they cost the server and how long they took."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from measure.suite.sample import BODY, CHAT, HEADERS, request
from measure.suite.server import Server
from measure.suite.turn import Turn
from mock_openai.plain_load import PlainLoad

# Calls of one turn, some 15 ms of work.
TURN_CALLS = 64


@dataclass(frozen=True)
class JsonRound:
    """One round against one server: how many calls a second, and how long each took, sorted."""

    per_s: float
    times_ms: list[float]

    def percentile(self, share: float) -> float:
        """A call's time in milliseconds."""
        return self.times_ms[int(len(self.times_ms) * share)]


def json_round(server: Server, *, requests: int, concurrency: int) -> JsonRound:
    """Send `requests` and measure. Raises when any of them fails."""
    with _load(server, concurrency) as load:
        start = time.perf_counter()
        times = sorted(load.times_s(requests))
        took = time.perf_counter() - start
    return JsonRound(len(times) / took, [seconds * 1000 for seconds in times])


def json_turns(servers: Sequence[Server], seconds: float, body: bytes = BODY) -> list[list[Turn]]:
    """
    The CPU of each server's calls, all of them taking turns for so long.

    All that a server did since the last look counts for its turn: what it does in the background comes later.
    """
    with ExitStack() as held:
        loads = [held.enter_context(_load(server, 32, body)) for server in servers]
        for load in loads:
            load.times_s(500)
        turns: list[list[Turn]] = [[] for _ in servers]
        before = [server.cpu_s() for server in servers]
        end = time.monotonic() + seconds
        # Who was first is last the next time.
        for ordered in itertools.cycle((loads, loads[::-1])):
            for load in ordered:
                load.times_s(TURN_CALLS)
            now = [server.cpu_s() for server in servers]
            for taken, past, cpu_s in zip(turns, before, now, strict=True):
                taken.append(Turn(cpu_s - past, TURN_CALLS))
            before = now
            if time.monotonic() > end:
                break
    return turns


def _load(server: Server, concurrency: int, body: bytes = BODY) -> PlainLoad:
    return PlainLoad(server.port, request(server.bearer, body=body), concurrency)


def requests_per_s(server: Server, work: Path, *, duration_s: int, concurrency: int = 32) -> float:
    """What the server manages with wrk as the load, which leaves the processors to it; without wrk, this module's."""
    if not shutil.which("wrk"):
        return json_round(server, requests=3000 * duration_s, concurrency=concurrency).per_s
    script = work / "wrk.lua"
    headers = HEADERS | {"Authorization": f"Bearer {server.bearer}"}
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(['wrk.method = "POST"', f"wrk.body = [[{BODY.decode()}]]", *lines]))
    options = ["-t1", f"-c{concurrency}", f"-d{duration_s}s", "-s", str(script), server.url + CHAT]
    told = subprocess.run(["wrk", *options], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(told)
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert found, told
    return float(found[1])
