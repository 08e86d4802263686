"""
A pytest plugin for `make coverage`: what the tests start is measured, too, though it inherits nothing from them.

Every Python whose environment says so begins to measure by itself: coverage.py comes with a hook for that.
"""

import os
import subprocess
from typing import Any

ASKED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}  # noqa: TID251


class Popen(subprocess.Popen):
    """Adds what asks for a measure to an environment that a test has made."""

    def __init__(self, *args: Any, env: dict[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, env=None if env is None else ASKED | dict(env), **options)


def pytest_configure() -> None:
    """Before any test starts a process."""
    subprocess.Popen = Popen
