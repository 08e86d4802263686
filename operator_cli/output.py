"""What is printed: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click


def show(data: Any, *, as_json: bool, columns: tuple[str, ...]) -> None:
    """Print rows, or a single one, on stdout: these columns of them, or all of it as JSON."""
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    rows = data if isinstance(data, list) else [data]
    for line in table([[_text(row.get(column)) for column in columns] for row in rows], columns):
        click.echo(line)


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
    return text == "-" or text.replace(".", "", 1).isdigit()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    # What others chose must not steer a terminal.
    return "".join(char if char.isprintable() else "?" for char in str(value))
