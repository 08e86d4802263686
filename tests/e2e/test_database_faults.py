"""
The database fails under load, or the proxy does: good tokens are never called bad, limits hold, what was answered
stays, and everything goes on by itself.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.databases import execute
from tests.exposition import total
from tests.http_by_hand import Broken, HandClient, call
from tests.postgres import PostgresServer, running_postgres
from tests.servers import DEPLOYED, WAIT_S, Server, Token, wait_for

CLIENTS = 8


class Load:
    """Clients that call without a pause, over what breaks."""

    def __init__(self, server: Server, token: Token) -> None:
        self._server, self._token = server, token
        self._stop = threading.Event()
        self._ends: list[int | None] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait_for(200, 50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            # A connection that broke is followed by another one.
            with contextlib.suppress(OSError, Broken), HandClient(self._server.url) as client:
                while not self._stop.is_set():
                    status = None
                    try:
                        status = client.call("GET", "/v1/models", self._token.bearer).status
                    finally:
                        self._ends.append(status)

    def statuses(self) -> Counter[int | None]:
        """How the calls ended; None stands for a connection that broke."""
        return Counter(self._ends)

    def wait_for(self, status: int, more: int) -> None:
        """Until so many more calls have ended like this."""
        enough = self.statuses()[status] + more
        wait_for(lambda: self.statuses()[status] >= enough, otherwise=self.statuses)


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    with running_postgres() as server:
        yield server


def request_count(server: Server, token: Token) -> int:
    return server.manage("GET", f"/tokens/{token.id}")[1]["request_count"]


# --- PostgreSQL ---


@pytest.mark.postgres
def test_a_postgresql_that_crashes_under_load_is_a_503_and_used_again_once_it_is_back(upstream, tmp_path, postgres):
    url = postgres.new_database()
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": url, "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token = server.issue_token(rate_limit=10_000_000)
        with Load(server, token) as load:
            kept = load.statuses()[200]
            execute(url, "CHECKPOINT")
            postgres.stop()
            load.wait_for(503, 50)
            refused = call(server.url, "GET", "/v1/models", token.bearer)
            status, told = server.manage("POST", "/projects", {"name": "x", "openai_api_key": "sk-x"})
            readiness = call(server.url, "GET", "/readyz").status
            postgres.start()
            load.wait_for(200, 200)

        assert (refused.status, refused["retry-after"]) == (503, "1")
        assert (status, told["error"]["code"], readiness) == (503, "database_unavailable", 503)
        assert set(load.statuses()) == {200, 503}
        # A crash may forget the claims of its last half second, and none from before a checkpoint.
        assert request_count(server, token) >= kept
        assert call(server.url, "GET", "/readyz").status == 200
        assert "Traceback" not in server.output()


@pytest.mark.postgres
def test_workers_that_start_while_postgresql_is_away_serve_once_it_is_back(upstream, tmp_path, postgres):
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": postgres.new_database()}
    with Server(DEPLOYED, tmp_path / "data", empty=True, **settings) as server:
        token = server.issue_token()
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        postgres.stop()
        killed = server.kill_a_worker()
        wait_for(lambda: call(server.url, "GET", "/v1/models", token.bearer).status == 503)
        (replaced,) = server.worker_pids()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.worker_pids() and replaced not in server.worker_pids(), otherwise=server.output)
        assert call(server.url, "GET", "/readyz").status == 503
        postgres.start()

        wait_for(lambda: call(server.url, "GET", "/readyz").status == 200, otherwise=server.output)
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        assert not {killed, replaced} & set(server.worker_pids())
        assert "Traceback" not in server.output()


@pytest.mark.postgres
def test_a_postgresql_that_only_falls_silent_is_a_503_for_everybody_and_used_again(upstream, tmp_path, postgres):
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": postgres.new_database(), "DATABASE_POOL_SIZE": "4"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server, ThreadPoolExecutor(20) as pool:
        token = server.issue_token()
        with postgres.silent():
            # More of the operator's than there are connections for, so that some find one that was open already.
            changes = [pool.submit(server.manage, "POST", f"/projects/{token.project_id}/revoke") for _ in range(4)]
            answers = [pool.submit(call, server.url, "GET", "/readyz")]
            answers += [pool.submit(call, server.url, "GET", "/v1/models", token.bearer) for _ in range(4)]
            wait_for(lambda: busy_connections(server) == {"claims": 2, "others": 2})
            assert {change.result()[0] for change in changes} == {503}
            assert {answer.result().status for answer in answers} == {503}

        wait_for(lambda: call(server.url, "GET", "/readyz").status == 200)
        assert call(server.url, "GET", "/v1/models", token.bearer).status in (200, 401)
        assert server.manage("POST", f"/projects/{token.project_id}/revoke")[0] == 200
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 401


def busy_connections(server: Server) -> dict[str, float]:
    text = server.metrics()
    return {
        pool: total(text, "llmproxy_database_connections", pool=pool, state="busy") for pool in ("claims", "others")
    }


@pytest.mark.postgres
def test_without_a_free_connection_calls_get_503_until_there_is_one(upstream, tmp_path, postgres):
    url = postgres.new_database()
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, DATABASE_URL=url) as server:
        token = server.issue_token()
        with contextlib.ExitStack() as taken:
            held: list[psycopg.Connection] = []

            def take_all() -> None:
                with contextlib.suppress(psycopg.OperationalError):
                    while True:
                        held.append(taken.enter_context(psycopg.connect(url, autocommit=True)))

            def is_cut_off() -> bool:
                its = "FROM pg_stat_activity WHERE application_name = 'llm-proxy'"
                held[0].execute(f"SELECT pg_terminate_backend(pid) {its}")
                # Before the proxy connects anew; its background work may still be faster, and an end takes its time.
                take_all()
                if held[0].execute(f"SELECT 1 {its}").fetchone():
                    return False
                take_all()
                return not held[0].execute(f"SELECT 1 {its}").fetchone()

            take_all()
            wait_for(is_cut_off)
            answer = call(server.url, "GET", "/v1/models", token.bearer)
            unknown = call(server.url, "GET", "/v1/models", ("Authorization", f"Bearer {'0' * 36}"))

        assert (answer.status, answer.json["error"]["code"], unknown.status) == (503, "auth_unavailable", 503)
        wait_for(lambda: call(server.url, "GET", "/v1/models", token.bearer).status == 200)


# --- SQLite ---


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 6 MB at `path`."""
    path.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", path], check=False).returncode
    ):
        pytest.skip("needs root that may mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.sqlite
def test_a_full_disk_is_a_503_and_what_fits_again_is_served_again(upstream, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk), Server(DEPLOYED, disk / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token(rate_limit=100_000)
        statuses: list[int] = []

        def called() -> int:
            statuses.append(call(server.url, "GET", "/v1/models", token.bearer).status)
            return statuses[-1]

        # A reader, say a backup, keeps SQLite from using the room in its log again.
        with closing(sqlite3.connect(server.data_dir / "llm-proxy.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM tokens").fetchall()
            fill(disk / "filler")
            wait_for(lambda: called() == 503, otherwise=server.output)
            change = server.manage("POST", "/projects", {"name": "x", "openai_api_key": "sk-x"})
            (disk / "filler").unlink()
            wait_for(lambda: called() == 200)
            reader.execute("ROLLBACK")

        assert (change[0], set(statuses)) == (503, {200, 503})
        assert [project["name"][0] for project in server.manage("GET", "/projects")[1]["data"]] == ["p"]
        assert request_count(server, token) == statuses.count(200)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


# --- the proxy itself ---


class Operator:
    """Makes projects and revokes every second one's token, and remembers what was answered."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.projects: list[str] = []
        self.revoked: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Operator":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)

    def _run(self) -> None:
        # Its server is about to be killed, in the middle of an answer too.
        with contextlib.suppress(OSError, ValueError, AssertionError):
            while not self._stop.is_set():
                self.projects.append(self._server.create_project())
                token = self._server.issue_token(self.projects[-1])
                assert self._server.manage("DELETE", "/tokens", {"id": token.id})[0] == 204
                self.revoked.append(token.id)


def test_when_all_processes_are_killed_under_load_nothing_answered_is_lost(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token = server.issue_token(rate_limit=10_000_000)
        with Operator(server) as operator, Load(server, token) as load:
            wait_for(lambda: len(operator.revoked) >= 5)
            for pid in (server.process.pid, *server.worker_pids()):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()
            wait_for(lambda: load.statuses()[None])

    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        for project in operator.projects:
            assert server.manage("GET", f"/projects/{project}")[0] == 200
        for revoked in operator.revoked:
            assert server.manage("GET", f"/tokens/{revoked}")[1]["is_active"] is False
        assert request_count(server, token) >= load.statuses()[200]
        assert set(load.statuses()) == {200, None}


def test_a_worker_killed_under_load_lets_nobody_over_the_limit(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token = server.issue_token(rate_limit=600)
        with Load(server, token) as load:
            server.kill_a_worker()
            load.wait_for(429, 20)

        assert len(upstream.requests("/v1/models")) <= 600
        assert 600 - CLIENTS <= load.statuses()[200] <= 600
        assert (request_count(server, token), set(load.statuses()) - {None}) == (600, {200, 429})
