"""
The whole suite on SQLite, and what has a database once more on PostgreSQL, in several runs side by side:

    python -m tests.side_by_side [--sqlite] [options of pytest, for all of them]

`--sqlite` leaves PostgreSQL out, for where there is none, as in the image that the Dockerfile makes of the tests.
Much of its time the suite waits, so there are two runs more than there are cores. Each writes to a file of its own in
test-output/ (in the directory for temporary files, where the source may not be written), printed when it has ended; a
line now and then tells how far they are.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parent.parent
OUTPUT = (SOURCE if os.access(SOURCE, os.W_OK) else Path(tempfile.gettempdir())) / "test-output"
AT_ONCE = len(os.sched_getaffinity(0)) + 2


def about(package: str, *names: str) -> list[str]:
    """Files of tests of a package, by what they are about."""
    return [f"tests/{package}/test_{name}.py" for name in names]


def e2e(*names: str) -> list[str]:
    """End-to-end tests by what they are about."""
    return about("e2e", *names)


def without(paths: Iterable[str]) -> list[str]:
    """Pytest's options to leave these out."""
    return [f"--ignore={path}" for path in paths]


LIVES = [*e2e("starting", "stopping", "rolling_restart", "upgrades", "commands"), "tests/deploy"]
FAULTS = e2e("clock", "database_faults", "hangups", "hostile_requests", "outages", "postgres", "upstream_faults")
CALLS = ["tests/e2e", "tests/transparency"]
ALONE = ["tests/benchmark", "tests/browser"]
ATTACKS = ["tests/security", "tests/server", "tests/operator_cli"]
# What is about PostgreSQL runs once, with the others. What knows no database is not repeated on it, nor what is about
# the wire or the server: it meets the database in the claim alone, which all the others make, too. Of a file that has
# some of both, those tests are marked.
POSTGRESQL = ["--database", "postgresql", "-m", "not postgres and not once"]
ONCE = e2e(
    "budgets_in_sdks", "callers_that_send_no_bearer", "client_address", "contact", "cross_origin", "egress",
    "fuzzing", "hangups", "hostile_requests", "large_ruled_bodies", "memory", "openai_realtime", "openai_sdk",
    "process_log", "records", "refusals", "retrying", "rolling_restart", "root_path", "stream_usage", "streaming",
    "tracing", "upgrades", "upstream_faults", "websocket",
)  # fmt: skip
# `llm-proxy` knows the management API alone. What forms send goes the way of that API, and what may differ in pages,
# their own queries, is tried in a file of its own; sign-ins have their statements in `control`.
NO_DATABASE = [
    "tests/llmproxy", "tests/measure", "tests/mock_openai", "tests/operator_cli", "tests/server/gunicorn",
    "tests/server/pywsgi",
    *about("server", "overrides", "process_log"),
    *about("blueprints", "prices_api", "proxy", "sign_in", "welcome"),
    *about(
        "blueprints/admin", "access", "advice", "display", "effective", "forgery", "limits", "requests", "rules",
    ),
    *about(
        "security", "busy_clients", "destinations", "echoed_key", "evidence", "fairness", "files", "foreign_names",
        "http_edges", "listeners", "metrics_access", "name_servers", "unread_bodies", "upstream_keys",
        "upstream_sockets",
    ),
]  # fmt: skip
# What is about bodies and their ends is tried once more with none passed on by the event loop.
BODIES = [*e2e("cutting", "hangups", "records", "stream_usage", "streaming", "upstream_faults"), "tests/transparency"]
# The longest come first, so that the shortest are left to fill up with.
RUNS = {
    "servers' calls on SQLite": [*CALLS, *without([*LIVES, *FAULTS])],
    "servers on PostgreSQL": [*POSTGRESQL, "tests/e2e", *without(ONCE)],
    "attacks on SQLite": ATTACKS,
    "servers that come and go on SQLite": LIVES,
    "the rest on SQLite": without([*CALLS, "tests/deploy", *ALONE, *ATTACKS]),
    "the rest on PostgreSQL": [
        *POSTGRESQL, *without([*CALLS, "tests/deploy", *ALONE, *NO_DATABASE]), "--ignore-glob=tests/test_*.py",
    ],
    "servers' faults on SQLite": FAULTS,
    "the browser on SQLite": ["tests/browser"],
    "bodies by greenlets": ["--relay", "greenlet", *BODIES],
    "the benchmark": ["tests/benchmark"],
}  # fmt: skip
SQLITE_ALONE = "--sqlite"
TELL_EVERY_S = 60
NO_TESTS = 5  # pytest's exit code, as where a `-k` finds something in other runs alone


class Run(NamedTuple):
    """A run of pytest that was started."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def done(self) -> str:
        """How much of it is done, in pytest's own words."""
        found = re.findall(r"\[ *(\d+%)\]", self.output.read_text())
        return f"{self.name} {found[-1] if found else 'begins'}"


def start(name: str, options: list[str]) -> Run:
    """Start the run of that name."""
    output = OUTPUT / f"{name.replace(' ', '-')}.txt"
    with output.open("wb") as file:
        command = [sys.executable, "-m", "pytest", *RUNS[name], *options]
        return Run(name, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), output)


def follow(running: list[Run], told: float) -> float:
    """Tell how far they are, where that is due; when it was told last."""
    if time.monotonic() - told < TELL_EVERY_S:
        return told
    print(", ".join(run.done() for run in running), flush=True)
    return time.monotonic()


def run_all(names: list[str], options: list[str]) -> dict[str, int]:
    """Pytest's exit code of each of these runs, when all have ended."""
    waiting, running, codes = names, [], {}
    told = time.monotonic()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running.append(start(waiting.pop(0), options))
        time.sleep(0.2)
        told = follow(running, told)
        for run in [run for run in running if run.process.poll() is not None]:
            running.remove(run)
            codes[run.name] = run.process.returncode
            print(f"\n===== {run.name} =====\n{run.output.read_text()}", flush=True)
    return codes


def main() -> int:
    """The exit code: 0 where no run found a fault."""
    OUTPUT.mkdir(exist_ok=True)
    options = [option for option in sys.argv[1:] if option != SQLITE_ALONE]
    names = [name for name in RUNS if SQLITE_ALONE not in sys.argv or "PostgreSQL" not in name]
    try:
        codes = run_all(names, options)
    except KeyboardInterrupt:  # which the runs have had, too
        return 130
    print("\n".join(f"{name}: pytest ended with {code}" for name, code in codes.items()))
    return max((abs(code) for code in codes.values() if code != NO_TESTS), default=NO_TESTS)


if __name__ == "__main__":
    sys.exit(main())
