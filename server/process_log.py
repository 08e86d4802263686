"""The process's own log, on stderr: starts, faults, warnings. Calls are recorded elsewhere, never here."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure() -> None:
    """Log to stderr from INFO up, with Alembic's chatter left out."""
    logging.basicConfig(level=logging.INFO, format=FORMAT)
    logging.getLogger("alembic").setLevel(logging.WARNING)
