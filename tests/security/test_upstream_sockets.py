"""What an upstream's sockets cost when nobody needs them, and what keeps those alive that somebody does."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, Server, open_sockets, wait_for

# So that a test need not wait for most of a minute.
SOON = """
import sys
from gevent import monkey
monkey.patch_all()
sys.path.insert(0, {root!r})
from llmproxy.transport import pool
pool.MAX_IDLE_S = 1.0
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
        timers = timers_to(port)
        upstream.release("probed", count=100)
        client.read_answer()

    assert timers and all(kind == KEEPALIVE_TIMER and 0 < when <= 60 for kind, when in timers)


def test_a_bursts_upstream_sockets_are_closed_by_themselves(upstream, tmp_path):
    (tmp_path / "soon").mkdir()
    (tmp_path / "soon" / "sitecustomize.py").write_text(SOON.format(root=str(Path(__file__).parents[2])))
    settings = {"UPSTREAM_URL": upstream.url, "PYTHONPATH": str(tmp_path / "soon")}
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
        wait_for(lambda: not sockets_to(worker, port), otherwise=lambda: sockets_to(worker, port))
        wait_for(lambda: total(server.metrics(), "llmproxy_upstream_connections", state="idle") == 0)
