"""Tables as CSV: for spreadsheets, so no cell can be a formula. Labels, models and agents come from strangers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from flask import Response

CSV = "text/csv"
# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_response(columns: Iterable[str], rows: Iterable[Iterable[Any]], name: str) -> Response:
    """The table as a file of this name to save."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(table.getvalue(), content_type=f"{CSV}; charset=utf-8", headers=headers)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
