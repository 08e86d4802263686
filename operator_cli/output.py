"""
What is printed: tables for people, JSON for programs, and secrets, which are seen once.

Whatever cannot be printed raises OSError, which `operator_cli.__main__` words.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TextIO

import click


def show(data: Any, *, as_json: bool, columns: tuple[str, ...]) -> None:
    """Print rows, or a single one, on stdout: these columns of them, or all of it as JSON."""
    if as_json:
        put(_json(data))
        return
    rows = data if isinstance(data, list) else [data]
    put("\n".join(table([[_text(row.get(column)) for column in columns] for row in rows], columns)))


def show_secrets(issued: Iterable[dict[str, Any]], text: str) -> None:
    """Print a text with secrets of tokens. Raises ClickException that says whose they were, where that fails."""
    try:
        put(text)
    except OSError as exc:
        ids = " ".join(row["id"] for row in issued)
        raise click.ClickException(
            f"Nobody has seen the secret of {ids}, since stdout cannot be written: {exc.strerror}. End it by"
            " `llm-proxy tokens revoke ID`, or give it another one by `llm-proxy tokens rotate ID --grace 0`."
        ) from exc


def show_issued(issued: dict[str, Any], *, as_json: bool) -> None:
    """Print the answer that has tokens' secrets: one alone, several with their labels, or all of it as JSON."""
    rows = issued.get("data", [issued])
    if as_json:
        show_secrets(rows, _json(issued))
    elif "data" in issued:
        show_secrets(rows, "\n".join(f"{row['label'] or row['id']}\t{row['token']}" for row in rows))
    else:
        show_secrets(rows, issued["token"])
        tell(f"token {issued['id']} expires at {issued['expires_at']}")


def require_stdout() -> None:
    """Raise OSError where stdout is closed: for who is about to ask for what can be printed once alone."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")


def put(text: str) -> None:
    """Print on stdout."""
    require_stdout()
    _echo(text, sys.stdout)


def tell(text: str) -> None:
    """Print on stderr, if that takes it: it matters less than what was done."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            _echo(text, sys.stderr)


def _echo(text: str, stream: TextIO) -> None:
    try:
        click.echo(text, file=stream)
    except OSError:
        # What waits in the buffer would fail once more at the end, and Python's words and status would be told.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        raise


def _json(data: Any) -> str:
    is_unicode = (sys.stdout is not None) and sys.stdout.encoding.lower().startswith("utf")
    return json.dumps(data, indent=2, ensure_ascii=not is_unicode)


def table(rows: list[list[str]], head: Iterable[str]) -> Iterable[str]:
    """Lines with aligned columns; numbers to the right."""
    titles = [title.upper().replace("_", " ") for title in head]
    widths = [max(len(row[at]) for row in [titles, *rows]) for at in range(len(titles))]
    are_numbers = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(titles))]
    for row in [titles, *rows]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, are_numbers, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _is_number(text: str) -> bool:
    return text == "-" or text.removeprefix("-").replace(".", "", 1).isdigit()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    # What others chose must not steer a terminal.
    return "".join(char if char.isprintable() else "?" for char in str(value))
