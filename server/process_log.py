"""The process's own log, on stderr: starts, faults, warnings. Calls are recorded elsewhere, never here."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from llmproxy.times import iso_utc

# What a line may carry beside its words, by `extra`: which call it is about, and whose.
ABOUT = ("request_id", "project_id")

_format = "text"


def configure(log_format: str) -> None:
    """
    Log to stderr from INFO up, with Alembic's chatter left out.

    Args:
        log_format: `text`, a line for people, or `json`, an object on a line.
    """
    global _format  # noqa: PLW0603
    _format = log_format
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def formatter() -> logging.Formatter:
    """How each line of this process is written, whoever writes it."""
    return _Json() if _format == "json" else _Text("%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s")


class _Text(logging.Formatter):
    """A line for people, with the call at its end."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        request_id = getattr(record, "request_id", None)
        return super().formatMessage(record) + (f" (request {request_id})" if request_id else "")


class _Json(logging.Formatter):
    """One object on one line, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line |= {name: value for name in ABOUT if (value := getattr(record, name, None))}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _time_of(record: logging.LogRecord) -> str:
    """As in the call log."""
    return iso_utc(datetime.fromtimestamp(record.created, UTC), timespec="milliseconds")
