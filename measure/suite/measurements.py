"""What is measured, one function for each kind: servers up, rounds in turn, servers down. All figures by name."""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from measure.suite.json_load import JsonRound, json_round, requests_per_s
from measure.suite.stage import ROOT, Server, bare_flask, call, json_upstream, paced_upstream, proxy
from measure.suite.stream_load import StreamRound, open_stream, stream_round

Figures = dict[str, float]
PER_S = 50.0
_PAGE = re.compile(r"^(.{58}) +([\d.]+) +[\d.]+ +\d+", re.MULTILINE)


def json_calls(work: Path, *, rounds: int, requests: int) -> Figures:
    """CPU of a call beside the bare view, one worker, which has a processor to itself where there are two."""
    processors = sorted(os.sched_getaffinity(0))
    with ExitStack() as up:
        upstream = up.enter_context(json_upstream(work))
        sides = [
            up.enter_context(bare_flask(work)),
            up.enter_context(proxy(upstream, work / "one")),
            up.enter_context(proxy(upstream, work / "embedded", workers=0)),
        ]
        os.sched_setaffinity(0, processors[1:] or processors)
        for side in sides:
            side.run_on({processors[0]})
            json_round(side, requests=500, concurrency=32)
        turns = [[json_round(side, requests=requests, concurrency=32) for side in sides] for _ in range(rounds)]
        os.sched_setaffinity(0, processors)
    bare, proxied, embedded = zip(*turns, strict=True)
    return {
        "bare_cpu_us": _median(turn.cpu_us for turn in bare),
        "json_cpu_us": _median(turn.cpu_us for turn in proxied),
        "json_cpu_ratio": _median(ours.cpu_us / base.cpu_us for ours, base in zip(proxied, bare, strict=True)),
        "json_cpu_ratio_lowest": min(ours.cpu_us / base.cpu_us for ours, base in zip(proxied, bare, strict=True)),
        "json_cpu_ratio_highest": max(ours.cpu_us / base.cpu_us for ours, base in zip(proxied, bare, strict=True)),
        "embedded_cpu_us": _median(turn.cpu_us for turn in embedded),
    }


def throughput(work: Path, *, rounds: int, duration_s: int) -> Figures:
    """Requests per second with load and upstream on the same processors, and what those two do alone."""
    with ExitStack() as up:
        upstream = up.enter_context(json_upstream(work))
        sides = [
            up.enter_context(bare_flask(work)),
            *(up.enter_context(proxy(upstream, work / f"throughput{count}", workers=count)) for count in (1, 2)),
        ]
        alone = requests_per_s(upstream, work, duration_s=2)
        for side in sides:
            requests_per_s(side, work, duration_s=1)
        turns = [[requests_per_s(side, work, duration_s=duration_s) for side in sides] for _ in range(rounds)]
    bare, one, two = zip(*turns, strict=True)
    return {
        "upstream_alone_per_s": alone,
        "bare_per_s": _median(bare),
        "workers_1_per_s": _median(one),
        "workers_2_per_s": _median(two),
        "workers_2_beside_bare": _median(ours / base for ours, base in zip(two, bare, strict=True)),
    }


def first_byte(work: Path, *, requests: int) -> Figures:
    """What one client waits longer for an answer than without the proxy, the rounds in turn."""
    with json_upstream(work) as upstream, proxy(upstream, work / "first") as proxied:
        json_round(proxied, requests=200, concurrency=1)
        turns = [
            [json_round(side, requests=requests // 5, concurrency=1) for side in (upstream, proxied)]
            for _ in range(5)
        ]
    return {
        f"first_byte_p{round(share * 100)}_ms": _median(_added(turn, share) for turn in turns)
        for share in (0.5, 0.99)
    }


def _added(turn: list[JsonRound], share: float) -> float:
    direct, proxied = turn
    return proxied.percentile(share) - direct.percentile(share)


def streams(work: Path, *, counts: tuple[int, ...], duration_s: float) -> Figures:
    """Many streams of events through two workers, and straight from the upstream."""
    found: Figures = {}
    with paced_upstream() as upstream, proxy(upstream, work / "streams", workers=2) as proxied:
        stream_round(proxied, streams=20, per_s=PER_S, duration_s=1)
        for count in counts:
            direct, through = (
                stream_round(side, streams=count, per_s=PER_S, duration_s=duration_s) for side in (upstream, proxied)
            )
            found |= _stream_figures(count, direct, through)
    return found


def _stream_figures(count: int, direct: StreamRound, through: StreamRound) -> Figures:
    name = f"streams_{count}"
    return {
        f"{name}_cpu_us": through.cpu_us,
        f"{name}_lost": through.lost,
        f"{name}_added_p50_ms": through.percentile(0.5) - direct.percentile(0.5),
        f"{name}_added_p99_ms": through.percentile(0.99) - direct.percentile(0.99),
        f"{name}_direct_p99_ms": direct.percentile(0.99),
        f"{name}_upstream_cpu_us": direct.cpu_us,
        f"{name}_load_cpu_us": direct.own_cpu_us,
    }


def event_beside_bare(found: Figures) -> Figures:
    """What carries over to other machines of the CPU of an event; nothing where one of the two was not measured."""
    if not found.keys() >= {"streams_400_cpu_us", "bare_cpu_us"}:
        return {}
    return {"event_beside_bare": found["streams_400_cpu_us"] / found["bare_cpu_us"]}


def memory(work: Path, *, streams: int, idle: int) -> Figures:
    """Resident memory of a worker at rest, with open streams that say something now and then, with idle clients."""
    with paced_upstream() as upstream:
        # Migrations are loaded by the first start alone.
        with proxy(upstream, work / "memory"):
            pass
        with proxy(upstream, work / "memory") as proxied:
            _call_each_worker(proxied)
            found, whole_of_one = {"memory_rest_mb": proxied.memory_mb()}, proxied.whole_mb()
            found["memory_streams_mb"] = _memory_with_streams(proxied, streams)
        with proxy(upstream, work / "memory", workers=2) as proxied:
            _call_each_worker(proxied)
            found["memory_rest_share_mb"] = proxied.share_mb()
            found["memory_two_workers_mb"] = proxied.whole_mb()
            found["memory_another_worker_mb"] = proxied.whole_mb() - whole_of_one
        with proxy(upstream, work / "memory") as proxied:
            found["idle_clients"], found["memory_idle_mb"] = _memory_with_idle(proxied, idle)
    return found


def _call_each_worker(proxied: Server) -> None:
    """So often that each has certainly had some."""
    for _ in range(20 * len(proxied.pids)):
        call(proxied.port, "GET", "/v1/models", proxied.bearer)


def _memory_with_streams(proxied: Server, count: int) -> float:
    with ExitStack() as held:
        readers = [held.enter_context(open_stream(proxied, events=3, per_s=0.1)) for _ in range(count)]
        for reader in readers:
            reader.sock.settimeout(30)
            reader.read()
        return proxied.memory_mb()


def _memory_with_idle(proxied: Server, count: int) -> tuple[float, float]:
    """How many clients were answered and are kept, and the memory with them."""
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as held:
        answered = 0
        for _ in range(count):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", proxied.port), timeout=10))
            sock.sendall(request)
            answered += sock.recv(4096).startswith(b"HTTP/1.1 200")
        return answered, proxied.memory_mb()


def starting(work: Path) -> Figures:
    """From the command to the first answer, with a database that is there already; gunicorn with two workers."""
    times = []
    upstream = Server(9)
    for _ in range(4):
        started = time.perf_counter()
        with proxy(upstream, work / "start", workers=2):
            times.append(time.perf_counter() - started)
    return {"start_s": _median(times[1:])}


def growth() -> Figures:
    """A claim with 100,000 tokens instead of ten."""
    told = subprocess.run([sys.executable, "-m", "measure.claim_growth"], cwd=ROOT, capture_output=True, check=True)
    claim = json.loads(told.stdout)
    return {
        "claim_us": claim["us"][0],
        "claim_growth": claim["ratio"],
        "claim_growth_all_in_use": claim["ratio_all_in_use"],
    }


def dashboard(*, records: int) -> Figures:
    """The overview's time over a log of many records: the slower of the median of its three spans."""
    command = [sys.executable, "-m", "measure.admin_pages", "--records", str(records), "--repeat", "5"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    # A line is a page, its median and its slowest time in milliseconds, and its size.
    pages = {name.strip(): float(median) for name, median in _PAGE.findall(told)}
    return {
        "dashboard_ms": max(took for name, took in pages.items() if name.startswith("overview")),
        "slowest_page_ms": max(pages.values()),
        "dashboard_records": records,
    }


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
