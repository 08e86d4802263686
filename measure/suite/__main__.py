"""
Measures everything and writes docs/benchmark.md and docs/benchmark.json, and the short table of README.md.

    python -m measure.suite [--only NAME ...] [--quick] [--write]
    python -m measure.suite --against CHECKOUT [--quick]

Every server is started here, on 127.0.0.1, and ended by its pid; load is bounded. All of it takes a quarter of an
hour. Without --write, or with --only or --quick, the figures are only printed.
With --against, the CPU of a call and of an event is measured in this checkout and in another one in turn, until the
difference is known well enough: three to six minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure.suite import measurements
from measure.suite.against import STARTS, compare
from measure.suite.document import write
from measure.suite.measurements import Figures
from measure.suite.peers import peers
from measure.suite.server import ROOT
from measure.suite.targets import TARGETS

# Above this many processes for a processor, somebody else is at work.
BUSY_LOAD = 0.5


def plan(*, quick: bool) -> dict[str, Callable[[Path], Figures]]:
    """What is measured, by name, in order."""
    rounds = 1 if quick else 2
    return {
        "json": lambda work: measurements.json_calls(work, seconds=2 if quick else 30),
        "throughput": lambda work: measurements.throughput(
            work, rounds=1 if quick else 3, duration_s=1 if quick else 3
        ),
        "first-byte": lambda work: measurements.first_byte(work, requests=1000 if quick else 10_000),
        "events": lambda work: measurements.events(work, seconds=2 if quick else 15),
        "delays": lambda work: measurements.delays(work, rounds=rounds, duration_s=2 if quick else 5),
        "streams": lambda work: measurements.many_streams(work, count=800, duration_s=2 if quick else 10),
        "waits": lambda work: measurements.waits(work, rounds=rounds, seconds=0.5 if quick else 1.5),
        "memory": lambda work: measurements.memory(
            work, streams=200 if quick else 2000, idle=1000 if quick else 9_000
        ),
        "start": lambda work: measurements.starting(work, times=1 if quick else 5),
        "growth": lambda _: measurements.growth(tokens=10_000 if quick else 100_000),
        "dashboard": lambda _: measurements.dashboard(records=10_000 if quick else 1_000_000),
    }


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=list(plan(quick=True)))
    options.add_argument("--quick", action="store_true", help="shorter rounds, whose figures are no good to keep")
    options.add_argument("--write", action="store_true", help="write what was measured into docs/ and README.md")
    options.add_argument("--against", type=Path, metavar="CHECKOUT", help="a directory with another version's code")
    chosen = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = os.getloadavg()[0]
    if load > BUSY_LOAD * len(os.sched_getaffinity(0)):
        print(f"This machine is at work already (load {load:.1f}): only ratios count, and those less than else.")
    if chosen.against:
        if not (chosen.against / "wsgi.py").exists():
            options.error(f"{chosen.against} holds no wsgi.py: name a checkout of llm-proxy")
        _tell_differences(chosen.against.resolve(), quick=chosen.quick)
        return
    figures = _measured(plan(quick=chosen.quick), chosen.only)
    if chosen.write and not chosen.only and not chosen.quick:
        write(figures, ROOT, load=load)


def _measured(parts: dict[str, Callable[[Path], Figures]], only: list[str] | None) -> Figures:
    if missing := {"nginx", "envoy"} - peers().keys():
        print(f"Not measured, because this machine lacks them: {', '.join(sorted(missing))}.")
    figures: Figures = {}
    for name, measured in parts.items():
        if only and name not in only:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            found = measured(Path(work))
        print(f"{name} ({time.perf_counter() - started:.0f} s)")
        for figure, value in found.items():
            print(f"  {figure:60} {value:12.3f}", flush=True)
        figures |= found
    print()
    for target in TARGETS:
        if target.figure in figures:
            marks = f"must {target.must:g}, reach {target.reach:g}"
            print(f"{target.verdict(figures):12} {target.what}: {figures[target.figure]:.2f} {target.unit} ({marks})")
    return figures


def _tell_differences(other: Path, *, quick: bool) -> None:
    print(f"{'CPU, µs':32}{'here':>9}{'there':>9}{'difference':>12}{'95 % interval':>20}")
    with tempfile.TemporaryDirectory() as work:
        seconds, starts = (2, (2, 2)) if quick else (7, STARTS)
        for number, told in enumerate(compare(other, Path(work), seconds=seconds, starts=starts), 2):
            print(f"after {number} starts", flush=True)
            for found in told:
                interval = f"{found.low:+.1f} to {found.high:+.1f} %"
                costs = f"{found.here_us:9.1f}{found.there_us:9.1f}{found.percent:+10.1f} %"
                print(f"  {found.what:30}{costs}{interval:>20}  {found.verdict}", flush=True)


if __name__ == "__main__":
    main()
