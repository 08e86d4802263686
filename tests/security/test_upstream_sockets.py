"""What an upstream's sockets cost when nobody needs them, and what keeps those alive that somebody does."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, Server, open_sockets, wait_for

# Idle connections are looked at every second, by a clock that stands still until a test lets it go on.
CLOCK = """
import os, sys, time
from gevent import monkey
monkey.patch_all()
sys.path.insert(0, {root!r})
from llmproxy.transport import pool
pool.MAX_IDLE_S = 1.0
class Clock:
    def monotonic():
        return time.monotonic() if os.path.exists({goes_on!r}) else 0.0
pool.time = Clock
"""
JIFFIES = os.sysconf("SC_CLK_TCK")
ESTABLISHED, KEEPALIVE_TIMER = "01", "02"


def timers_to(port: int) -> list[tuple[str, float]]:
    """Which timer runs for each of this machine's connections to a port, and in how many seconds it goes off."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, _, timer, *_ = line.split()
        if int(remote.partition(":")[2], 16) == port and state == ESTABLISHED:
            kind, _, when = timer.partition(":")
            found.append((kind, int(when, 16) / JIFFIES))
    return found


def sockets_to(pid: int, port: int) -> set[str]:
    """A process's connections to a port, whatever state they are in, by their numbers."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    numbers = {line[9] for line in lines if int(line[2].partition(":")[2], 16) == port}
    return numbers & open_sockets(pid)


def test_an_upstream_that_is_silent_for_long_is_probed_before_a_nat_forgets_it(proxy, upstream, token):
    port = urlsplit(upstream.url).port
    with HandClient(proxy.url) as client:
        client.send_request("GET", "/v1/models", token.bearer, ("x-mock-gate", "probed"))
        wait_for(lambda: upstream.requests("/v1/models"))
        # What was sent last is acknowledged first, which has a timer of its own.
        timers = wait_for(
            lambda: (found := timers_to(port)) and {kind for kind, _ in found} == {KEEPALIVE_TIMER} and found,
            otherwise=lambda: timers_to(port),
        )
        upstream.release("probed", count=100)
        client.read_answer()

    assert all(0 < when <= 60 for _, when in timers)


def test_a_bursts_upstream_sockets_are_closed_by_themselves(upstream, tmp_path):
    goes_on = tmp_path / "goes on"
    (tmp_path / "clock").mkdir()
    own_clock = CLOCK.format(root=str(Path(__file__).parents[2]), goes_on=str(goes_on))
    (tmp_path / "clock" / "sitecustomize.py").write_text(own_clock)
    settings = {"UPSTREAM_URL": upstream.url, "PYTHONPATH": str(tmp_path / "clock")}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server, ThreadPoolExecutor(60) as pool:
        token = server.issue_token()
        port = urlsplit(upstream.url).port
        (worker,) = server.worker_pids()
        gate = ("x-mock-gate", "burst")
        burst = [pool.submit(call, server.url, "GET", "/v1/models", token.bearer, gate) for _ in range(60)]
        wait_for(lambda: len(upstream.requests("/v1/models")) == 60)
        upstream.release("burst", count=1000)
        assert {answer.result().status for answer in burst} == {200}

        wait_for(lambda: total(server.metrics(), "llmproxy_upstream_connections", state="idle") == 60)
        # Nobody calls anything any more.
        goes_on.touch()
        wait_for(lambda: not sockets_to(worker, port), otherwise=lambda: sockets_to(worker, port))
        wait_for(lambda: total(server.metrics(), "llmproxy_upstream_connections", state="idle") == 0)
