"""The loads: what was sent has arrived, and costs the process that answers something."""

import re
from pathlib import Path

import pytest

from measure.suite.json_load import json_round, json_turns
from measure.suite.lockstep import Lockstep
from measure.suite.peers import nginx
from measure.suite.sample import UPSTREAM_KEY
from measure.suite.server import Server, call, free_port, started
from measure.suite.stage import bare_flask, proxy
from measure.suite.stream_load import stream_round
from measure.suite.turn import cost_us
from measure.suite.upstreams import NGINX, paced_upstream


def test_paced_events_all_arrive_after_they_were_sent() -> None:
    with paced_upstream() as upstream:
        found = stream_round(upstream, streams=5, per_s=100, duration_s=0.3)

    assert (found.lost, len(found.delays_ms)) == (0, 150)
    assert 0 < found.percentile(0) <= found.percentile(0.99) < 10_000


def test_a_stream_is_as_long_as_was_asked() -> None:
    with paced_upstream() as upstream:
        status, body = call(upstream, "GET", "/v1/x?events=3&per_s=1000")

    assert (status, body.count(b"data: "), body.count(b"sent_ns")) == (200, 3, 3)


def test_a_call_costs_the_process_that_answers(tmp_path: Path) -> None:
    with bare_flask(tmp_path) as bare:
        (turns,) = json_turns([bare], 0.01)
        round_ = json_round(bare, requests=300, concurrency=4)

    assert cost_us(turns) > 0
    assert {turn.count for turn in turns} == {64}
    assert len(round_.times_ms) == 300
    assert round_.percentile(0.5) <= round_.percentile(0.99)


@pytest.mark.parametrize("is_paced", [False, True])
def test_events_go_through_a_proxy_over_tls(tmp_path: Path, is_paced: bool) -> None:
    with Lockstep(tmp_path) as lockstep, proxy(lockstep.server, tmp_path / "data") as proxied:
        (turns,) = lockstep.cost([proxied], streams=10, per_s=500, seconds=0.01, is_paced=is_paced)

    assert cost_us(turns) > 0
    assert {turn.count for turn in turns} == {200}


def test_a_refused_stream_is_told(tmp_path: Path) -> None:
    with (
        Lockstep() as lockstep,
        paced_upstream() as other,
        pytest.raises(RuntimeError, match=r"the server answered b'HTTP/1\.1 200"),
    ):
        lockstep.cost([other], streams=1, per_s=50, seconds=0, is_paced=False)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: apt-get install nginx-light)")
@pytest.mark.parametrize("has_tls", [False, True])
def test_nginx_passes_events_on_and_logs_them(tmp_path: Path, has_tls: bool) -> None:
    with Lockstep(tmp_path if has_tls else None) as lockstep, nginx(lockstep.server, tmp_path / "nginx") as peer:
        (turns,) = lockstep.cost([peer], streams=2, per_s=500, seconds=0.01, is_paced=False)

    assert cost_us(turns) > 0
    logged = (tmp_path / "nginx/access.log").read_text()
    assert re.findall(r'"POST (\S+) HTTP/1.1" (\d+)', logged) == [("/v1/chat/completions", "200")] * 2
    assert UPSTREAM_KEY in (tmp_path / "nginx/nginx.conf").read_text()


def test_a_server_that_does_not_start_is_told() -> None:
    with pytest.raises(RuntimeError, match="did not start"), started(["false"], Server(free_port())):
        pass
