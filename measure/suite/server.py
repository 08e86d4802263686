"""A server as the suite sees it: a process of its own on a free port of 127.0.0.1, measured and ended by its pid."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Server:
    """
    A running server.

    Attributes:
        pids: The processes that answer.
        bearer: A token that it takes.
        master: The process that started them, where there is one.
        authority: The certificate (PEM) that signed its own, where it speaks TLS.
    """

    port: int
    pids: tuple[int, ...] = ()
    bearer: str = "x"
    master: int | None = None
    authority: Path | None = None

    @property
    def url(self) -> str:
        """Without a path."""
        return f"https://localhost:{self.port}" if self.authority else f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of the processes that answer, so far."""
        return sum(_cpu_s(pid) for pid in self.pids)

    def memory_mb(self) -> float:
        """Resident memory of the largest process that answers, in MB of a million bytes."""
        return max(_resident_bytes(pid) for pid in self.pids) / 1e6

    def share_mb(self) -> float:
        """What one process that answers has, on average: a page of several is divided among them (PSS)."""
        return sum(_share_bytes(pid) for pid in self.pids) / len(self.pids) / 1e6

    def whole_mb(self) -> float:
        """Memory of all its processes together, what they have in common counted once."""
        return sum(_share_bytes(pid) for pid in (*self.pids, *([self.master] if self.master else []))) / 1e6

    def run_on(self, processor: int) -> None:
        """Keep the processes that answer to this processor."""
        for pid in self.pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {processor})


def _cpu_s(pid: int) -> float:
    # As clock_getcpuclockid(3) makes it, which Python lacks: nanoseconds, where /proc/PID/stat counts ticks of 10 ms.
    return time.clock_gettime(~pid << 3 | 2)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _share_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


def children(pid: int) -> tuple[int, ...]:
    """The processes that a process has started."""
    return tuple(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@contextmanager
def one_kept_free() -> Iterator[int]:
    """Keep this process, and what it starts, off one processor where there are two, and tell which."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, processors[1:] or processors)
    try:
        yield processors[0]
    finally:
        os.sched_setaffinity(0, processors)


@contextmanager
def started(
    command: list[str], server: Server, *, cwd: Path = ROOT, settings: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers at `server` by now."""
    env = {**os.environ, **(settings or {})}  # noqa: TID251
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=quiet, stderr=quiet) as process:
        try:
            _wait_for(server, process)
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            call(server, "GET", "/healthz")
            return
        except OSError:
            time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} did not start")


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def call(server: Server, method: str, path: str, body: Any = None, *, patience_s: float = 10) -> tuple[int, bytes]:
    """Status and body of one response, on a connection of its own. Raises OSError where there is none."""
    connection = (
        http.client.HTTPSConnection(
            "localhost", server.port, timeout=patience_s, context=ssl.create_default_context(cafile=server.authority)
        )
        if server.authority
        else http.client.HTTPConnection("127.0.0.1", server.port, timeout=patience_s)
    )
    headers = {"Authorization": f"Bearer {server.bearer}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(str(exc)) from exc
    finally:
        connection.close()
