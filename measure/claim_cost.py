"""
What admitting a request costs: claims per second through worker processes, on SQLite and on PostgreSQL.

    python -m measure.claim_cost [--workers 2] [--parallel 16] [--seconds 5] [--database postgresql://…]

Each worker is a process patched by gevent, as gunicorn's are, with so many greenlets that claim without a pause: all
of them one token (a hot row), then each another of 1,000. Without --database SQLite alone, in a temporary directory.
The database named must be empty of everything but this script's own tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TOKENS = 1000
_WORKER = "from measure.claim_cost import work; work()"


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=16, help="greenlets of each worker")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    # Here, for it loads what a worker may only load when it has been patched.
    from measure.issued_tokens import issue_tokens

    print(f"{options.workers} workers with {options.parallel} calls at a time each")
    print(f"{'':24}{'claims/s':>10}{'CPU µs':>9}{'median ms':>11}{'p99 ms':>9}")
    with tempfile.TemporaryDirectory() as directory:
        for name, url in (("SQLite", f"sqlite:///{directory}/claims.db"), ("PostgreSQL", options.database)):
            if url:
                tokens = issue_tokens(url, Path(directory), TOKENS)
                _measure(f"{name}, one token", options, url, tokens[:1])
                _measure(f"{name}, {TOKENS:,} tokens", options, url, tokens)


def _measure(name: str, options: argparse.Namespace, url: str, tokens: list[str]) -> None:
    task = {"url": url, "tokens": tokens, "parallel": options.parallel, "seconds": options.seconds}
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(options.workers)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(task) + "\n")
        worker.stdin.flush()
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    done: list[dict[str, Any]] = [json.loads(worker.communicate("go\n")[0]) for worker in workers]
    count = sum(len(one["times"]) for one in done)
    times = sorted(time for one in done for time in one["times"])
    rate = sum(len(one["times"]) / one["wall_s"] for one in done)
    cpu = sum(one["cpu_s"] for one in done) / count * 1e6
    print(f"{name:24}{rate:>10,.0f}{cpu:>9.0f}{times[count // 2]:>11.2f}{times[count * 99 // 100]:>9.2f}")


def work() -> None:
    """One worker: tells when it is ready, begins when told so, prints what it did."""
    from gevent import monkey

    monkey.patch_all()

    import gevent

    from database.claims import open_token_store

    task = json.loads(sys.stdin.readline())
    store = open_token_store(task["url"], default_limit=2**31 - 1)
    _claim_for(store, task["tokens"], 0.2, [])
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    wall_s, cpu_s = _clocks()
    greenlets = [
        gevent.spawn(_claim_for, store, task["tokens"][number:] + task["tokens"][:number], task["seconds"], times)
        for number in range(task["parallel"])
    ]
    gevent.joinall(greenlets, raise_error=True)
    ended_wall_s, ended_cpu_s = _clocks()
    print(json.dumps({"wall_s": ended_wall_s - wall_s, "cpu_s": ended_cpu_s - cpu_s, "times": times}))


def _claim_for(store: Any, tokens: list[str], seconds: float, times: list[float]) -> None:
    import gevent

    end_s, number = _clocks()[0] + seconds, 0
    while (began_s := _clocks()[0]) < end_s:
        assert store.claim(tokens[number % len(tokens)], datetime.now(UTC))
        times.append((_clocks()[0] - began_s) * 1000)
        number += 1
        # A worker passes calls on between two claims; here the others at least get their turn.
        gevent.sleep(0)


def _clocks() -> tuple[float, float]:
    import time

    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
