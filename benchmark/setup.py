"""What a figure was measured with, so that somebody else can measure it again: flags, payload, version, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
SHOWN_LETTERS = 2000
# What no file and no report may hold.
SECRETS = frozenset({"--token", "--token2"})
SECRET_HEADERS = ("auth", "cookie", "key", "secret", "token")


def setup(context: click.Context, bodies: Sequence[bytes]) -> dict[str, Any]:
    """All of it, as it stands in `results.json`."""
    return {
        "command": command(context),
        "payload": payload(bodies),
        "version": version(),
        "machine": machine(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def command(context: click.Context) -> str:
    """What was typed, fit to be typed again, without the secrets in it."""
    words = ["llm-benchmark"]
    for param in context.command.params:
        if context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
            words += _words(param.opts[0], context.params[str(param.name)])
    return shlex.join(words)


def _words(option: str, value: Any) -> Iterable[str]:
    if value is True:
        return [option]
    values = value if isinstance(value, tuple) else (value,)
    return [f"{option}={_without_secret(option, each)}" for each in values]


def _without_secret(option: str, value: Any) -> str:
    if option in SECRETS:
        return "..."
    name, colon, _ = str(value).partition(":")
    is_secret = option == "--header" and any(word in name.lower() for word in SECRET_HEADERS)
    return f"{name}{colon} ..." if is_secret else f"{value:g}" if isinstance(value, float) else str(value)


def payload(bodies: Sequence[bytes]) -> dict[str, Any]:
    """How many bodies, what all of them hash to, and the first, as far as it can be shown."""
    text = bodies[0].decode("utf-8", "replace")
    return {
        "bodies": len(bodies),
        "bytes": sum(map(len, bodies)),
        "sha256": hashlib.sha256(b"\n".join(bodies)).hexdigest(),
        "first": text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}...",
    }


def version() -> str:
    """Of this project."""
    return str(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"])


def machine() -> dict[str, Any]:
    """That this runs on; the server may have another."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
