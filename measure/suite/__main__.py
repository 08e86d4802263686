"""
Measures everything and writes docs/benchmark.md and docs/benchmark.json.

    python -m measure.suite [--only NAME ...] [--quick] [--write]

Every server is started here, on 127.0.0.1, and ended by its pid; load is bounded. All of it takes some minutes.
Without --write, or with --only or --quick, the figures are only printed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measure.suite import measurements
from measure.suite.document import write
from measure.suite.measurements import Figures
from measure.suite.stage import ROOT
from measure.suite.targets import TARGETS, verdict


def plan(*, quick: bool) -> dict[str, Callable[[Path], Figures]]:
    """What is measured, by name, in order."""
    return {
        "json": lambda work: measurements.json_calls(
            work, rounds=1 if quick else 7, requests=3000 if quick else 8000
        ),
        "throughput": lambda work: measurements.throughput(work, rounds=1 if quick else 5, duration_s=3),
        "first-byte": lambda work: measurements.first_byte(work, requests=2000 if quick else 10_000),
        "streams": lambda work: measurements.streams(
            work, counts=(400,) if quick else (100, 400, 800), duration_s=4 if quick else 10
        ),
        "memory": lambda work: measurements.memory(work, streams=2000, idle=10_000),
        "start": measurements.starting,
        "growth": lambda _: measurements.growth(),
        "dashboard": lambda _: measurements.dashboard(records=100_000 if quick else 1_000_000),
    }


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=list(plan(quick=True)))
    options.add_argument("--quick", action="store_true", help="shorter rounds, whose figures are no good to keep")
    options.add_argument("--write", action="store_true", help="write docs/benchmark.md and docs/benchmark.json")
    chosen = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: Figures = {}
    for name, measured in plan(quick=chosen.quick).items():
        if chosen.only and name not in chosen.only:
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            found = measured(Path(work))
        print(f"{name} ({time.perf_counter() - started:.0f} s)")
        for figure, value in found.items():
            print(f"  {figure:28} {value:12.3f}")
        figures |= found
    figures |= measurements.event_beside_bare(figures)
    print()
    for target in TARGETS:
        if target.figure in figures:
            must = "" if target.must is None else f" (must {target.must:g})"
            print(f"{verdict(target, figures):12} {target.what}: {figures[target.figure]:.2f}{must}")
    if chosen.write and not chosen.only and not chosen.quick:
        write(figures, ROOT / "docs")


if __name__ == "__main__":
    main()
