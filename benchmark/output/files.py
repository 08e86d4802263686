"""The files that were asked for, and the summary on standard output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rich.console import Console

from benchmark.output.console import summary
from benchmark.output.html_report import page
from benchmark.refused import Refused
from benchmark.session import Session


def check_writable(output: str | None, html: str | None) -> None:
    """Now, and not after the load, is the time to say that there is no such directory."""
    if output is not None and output == html:
        raise Refused("--output and --html name the same file")
    for path in (Path(name) for name in (output, html) if name not in (None, "-")):
        if path.is_dir() or not path.parent.is_dir():
            raise Refused(f"cannot write {path}: {'it is a directory' if path.is_dir() else 'no such directory'}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"cannot write {path}: permission denied")


def tell(session: Session, output: str | None, html: str | None) -> None:
    """Writes the files, and the summary for people. Raises Refused for what could not be written, at the end."""
    figures = json.dumps(session.figures, indent=2, ensure_ascii=False) + "\n"
    # What was measured for an hour is not lost because one of its places is full, or nobody reads the summary.
    complaints = [_write(output, figures)] if output not in (None, "-") else []
    if html is not None:
        complaints.append(_write(html, page(session)))
    complaints.append(_show(session, figures if output == "-" else None))
    for complaint in filter(None, complaints):
        raise Refused(complaint)


def _write(path: str, text: str) -> str | None:
    try:
        Path(path).write_text(text, encoding="utf-8")
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
