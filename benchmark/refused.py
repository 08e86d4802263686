"""The run that does not begin, and why."""

from __future__ import annotations

import math
from pathlib import Path


class Refused(Exception):
    """The run does not begin. The message says why, in one line."""


def check_positive(name: str, value: float) -> None:
    """Raises Refused for zero, what is below, and what is no number to count with (nan, inf)."""
    if not (value > 0 and math.isfinite(value)):
        raise Refused(f"--{name} must be greater than 0" if value <= 0 else f"--{name} must be a number, not {value}")


def read_file(path: str, option_name: str) -> bytes:
    """The contents of a file that an option names."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"{option_name}: cannot read {path}: {error.strerror}") from None
