"""Writes docs/benchmark.json, and between two marks of docs/benchmark.md and README.md what was measured."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from measure.suite.measurements import COMPUTED_MS, COUNTS, WAIT_MS, Figures
from measure.suite.peers import ENVOY
from measure.suite.targets import TARGETS, Target
from measure.suite.upstreams import NGINX

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LIBRARIES = ("gunicorn", "gevent", "flask", "httptools", "requests", "orjson", "sqlalchemy")
SIDES = {
    "nginx": "nginx, passing on",
    "envoy": "Envoy, passing on",
    "bare": "a bare Flask view",
    "proxy": "**llm-proxy**, everything on",
}
# Within this much of what load and upstream do alone, it is them that were measured.
DOUBTFUL_SHARE = 0.9
README_FIGURES = (
    "json_beside_bare", "event_400_beside_envoy", "tls_event_400_beside_envoy", "first_byte_p50_ms",
    "memory_rest_share_mb", "memory_streams_share_mb", "start_s",
)  # fmt: skip


def write(figures: Figures, root: Path, *, load: float) -> None:
    """
    Take `figures` over into the three files of a checkout.

    Args:
        load: Processes that wanted a processor before anything was measured, on average.
    """
    machine = _machine(load)
    told = {"machine": machine, "figures": {name: round(value, 4) for name, value in figures.items()}}
    (root / "docs" / "benchmark.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    parts = (_targets(figures), _side_by_side(figures), _remarks(figures), _waits(figures), _machine_line(machine))
    _replace(root / "docs" / "benchmark.md", "\n\n".join(parts))
    _replace(root / "README.md", _short(figures))


def _replace(page: Path, text: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _targets(figures: Figures) -> str:
    lines = ["| | measured | must | reach for | meets |", "|---|---:|---:|---:|---|"]
    for target in TARGETS:
        must, reach = (f"≤ {mark:g} {target.unit}".strip() for mark in (target.must, target.reach))
        lines.append(
            f"| {target.what} | {_measured(target, figures)} | {must} | {reach} | {target.verdict(figures)} |"
        )
    return "\n".join(lines)


def _measured(target: Target, figures: Figures) -> str:
    value = figures.get(target.figure)
    return "-" if value is None else f"**{_shown(value)}** {target.unit}".strip()


def _side_by_side(figures: Figures) -> str:
    streams = [f"µs an event, {count} streams" for count in COUNTS]
    titles = [
        "", "CPU µs a JSON call", "calls/s", *(f"CPU {title}" for title in streams),
        *(f"{title}, TLS" for title in streams), "added p50 / p99 ms", "MB",
    ]  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    for side, what in SIDES.items():
        names = (
            "json_us", "per_s", *(f"event_{count}_us" for count in COUNTS),
            *(f"tls_event_{count}_us" for count in COUNTS), "added_p50_ms", "added_p99_ms", "memory_mb",
        )  # fmt: skip
        cells = [_cell(figures, f"{side}_{name}") for name in names]
        lines.append(f"| {' | '.join([what, *cells[:6], ' / '.join(cells[6:8]), cells[8]])} |")
    return "\n".join(lines)


def _cell(figures: Figures, name: str) -> str:
    return _shown(figures[name]) if name in figures else "-"


def _shown(value: float) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _remarks(figures: Figures) -> str:
    alone, two = figures["alone_per_s"], figures["two_workers_per_s"]
    lines = [
        f"- A JSON call beside the bare view: from {figures['json_beside_bare_lowest']:.2f} to "
        f"{figures['json_beside_bare_highest']:.2f} over the rounds. Under `python wsgi.py` it takes "
        f"{figures['embedded_json_us']:.0f} µs.",
        f"- Two workers make {two:,.0f} calls a second. Load and upstream alone do {alone:,.0f}"
        + (": too near, so this figure is theirs." if two >= alone * DOUBTFUL_SHARE else "."),
        f"- 800 streams of 50/s, two workers: {figures['streams_800_cpu_us']:.0f} µs an event, added p50 "
        f"{figures['streams_800_added_p50_ms']:.1f} ms, p99 {figures['streams_800_added_p99_ms']:.1f} ms. Without "
        f"the proxy the p99 is {figures['streams_800_direct_p99_ms']:.1f} ms; upstream and load take "
        f"{figures['streams_800_upstream_cpu_us']:.0f} and {figures['streams_800_load_cpu_us']:.0f} µs an event "
        "themselves.",
        f"- A worker at rest, what it has in common with others included: {figures['memory_rest_mb']:.0f} MB. All "
        f"processes at two workers: {figures['memory_two_workers_mb']:.0f} MB, the master included; another worker "
        f"takes {figures['memory_another_worker_mb']:.0f} MB. {figures['idle_clients']:,.0f} idle clients kept by "
        f"one worker: {figures['memory_idle_mb']:.0f} MB.",
        f"- A claim: {figures['claim_us']:.0f} µs with ten tokens; with 100,000, of which ten are in use, "
        f"{figures['claim_growth']:.2f} times that.",
    ]
    return "\n".join(lines)


def _waits(figures: Figures) -> str:
    waits = {name.removeprefix(WAIT_MS): value for name, value in figures.items() if name.startswith(WAIT_MS)}
    lines = [
        "| What one client or upstream sends | the longest wait of another's `/healthz`, ms | "
        "of that the worker computed, ms |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {shape} | {_shown(waits[shape])} | {_cell(figures, COMPUTED_MS + shape)} |"
        for shape in sorted(waits, key=waits.__getitem__, reverse=True)
    ]
    return "\n".join(lines)


def _short(figures: Figures) -> str:
    chosen = [target for target in TARGETS if target.figure in README_FIGURES]
    return "\n".join(
        ["| | |", "|---|---:|", *(f"| {target.what} | {_measured(target, figures)} |" for target in chosen)]
    )


def _machine(load: float) -> dict[str, str]:
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _output("git", "rev-parse", "--short", "HEAD").strip() or "unknown",
        "processors": f"{len(os.sched_getaffinity(0))} x {processor[1] if processor else platform.machine()}",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load": f"{load:.1f}",
        "python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "peers": ", ".join(
            f"{name} {found[1]}"
            for name, command in {"nginx": (str(NGINX), "-v"), "Envoy": (str(ENVOY), "--version")}.items()
            if (found := re.search(r"/(\d+\.\d+\.\d+)", _output(*command)))
        ),
    }


def _output(*command: str) -> str:
    """What a program says; nothing where it is not there."""
    if shutil.which(command[0]) is None:
        return ""
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout + told.stderr


def _machine_line(machine: Mapping[str, str]) -> str:
    return (
        f"{machine['date']}, commit {machine['commit']}; {machine['processors']}, {machine['system']}, load before "
        f"the first measurement {machine['load']}; Python {machine['python']}, {machine['libraries']}; "
        f"{machine['peers']}."
    )
