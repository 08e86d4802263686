"""What is measured, one function for each kind: servers up, rounds in turn, servers down. All figures by name."""

from __future__ import annotations

import json
import re
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from measure.suite.json_load import JsonRound, json_round, json_turns, requests_per_s
from measure.suite.lockstep import Lockstep
from measure.suite.peers import peers
from measure.suite.sample import LIMITS, LONG_BODY
from measure.suite.server import ROOT, Server, call, one_kept_free
from measure.suite.stage import bare_flask, proxy, proxy_that_answers
from measure.suite.stream_load import StreamRound, open_stream, stream_round
from measure.suite.turn import Turn, cost_us
from measure.suite.upstreams import json_upstream, paced_upstream
from measure.suite.waiting import NOTHING, longest_waits

Figures = dict[str, float]
PER_S = 50.0
COUNTS = (100, 400)
# What a figure's name begins with that tells how long a shape kept another client waiting.
WAIT_MS = "wait_ms "
# ... and how much of that time the worker computed.
COMPUTED_MS = "computed_ms "
_PAGE = re.compile(r"^(.{58}) +([\d.]+) +[\d.]+ +\d+", re.MULTILINE)


def json_calls(work: Path, *, seconds: float) -> Figures:
    """CPU of a call, one worker each, which has a processor to itself where there are two."""
    with one_kept_free() as processor, ExitStack() as up:
        upstream = up.enter_context(json_upstream(work))
        pair = {
            "bare": up.enter_context(bare_flask(work)),
            "proxy": up.enter_context(proxy(upstream, work / "one")),
        }
        others = {
            "embedded": up.enter_context(proxy(upstream, work / "embedded", workers=0)),
            **_peers(up, upstream, work),
        }
        ruled = up.enter_context(proxy(upstream, work / "ruled", limits=LIMITS))
        for side in (*pair.values(), *others.values(), ruled):
            side.run_on(processor)
        bare, proxied = json_turns(list(pair.values()), seconds)
        rest = json_turns(list(others.values()), seconds)
        base, with_rules = map(cost_us, json_turns([pair["bare"], ruled], seconds, LONG_BODY))
    costs = dict(zip(pair | others, map(cost_us, (bare, proxied, *rest)), strict=True))
    ratios = [cost_us(ours) / cost_us(base) for ours, base in zip(_parts(proxied), _parts(bare), strict=True)]
    return {
        **{f"{name}_json_us": cost for name, cost in costs.items()},
        "json_beside_bare": costs["proxy"] / costs["bare"],
        "json_beside_bare_lowest": min(ratios),
        "json_beside_bare_highest": max(ratios),
        "ruled_json_us": with_rules,
        "ruled_json_beside_bare": with_rules / base,
    }


def _parts(turns: list[Turn]) -> list[list[Turn]]:
    """Five of the same length."""
    length = len(turns) // 5 or 1
    return [turns[begin : begin + length] for begin in range(0, 5 * length, length)][: len(turns)]


def throughput(work: Path, *, rounds: int, duration_s: int) -> Figures:
    """Requests per second with load and upstream on the same processors, and what those two do alone."""
    with ExitStack() as up:
        upstream = up.enter_context(json_upstream(work))
        sides = {
            "bare": up.enter_context(bare_flask(work)),
            "proxy": up.enter_context(proxy(upstream, work / "one")),
            "two_workers": up.enter_context(proxy(upstream, work / "two", workers=2)),
            **_peers(up, upstream, work),
        }
        alone = requests_per_s(upstream, work, duration_s=2)
        for side in sides.values():
            requests_per_s(side, work, duration_s=1)
        turns = [
            {name: requests_per_s(side, work, duration_s=duration_s) for name, side in sides.items()}
            for _ in range(rounds)
        ]
    return {"alone_per_s": alone, **{f"{name}_per_s": _median(turn[name] for turn in turns) for name in sides}}


def first_byte(work: Path, *, requests: int) -> Figures:
    """What one client waits longer for a response than without the proxy, the rounds in turn."""
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


def events(work: Path, *, seconds: float) -> Figures:
    """CPU of a streamed event beside the peers, one worker each, in the clear and with TLS to the upstream."""
    found: Figures = {}
    for prefix, certificate_in in (("", None), ("tls_", work)):
        with one_kept_free() as processor, ExitStack() as up:
            lockstep = up.enter_context(Lockstep(certificate_in))
            sides = {
                "proxy": up.enter_context(proxy(lockstep.server, work / f"{prefix}proxy")),
                **_peers(up, lockstep.server, work, prefix),
            }
            for side in sides.values():
                side.run_on(processor)
            for count in COUNTS:
                turns = lockstep.cost(
                    list(sides.values()), streams=count, per_s=PER_S, seconds=seconds, is_paced=True
                )
                costs = dict(zip(sides, map(cost_us, turns), strict=True))
                found |= _event_figures(f"{prefix}event_{count}", costs)
    return found


def _event_figures(name: str, costs: dict[str, float]) -> Figures:
    return {
        **{f"{side}_{name}_us": cost for side, cost in costs.items()},
        **{f"{name}_beside_{side}": costs["proxy"] / cost for side, cost in costs.items() if side != "proxy"},
    }


def delays(work: Path, *, duration_s: float, rounds: int) -> Figures:
    """What 100 streams wait longer for an event than without a proxy, one worker each; and the memory with them."""
    with ExitStack() as up:
        upstream = up.enter_context(paced_upstream())
        sides = {"proxy": up.enter_context(proxy(upstream, work / "proxy")), **_peers(up, upstream, work)}
        direct, *through = (
            [stream_round(side, streams=COUNTS[0], per_s=PER_S, duration_s=duration_s) for _ in range(rounds)]
            for side in (upstream, *sides.values())
        )
        memory = {f"{name}_memory_mb": side.memory_mb() for name, side in sides.items()}
    return memory | {
        f"{name}_added_p{round(share * 100)}_ms": _median(
            ours.percentile(share) - base.percentile(share) for ours, base in zip(taken, direct, strict=True)
        )
        for name, taken in zip(sides, through, strict=True)
        for share in (0.5, 0.99)
    }


def many_streams(work: Path, *, count: int, duration_s: float) -> Figures:
    """As many streams as two processors carry, through two workers and straight from the upstream."""
    with paced_upstream() as upstream, proxy(upstream, work / "streams", workers=2) as proxied:
        stream_round(proxied, streams=20, per_s=PER_S, duration_s=1)
        direct, through = (
            stream_round(side, streams=count, per_s=PER_S, duration_s=duration_s) for side in (upstream, proxied)
        )
    return _stream_figures(f"streams_{count}", direct, through)


def _stream_figures(name: str, direct: StreamRound, through: StreamRound) -> Figures:
    return {
        f"{name}_cpu_us": through.cpu_us,
        f"{name}_lost": through.lost,
        f"{name}_added_p50_ms": through.percentile(0.5) - direct.percentile(0.5),
        f"{name}_added_p99_ms": through.percentile(0.99) - direct.percentile(0.99),
        f"{name}_direct_p99_ms": direct.percentile(0.99),
        f"{name}_upstream_cpu_us": direct.cpu_us,
        f"{name}_load_cpu_us": direct.own_cpu_us,
    }


def waits(work: Path, *, seconds: float, rounds: int) -> Figures:
    """The longest that any shape of request or response keeps another client's /healthz waiting."""
    by_shape = longest_waits(work, seconds=seconds, rounds=rounds)
    return {
        "longest_wait_ms": max(wait.ms for shape, wait in by_shape.items() if shape != NOTHING),
        **{WAIT_MS + shape: wait.ms for shape, wait in by_shape.items()},
        **{COMPUTED_MS + shape: wait.computed_ms for shape, wait in by_shape.items()},
    }


def memory(work: Path, *, streams: int, idle: int) -> Figures:
    """A worker's memory at rest, with so many open streams that say something now and then, and with idle clients."""
    with paced_upstream() as upstream:
        # Migrations are loaded by the first start alone.
        with proxy(upstream, work / "memory"):
            pass
        with proxy(upstream, work / "memory") as proxied:
            _call_each_worker(proxied)
            found, whole_of_one = {"memory_rest_mb": proxied.memory_mb()}, proxied.whole_mb()
        with proxy(upstream, work / "memory", workers=2) as proxied:
            _call_each_worker(proxied)
            found["memory_rest_share_mb"] = proxied.share_mb()
            found["memory_two_workers_mb"] = proxied.whole_mb()
            found["memory_another_worker_mb"] = proxied.whole_mb() - whole_of_one
            # However the system deals them out: the average of two workers with twice as many.
            found["memory_streams_share_mb"] = _share_with_streams(proxied, 2 * streams)
        with proxy(upstream, work / "memory") as proxied:
            found["idle_clients"], found["memory_idle_mb"] = _memory_with_idle(proxied, idle)
    return found


def _call_each_worker(proxied: Server) -> None:
    """So often that each has certainly had some."""
    for _ in range(20 * len(proxied.pids)):
        call(proxied, "GET", "/v1/models")


def _share_with_streams(proxied: Server, count: int) -> float:
    with ExitStack() as held:
        readers = [held.enter_context(open_stream(proxied, events=3, per_s=0.1)) for _ in range(count)]
        for reader in readers:
            reader.sock.settimeout(30)
            reader.read()
        return proxied.share_mb()


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


def starting(work: Path, *, times: int) -> Figures:
    """From the command to the first response, with a database that is there already; gunicorn with two workers."""
    upstream, secret = Server(9), secrets.token_urlsafe(24)
    took = []
    for _ in range(times + 1):
        started = time.perf_counter()
        with proxy_that_answers(upstream, work / "start", secret, workers=2):
            took.append(time.perf_counter() - started)
    return {"start_s": _median(took[1:])}


def growth(*, tokens: int) -> Figures:
    """A claim with so many tokens instead of ten."""
    command = [sys.executable, "-m", "measure.claim_growth", "--tokens", str(tokens)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    claim = json.loads(told.stdout)
    return {
        "claim_us": claim["us"][0],
        "claim_growth": claim["ratio"],
        "claim_growth_all_in_use": claim["ratio_all_in_use"],
    }


def dashboard(*, records: int) -> Figures:
    """The slowest admin page over a log of many records, by its median."""
    command = [sys.executable, "-m", "measure.admin_pages", "--records", str(records), "--repeat", "5"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    # A line is a page, its median and its slowest time in milliseconds, and its size.
    pages = {name.strip(): float(median) for name, median in _PAGE.findall(told)}
    return {"slowest_page_ms": max(pages.values()), "dashboard_records": records}


def _peers(up: ExitStack, upstream: Server, work: Path, prefix: str = "") -> dict[str, Server]:
    return {name: up.enter_context(peer(upstream, work / f"{prefix}{name}")) for name, peer in peers().items()}


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)
