"""
A PostgreSQL of the tests' own: in a temporary directory, on a free port of 127.0.0.1, ended with the session.

`initdb` and the server refuse to run as root, so root runs them as the user `postgres`. Where the programs are
missing, tests that ask for a database on it skip.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

_FAST = ("fsync=off", "full_page_writes=off", "max_connections=120")


class PostgresServer:
    """One server. `stop` and `start` are for tests of an outage: port and databases stay."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._data = directory / "data"
        self._log = directory / "log"
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.port = free_port()
        if os.getuid() == 0:
            shutil.chown(directory, "postgres")
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
            "--lc-ctype=C.UTF-8",
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *_FAST]
        options = " ".join(f"-c {setting}" for setting in settings)
        self._run("pg_ctl", "-D", self._data, "-l", self._log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """End at once, as a crash would."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let it keep its connections and say nothing, as when its disk hangs."""
        master = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        processes = [master, *map(int, children)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)

    def new_database(self, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of the one with the URL `template`, which nobody may use."""
        name = f"test_{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {_name_in(template)}" if template else ""))
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop it, whoever is still connected."""
        self._execute(f"DROP DATABASE {_name_in(url)} WITH (FORCE)")

    def log(self) -> str:
        """What the server has said so far."""
        return self._log.read_text(errors="replace")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(
            command,
            check=False,
            cwd="/",
            user=self._user if os.getuid() == 0 else None,
            stdin=subprocess.DEVNULL,
            # Not a pipe: the server inherits it, and would keep it open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
        if done.returncode:
            told = self._log.read_text() if self._log.exists() else ""
            raise RuntimeError(f"{program} ended with {done.returncode}\n{told}")


def _name_in(url: str) -> str:
    return url.rpartition("/")[2]


def programs() -> Path | None:
    """Where PostgreSQL's programs are; None when they are not installed, or could not be run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    in_path = shutil.which("initdb")
    if os.getuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return None
    return found[-1].parent if found else Path(in_path).parent if in_path else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A running server, for the length of a `with` block. Skips the test where none is installed."""
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    # Not below pytest's own temporary directory, which only its user may enter.
    with tempfile.TemporaryDirectory(prefix="llm-proxy-postgres-") as directory:
        server = PostgresServer(found, Path(directory))
        server.start()
        yield server
        server.stop()


_shared = ExitStack()


@cache
def shared_postgres() -> PostgresServer:
    """The one server of all tests that let theirs run; started for the first of them."""
    return _shared.enter_context(running_postgres())


def end_shared_postgres() -> None:
    """To be called when no more test will run."""
    _shared.close()
