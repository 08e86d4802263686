"""The files that were asked for, and the summary on standard output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from rich.console import Console

from benchmark.output.console import summary
from benchmark.output.csv_file import table
from benchmark.output.html_report import page
from benchmark.refused import Refused
from benchmark.session import Session


@dataclass(frozen=True)
class Files:
    """Where to write; None is nowhere, and `output` may be - for standard output."""

    output: str | None = None
    html: str | None = None
    csv: str | None = None

    def check(self) -> None:
        """Now, and not after the load, is the time to say that there is no such directory."""
        named = {"--output": self.output, "--html": self.html, "--csv": self.csv}
        paths = {option: name for option, name in named.items() if name is not None}
        for (one, path), (two, other) in combinations(paths.items(), 2):
            if path == other:
                raise Refused(f"{one} and {two} name the same file")
        for option, path in paths.items():
            if path == "-" and option != "--output":
                raise Refused(f"{option} names a file: only --output may be - for standard output")
            if path != "-":
                _check_writable(Path(path))

    def write(self, session: Session) -> None:
        """All of them, and the summary for people. Raises Refused for what could not be written, at the end."""
        figures = json.dumps(session.figures, indent=2, ensure_ascii=False) + "\n"
        to_stdout = self.output == "-"
        # What was measured for an hour is not lost because one of its places is full, or nobody reads the summary.
        complaints = [
            _write(self.output if not to_stdout else None, lambda: figures),
            _write(self.html, lambda: page(session)),
            _write(self.csv, lambda: table(session)),
            _show(session, figures if to_stdout else None),
        ]
        for complaint in filter(None, complaints):
            raise Refused(complaint)


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise Refused(f"cannot write {path}: {'it is a directory' if path.is_dir() else 'no such directory'}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Refused(f"cannot write {path}: permission denied")


def _write(path: str | None, made: Callable[[], str]) -> str | None:
    if path is None:
        return None
    try:
        Path(path).write_text(made(), encoding="utf-8")
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return None


def _show(session: Session, figures: str | None) -> str | None:
    # Standard output belongs to the JSON where it is wanted there.
    console = Console(stderr=figures is not None, highlight=False)
    # Caught, because rich ends the process with status 1 when nobody reads on, which is that of a broken limit.
    with console.capture() as caught:
        summary(console, session.figures)
    try:
        print(caught.get(), end="", file=console.file, flush=True)
        print(figures or "", end="", flush=True)
    except OSError as error:
        # Or the interpreter would try once more at its end, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else f"cannot write standard output: {error.strerror}"
    return None
