"""
The proxy as its users run it: `python wsgi.py` and gunicorn, as processes of their own, and an operator for each.

A server listens on a free port of 127.0.0.1 with a data directory of its own, and inherits nothing from the
environment of the tests. Whatever it prints is kept for the tests and for the message of a start that failed.
"""

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.databases import database_of, execute
from tests.exposition import total

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED, DEPLOYED = "embedded", "deployed"
COMMANDS = {
    EMBEDDED: [str(ROOT / "wsgi.py")],
    DEPLOYED: [str(Path(sys.executable).with_name("gunicorn")), "-c", "gunicorn.conf.py", "wsgi:app"],
}
# What of the HTTP between a client and the proxy is each server's own is tried on both.
on_both_servers = pytest.mark.servers(DEPLOYED, EMBEDDED)
# Who passes a plain stream on: the event loop, as in the product, or always a greenlet.
LOOP, GREENLET = "loop", "greenlet"
RELAYS = {LOOP: [sys.executable], GREENLET: [sys.executable, "-m", "tests.by_greenlet"]}
# Becomes the command that follows a number of files, and may open so many.
WITH_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""
# Longer than a machine with much else to do takes for anything. What is waited for is gone on from at once.
WAIT_S = START_S = STOP_S = 60.0
LISTENS = re.compile(r"(?:serves|Listening at:) (http://[^/\s]+:\d+)")
LISTENING = "0A"  # in /proc/net/tcp
WATCHED = re.compile(r"^tfd:\s*(\d+)", re.MULTILINE)  # in an epoll's /proc/<pid>/fdinfo

MANAGEMENT_TOKEN = "management-token-of-the-tests"
ADMIN_PASSWORD = "admin-password-of-the-tests"
UPSTREAM_KEY = "sk-planted-upstream-key-0123456789"

REQUESTS = "llmproxy_requests_total"

T = TypeVar("T")
_numbers = itertools.count(1)
_interpreter = list(RELAYS[LOOP])


def choose_relay(relay: str) -> None:
    """Who passes a plain stream on in every server from here on."""
    _interpreter[:] = RELAYS[relay]


class Token(NamedTuple):
    """A withering token: what its holder sends, its public id, its project."""

    secret: str
    id: str
    project_id: str

    @property
    def bearer(self) -> tuple[str, str]:
        """The header that carries it."""
        return "Authorization", f"Bearer {self.secret}"


class Server:
    """
    One running server, for the length of a `with` block.

    Args:
        kind: EMBEDDED or DEPLOYED.
        data_dir: Its DATA_DIR; what it prints goes to a file beside it.
        arguments: More for the command line.
        empty: With a database that no start has migrated yet, instead of one at the newest schema.
        cwd: Where it is started.
        most_files: That each of its processes may have open.
        settings: Environment variables in place of the complete set that is there by default; None unsets one.
    """

    def __init__(
        self,
        kind: str,
        data_dir: Path,
        *,
        arguments: tuple[str, ...] = (),
        empty: bool = False,
        cwd: Path = ROOT,
        most_files: int | None = None,
        **settings: str | None,
    ) -> None:
        self.kind = kind
        self.data_dir = data_dir
        self.settings = environment(data_dir, empty=empty, **settings)
        self.url = ""
        self._got_metrics = 0.0
        self.secrets = {MANAGEMENT_TOKEN, ADMIN_PASSWORD, self.settings.get("ENCRYPTION_KEY", ADMIN_PASSWORD)}
        self._command = [*_interpreter, *COMMANDS[kind], *arguments]
        if most_files is not None:
            self._command = [sys.executable, "-c", WITH_FILES, str(most_files), *self._command]
        self._cwd = cwd
        self._output = data_dir.with_name(f"{data_dir.name}.{next(_numbers)}.output")
        self._process: subprocess.Popen[bytes] | None = None
        self._failing: Token | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.url = self._wait_until_it_answers()
            self.wait_until_all_accept()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process and self._process.poll() is None:
            self.terminate()
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def start(self) -> None:
        """Start without waiting for anything."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self.settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_it_answers(self) -> str:
        def answers() -> str | None:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.output()}")
            found = LISTENS.search(self.output())
            if found is None:
                return None
            try:
                return found[1] if fetch(found[1], "GET", "/healthz")[0] == 200 else None
            except OSError:
                return None

        return wait_for(answers, timeout_s=START_S, otherwise=self.output)

    def wait_until_all_accept(self) -> None:
        """Returns when there are all of its workers, and each takes connections: to answer, one is enough."""
        workers = 1 if self.kind == EMBEDDED else int(self.settings.get("WEB_CONCURRENCY", "1"))
        wait_for(
            lambda: sum(accepts(pid) for pid in self.worker_pids()) >= workers,
            timeout_s=START_S,
            otherwise=self.output,
        )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started: under gunicorn, the one that has the workers."""
        assert self._process is not None
        return self._process

    def worker_pids(self) -> list[int]:
        """The processes that answer."""
        pid = self.process.pid
        if self.kind == EMBEDDED:
            return [pid]
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill_a_worker(self) -> int:
        """Ends one worker without a warning; which one it was, once another takes connections in its place."""
        killed = self.worker_pids()[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in self.worker_pids())
        self.wait_until_all_accept()
        return killed

    def output(self) -> str:
        """Everything it printed so far."""
        return self._output.read_text(errors="replace")

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code, once it has stopped. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    # The operator of this server

    def manage(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a call to `/manage…`."""
        bearer = {"Authorization": f"Bearer {self.settings.get('MANAGEMENT_TOKEN', '')}"}
        status, _, payload = fetch(self.url, method, f"/manage{path}", bearer, body)
        return status, json.loads(payload) if payload else None

    def create_project(self, **fields: Any) -> str:
        """The id of a new project."""
        body = {"name": f"project {uuid.uuid4()}", "openai_api_key": UPSTREAM_KEY} | fields
        self.secrets.add(body["openai_api_key"])
        status, project = self.manage("POST", "/projects", body)
        assert status == 201, project
        return str(project["id"])

    def issue_token(self, project_id: str | None = None, **fields: Any) -> Token:
        """A new token, of a new project where none is named."""
        body = {"project_id": project_id or self.create_project(), "duration_hours": 1} | fields
        status, token = self.manage("POST", "/tokens", body)
        assert status == 201, token
        self.secrets.add(token["token"])
        return Token(token["token"], token["id"], token["project_id"])

    def leave_records(self, count: int) -> list[str]:
        """So many calls that are admitted, and fail for want of an upstream; the ids of their records."""
        if self._failing is None:
            self._failing = self.issue_token(self.create_project(base_url="http://127.0.0.1:9"), rate_limit=10**6)
        ids = []
        for _ in range(count):
            status, headers, _ = fetch(self.url, "GET", "/v1/models", dict([self._failing.bearer]))
            assert status == 502
            ids.append(headers["x-proxy-request-id"])
        return ids

    # What it wrote

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query finds in its database, with the driver's own types."""
        return execute(self.settings.get("DATABASE_URL") or database_of(self.data_dir, empty=True), query)

    def records(self, token: Token | None = None) -> list[dict[str, Any]]:
        """The call log, oldest first; of one token where it is given."""
        log = self.data_dir / "api_logs.jsonl"
        # What stands after the last newline is being written at this moment.
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
        return [record for record in found if token is None or record["token"] == token.id]

    def wait_for_records(self, count: int, token: Token | None = None) -> list[dict[str, Any]]:
        """The records as soon as they tell of `count` calls: they are written after the last byte left."""

        def enough() -> list[dict[str, Any]] | None:
            found = self.records(token)
            return found if calls_in(found) >= count else None

        return wait_for(enough, otherwise=lambda: f"{self.records(token)}\n{self.output()}")

    def count_calls(self, **fields: Any) -> int:
        """Of how many calls with these fields the log tells."""
        return calls_in(record for record in self.records() if fields.items() <= record.items())

    def wait_for_refusals(self) -> None:
        """Until the log tells of every call that was refused since the start, as the metrics do at once."""

        def is_told_of_all() -> bool:
            return self.count_calls(outcome="refused") == total(self.metrics(), REQUESTS, outcome="refused")

        wait_for(is_told_of_all, otherwise=self.records)

    @contextmanager
    def unwritable_log(self) -> Iterator[None]:
        """
        For as long as this lasts, no record can be written: where the log was, there is a directory.

        What was written is in `aside`, and so are the records of the tenth of a second that a writer takes to notice.
        """
        log = self.data_dir / "api_logs.jsonl"
        for number in itertools.count(1):
            with suppress(FileNotFoundError):
                log.rename(log.with_name(f"{log.name}.{number}"))
            # In between, a writer may have made it anew.
            with suppress(FileExistsError):
                log.mkdir()
                break
        yield
        log.rmdir()

    def aside(self) -> str:
        """What `unwritable_log` put aside."""
        return "".join(path.read_text() for path in self.data_dir.glob("api_logs.jsonl.*"))

    def record_of(self, request_id: str | None) -> dict[str, Any]:
        """The one record of this request. A refusal may be counted in another's: see `count_calls`."""

        def found() -> dict[str, Any] | None:
            return next((record for record in self.records() if record["request_id"] == request_id), None)

        return wait_for(found, otherwise=self.output)

    def metrics(self) -> str:
        """What Prometheus would get, and nothing from before the last time: within a second the text is the same."""
        time.sleep(max(0.0, self._got_metrics + 1.05 - time.monotonic()))
        bearer = {"Authorization": f"Bearer {self.settings.get('METRICS_TOKEN', '')}"}
        told = fetch(self.url, "GET", "/metrics", bearer)[2].decode()
        self._got_metrics = time.monotonic()
        return told

    def leaks(self) -> list[str]:
        """Places that hold one of this server's secrets; there should be none."""
        log = self.data_dir / "api_logs.jsonl"  # which a server that took no call has not
        places = {
            "output": self.output(),
            "records": log.read_text() if log.exists() else "",
            "metrics": self.metrics(),
        }
        return [place for place, text in places.items() if any(secret in text for secret in self.secrets)]


def calls_in(records: Iterable[dict[str, Any]]) -> int:
    """How many calls records stand for."""
    return sum(record.get("count", 1) for record in records)


def environment(data_dir: Path, *, empty: bool = False, **settings: str | None) -> dict[str, str]:
    """A complete environment for a server and its database, changed by `settings`; None leaves one out."""
    if "DATABASE_URL" not in settings:
        url = database_of(data_dir, empty=empty)
        # SQLite's is where the proxy looks by itself.
        settings["DATABASE_URL"] = None if url.startswith("sqlite") else url
    complete: dict[str, str | None] = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(data_dir.parent),
        "HOST": "127.0.0.1",
        "PORT": "0",
        "DATA_DIR": str(data_dir),
        "MANAGEMENT_TOKEN": MANAGEMENT_TOKEN,
        "ADMIN_USER": "admin",
        "ADMIN_PASSWORD": ADMIN_PASSWORD,
        "ENCRYPTION_KEY": "ZW5jcnlwdGlvbi1rZXktb2YtdGhlLXRlc3RzLTMyYnk=",
        "WEB_CONCURRENCY": "1",
        # No balancer looks at the tests' servers; those that test the overlap set it.
        "DRAIN_OVERLAP": "0",
    }
    return {name: value for name, value in (complete | settings).items() if value is not None}


def fetch(
    url: str, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of one call on a connection of its own. A body that is not bytes goes as JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=WAIT_S)
    sent = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return response.status, response.msg, response.read()
    finally:
        connection.close()


def contents(directory: Path, pattern: str) -> dict[Path, bytes]:
    """The files below a directory that match; whoever uses them may take some away meanwhile."""
    found = {}
    for path in directory.rglob(pattern):
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found


def open_files(pid: int) -> dict[str, str]:
    """What the descriptors of a process lead to; none once it has ended."""
    found = {}
    with suppress(FileNotFoundError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found[file.name] = os.readlink(file)
    return found


def open_sockets(pid: int) -> set[str]:
    """The sockets that a process has, of whatever kind, by their numbers."""
    names = open_files(pid).values()
    return {name.removeprefix("socket:[").rstrip("]") for name in names if name.startswith("socket:")}


def accepts(pid: int) -> bool:
    """Whether the event loop of this process looks at a socket that listens."""
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == LISTENING}
    files = open_files(pid)
    watched = set()
    for number, name in files.items():
        if name == "anon_inode:[eventpoll]":
            with suppress(FileNotFoundError):
                watched |= set(WATCHED.findall(Path(f"/proc/{pid}/fdinfo/{number}").read_text()))
    return any(files.get(number) in listening for number in watched)


def wait_for(
    look: Callable[[], T | None], *, timeout_s: float = WAIT_S, otherwise: Callable[[], object] = lambda: "nothing"
) -> T:
    """What `look` returns as soon as that is true. For what has no event to wait for: another process's files."""
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() > deadline
        if found := look():
            return found
        if is_last:
            raise TimeoutError(f"it did not happen in {timeout_s} s; seen: {otherwise()}")
        time.sleep(0.01)
