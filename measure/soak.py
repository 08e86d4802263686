"""
Mixed traffic for as long as you like, and whether the worker grows, or keeps what it should let go.

    python -m measure.soak [--minutes 60] [--clients 8]

Chat responses, streams, clients that hang up within a stream, refusals and uploads go through one worker, to the
stand-in for OpenAI. After a warm-up and at the end the load rests and the worker is looked at: memory, descriptors,
threads. Ends with 1 when it grew, kept something, or left a call without its record.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmproxy.api_log.read_record import parse_line
from measure.suite.sample import CHAT
from measure.suite.server import Server
from measure.suite.stage import proxy
from mock_openai.mock import MockOpenAI

WARM_UP_SHARE = 0.3
# What allocators and caches may still take after the warm-up, and idle upstream connections that are kept.
MAY_GROW_MB = 12.0
UPLOAD_BYTES = 1 << 20
HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class State:
    """A worker at rest."""

    memory_mb: float
    descriptors: int
    threads: int


class Traffic:
    """
    Clients that call without a pause, each in a thread of its own.

    Attributes:
        made: Calls by kind.
        faults: What was not answered as it should be, and how often.
    """

    def __init__(self, server: Server, clients: int) -> None:
        self._server = server
        self._clients = clients
        self.made: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """Call for so long, and return when every call is over."""
        deadline = time.monotonic() + seconds
        clients = [threading.Thread(target=self._call_until, args=(deadline,)) for _ in range(self._clients)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    def _call_until(self, deadline: float) -> None:
        kinds: list[Callable[[http.client.HTTPConnection], None]] = [
            *[self._chat] * 6, *[self._stream] * 2, self._hang_up, self._refusal, self._upload,
        ]  # fmt: skip
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
            try:
                for _ in range(20):
                    kind = random.choice(kinds)
                    self.made[kind.__name__.strip("_")] += 1
                    kind(connection)
            except (OSError, http.client.HTTPException) as exc:
                self.faults[repr(exc)] += 1
            finally:
                connection.close()

    def _chat(self, connection: http.client.HTTPConnection) -> None:
        self._ask(connection, {"stream": False}, 200).read()

    def _stream(self, connection: http.client.HTTPConnection) -> None:
        if b"[DONE]" not in self._ask(connection, {"stream": True}, 200).read():
            self.faults["a stream broke off"] += 1

    def _hang_up(self, connection: http.client.HTTPConnection) -> None:
        self._ask(connection, {"stream": True}, 200).read1(1)
        connection.close()

    def _refusal(self, connection: http.client.HTTPConnection) -> None:
        self._ask(connection, {}, 401, bearer="00000000-0000-4000-8000-000000000000").read()

    def _upload(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/v1/audio/speech", b"x" * UPLOAD_BYTES, self._headers(self._server.bearer))
        connection.getresponse().read()

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        fields: dict[str, object],
        status: int,
        bearer: str | None = None,
    ) -> http.client.HTTPResponse:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **fields}
        connection.request("POST", CHAT, json.dumps(body), self._headers(bearer or self._server.bearer))
        response = connection.getresponse()
        if response.status != status:
            self.faults[f"{response.status} instead of {status}"] += 1
        return response

    def _headers(self, bearer: str) -> dict[str, str]:
        return HEADERS | {"Authorization": f"Bearer {bearer}"}


def soak(seconds: float, clients: int) -> tuple[State, State, Traffic, int]:
    """The worker after the warm-up and at the end, the traffic, and how many calls were recorded."""
    with tempfile.TemporaryDirectory() as work, MockOpenAI() as upstream:
        port = int(upstream.url.rsplit(":", 1)[1])
        with proxy(Server(port), Path(work) / "data") as server:
            traffic = Traffic(server, clients)
            traffic.run(seconds * WARM_UP_SHARE)
            before = _at_rest(server)
            traffic.run(seconds * (1 - WARM_UP_SHARE))
            after = _at_rest(server)
        lines = (line for path in (Path(work) / "data").glob("api_logs*.jsonl*") for line in path.open("rb"))
        # One record may stand for the refusals of a second.
        recorded = sum(record.count for line in lines if (record := parse_line(line)))
    return before, after, traffic, recorded


def _at_rest(server: Server) -> State:
    """The worker once it has noticed that nobody calls: what it keeps then, it keeps."""
    seen, deadline = _state(server), time.monotonic() + 5
    while time.monotonic() < deadline:
        time.sleep(0.5)
        before, seen = seen, _state(server)
        if seen.descriptors >= before.descriptors:
            break
    return seen


def _state(server: Server) -> State:
    process = Path(f"/proc/{server.pids[0]}")
    descriptors, threads = (len(list((process / kind).iterdir())) for kind in ("fd", "task"))
    return State(server.memory_mb(), descriptors, threads)


def problems(before: State, after: State, traffic: Traffic, recorded: int, clients: int) -> list[str]:
    """What is not as it should be, in words."""
    made = sum(traffic.made.values())
    found = [f"{times} x {fault}" for fault, times in traffic.faults.most_common()]
    if after.memory_mb - before.memory_mb > MAY_GROW_MB:
        found.append(f"memory grew from {before.memory_mb:.0f} to {after.memory_mb:.0f} MB")
    if after.descriptors - before.descriptors > clients:
        found.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
    if after.threads > before.threads + 2:
        found.append(f"threads grew from {before.threads} to {after.threads}")
    if recorded != made:
        found.append(f"{made} calls left {recorded} records")
    return found


def main() -> None:
    """Soak, print, judge."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--clients", type=int, default=8)
    chosen = options.parse_args()
    before, after, traffic, recorded = soak(chosen.minutes * 60, chosen.clients)
    print(f"calls: {dict(traffic.made)}; records: {recorded}")
    print(f"after the warm-up: {before}\nat the end:        {after}")
    found = problems(before, after, traffic, recorded, chosen.clients)
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
