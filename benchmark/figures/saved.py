"""A run that was saved as JSON, beside one of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from benchmark.figures.comparison import STATISTICS, beside
from benchmark.figures.percentiles import Figures
from benchmark.refused import Refused, read_file

NUMBERS = ("requests", "concurrency", "total_duration_ms", "throughput_rps", "error_rate", "errors")
LATENCIES = ("average_latency_ms", "p50_latency_ms", "p90_latency_ms", "p99_latency_ms")
# What a run that promises twelve keys, and no more, may not say.
UNKNOWN: Figures = {
    "method": "POST",
    "interrupted": False,
    "unfinished": 0,
    "errors_by_cause": [],
    "client_warning": None,
    **dict.fromkeys(("min_latency_ms", "max_latency_ms", "p95_latency_ms")),
}
# Two runs that are to be held against each other have these in common.
COMMON = ("endpoint", "method", "concurrency", "rate_rps", "arrivals", "warmup_requests")

# And what is not told of the saved one again.
OF_ITS_OWN = frozenset({"compare", "sweep", "setup", "rounds", "difference"})


def read_saved(path: str) -> Figures:
    """The figures in a file that --output wrote. Raises Refused for any other."""
    if not Path(path).exists():
        raise Refused(f"--compare: {path} is neither a URL nor a file")
    try:
        saved = orjson.loads(read_file(path, "--compare"))
    except ValueError:
        saved = None
    if not _is_figures(saved) or not all(map(_is_figures, saved.get("sweep", []))):
        raise Refused(f"--compare: {path} holds no figures of llm-benchmark")
    found: Figures = UNKNOWN | saved | {"saved": path}
    if "sweep" in saved:
        found["sweep"] = [UNKNOWN | level | {"saved": path} for level in saved["sweep"]]
    return found


def _is_figures(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(name), str) for name in ("base_url", "endpoint"))
        and all(_is_number(found.get(name)) for name in NUMBERS)
        and all(name in found and (found[name] is None or _is_number(found[name])) for name in LATENCIES)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compared(figures: Figures, saved: Figures, setup: Figures, *, is_swept: bool) -> Figures:
    """
    The saved figures of the same level, or of whichever there is, as `compare`; nothing where a sweep had none.

    There are no intervals: of a run at another time nobody knows what else was different then.
    """
    same = (level for level in saved.get("sweep", [saved]) if _level(level) == _level(figures))
    other = next(same, None if is_swept else saved)
    if other is None:
        return {}
    kept = {name: value for name, value in other.items() if name not in OF_ITS_OWN}
    difference = {name: beside(figures[name], other.get(name)) for name in STATISTICS if name in figures}
    differs_in = [_change(name, figures, other) for name in COMMON if figures.get(name) != other.get(name)]
    differs_in += _differs_in_setup(setup, saved.get("setup"))
    return {"compare": kept | {"difference": difference, "differs_in": differs_in}}


def _level(figures: Figures) -> tuple[str, float]:
    return ("rate", figures["rate_rps"]) if "rate_rps" in figures else ("users", figures["concurrency"])


def _change(name: str, figures: Figures, other: Figures) -> str:
    return f"{name} {figures.get(name)} (was {other.get(name)})"


def _differs_in_setup(now: Figures, then: Any) -> list[str]:
    if not isinstance(then, dict) or not isinstance(then.get("payload"), dict):
        return ["payload, version and machine of then are unknown"]
    found = ["payload"] if now["payload"]["sha256"] != then["payload"].get("sha256") else []
    return found + [key for key in ("version", "machine") if now[key] != then.get(key)]
