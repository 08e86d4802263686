"""How the process's own log is written."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable

import pytest

from server import process_log

Write = Callable[..., str]


@pytest.fixture
def write(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Formats a line of the log as this start would."""

    def line(log_format: str, message: str, *, exc_info: object = None, **about: str | None) -> str:
        monkeypatch.setattr(process_log, "_format", log_format)
        record = logging.LogRecord("llmproxy.x", logging.WARNING, "x.py", 1, message, None, exc_info)
        record.created, record.process = 0.25, 71
        vars(record).update(about)
        return process_log.formatter().format(record)

    return line


def test_a_line_for_people_ends_with_its_request(write: Write) -> None:
    assert write("text", "broke", request_id="r1") == (
        "1970-01-01T00:00:00.250Z [71] WARNING llmproxy.x: broke (request r1)"
    )
    assert write("text", "broke", request_id=None) == "1970-01-01T00:00:00.250Z [71] WARNING llmproxy.x: broke"


def test_a_line_for_machines_is_one_object_whatever_it_says(write: Write) -> None:
    line = write("json", 'two\nlines "and" \u2028 more', request_id="r1", project_id=None)

    assert line.isascii() and line.isprintable()
    assert json.loads(line) == {
        "timestamp": "1970-01-01T00:00:00.250Z", "level": "warning", "logger": "llmproxy.x", "pid": 71,
        "message": 'two\nlines "and" \u2028 more', "request_id": "r1",
    }  # fmt: skip


def test_a_fault_has_its_traceback(write: Write) -> None:
    try:
        raise KeyError("k")
    except KeyError:
        faulty = sys.exc_info()

    assert json.loads(write("json", "broke", exc_info=faulty))["exception"].startswith("Traceback")
    assert write("text", "broke", exc_info=faulty).splitlines()[1].startswith("Traceback")


def test_a_warning_of_a_library_is_a_line_like_all_others() -> None:
    script = "import warnings; from server import process_log; process_log.configure('json'); warnings.warn('is old')"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200
    ).stderr

    (line,) = [json.loads(line) for line in told.splitlines()]
    assert line["logger"] == "py.warnings" and "is old" in line["message"]
