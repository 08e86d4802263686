"""Writes docs/benchmark.json, and in docs/benchmark.md the part between two marks: the rest is written by hand."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from measure.suite.measurements import Figures
from measure.suite.targets import TARGETS, Target, verdict

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LIBRARIES = ("gunicorn", "gevent", "flask", "httptools", "requests", "orjson", "sqlalchemy")
# Within this much of what load and upstream do alone, it is them that were measured.
DOUBTFUL_SHARE = 0.9


def write(figures: Figures, docs: Path) -> None:
    """Take `figures` over into both files."""
    machine = _machine()
    told = {"machine": machine, "figures": {name: round(value, 4) for name, value in figures.items()}}
    (docs / "benchmark.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    page = docs / "benchmark.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    measured = f"{BEGIN}\n{_table(figures)}\n\n{_beside(figures)}\n\n{_machine_line(machine)}\n{END}"
    page.write_text(before + measured + rest.partition(END)[2], encoding="utf-8")


def _table(figures: Figures) -> str:
    lines = ["| | measured | must | reach for | meets |", "|---|---:|---:|---:|---|"]
    for target in TARGETS:
        must, reach = (_mark(target, value) for value in (target.must, target.reach))
        lines.append(f"| {target.what} | {_shown(target, figures)} | {must} | {reach} | {verdict(target, figures)} |")
    return "\n".join(lines)


def _mark(target: Target, value: float | None) -> str:
    return "-" if value is None else f"{'≥' if target.is_least else '≤'} {value:,g} {target.unit}".strip()


def _shown(target: Target, figures: Figures) -> str:
    value = figures[target.figure]
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"**{value:,.{digits}f}** {target.unit}".strip()


def _beside(figures: Figures) -> str:
    alone, two = figures["upstream_alone_per_s"], figures["workers_2_per_s"]
    is_doubtful = two >= alone * DOUBTFUL_SHARE
    lines = [
        f"- A JSON call: {figures['json_cpu_us']:.0f} µs of CPU, the bare view {figures['bare_cpu_us']:.0f} µs; the "
        f"ratio from {figures['json_cpu_ratio_lowest']:.2f} to {figures['json_cpu_ratio_highest']:.2f} over the "
        f"rounds. Under `python wsgi.py`: {figures['embedded_cpu_us']:.0f} µs.",
        f"- Calls a second: bare view, one worker {figures['bare_per_s']:,.0f}; proxy, one worker "
        f"{figures['workers_1_per_s']:,.0f}, two {two:,.0f}. Load and upstream alone do {alone:,.0f}"
        + (": too near, so this figure is theirs." if is_doubtful else "."),
        *(_stream_line(count, figures) for count in (100, 400, 800)),
        f"- All processes at two workers: {figures['memory_two_workers_mb']:.0f} MB, the master included; another "
        f"worker takes {figures['memory_another_worker_mb']:.0f} MB.",
        f"- {figures['idle_clients']:,.0f} idle clients kept by one worker: {figures['memory_idle_mb']:.0f} MB.",
        f"- A claim: {figures['claim_us']:.0f} µs with ten tokens. With 100,000 that are all in use, each as "
        f"often as any other, {figures['claim_growth_all_in_use']:.2f} times that.",
        f"- The slowest of all admin pages at {figures['dashboard_records']:,.0f} records: "
        f"{figures['slowest_page_ms']:.0f} ms.",
    ]
    return "\n".join(lines)


def _stream_line(count: int, figures: Figures) -> str:
    def figure(name: str) -> float:
        return figures[f"streams_{count}_{name}"]

    return (
        f"- {count} streams of 50/s, two workers: {figure('cpu_us'):.0f} µs an event, added p50 "
        f"{figure('added_p50_ms'):.1f} ms, p99 {figure('added_p99_ms'):.1f} ms, {figure('lost'):.0f} events lost. "
        f"Without the proxy the p99 is {figure('direct_p99_ms'):.1f} ms; upstream and load take "
        f"{figure('upstream_cpu_us'):.0f} and {figure('load_cpu_us'):.0f} µs an event themselves."
    )


def _machine() -> dict[str, str]:
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "processors": f"{len(os.sched_getaffinity(0))} x {processor[1] if processor else platform.machine()}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "libraries": libraries,
    }


def _commit() -> str:
    """The commit that was measured; "unknown" outside a checkout, or without git."""
    if shutil.which("git") is None:
        return "unknown"
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def _machine_line(machine: dict[str, str]) -> str:
    return (
        f"{machine['date']}, commit {machine['commit']}; {machine['processors']}, {machine['system']}; Python "
        f"{machine['python']}, {machine['libraries']}."
    )
