"""
A worker cannot boot: its server goes on, says why, and has the worker back once the cause has gone.

gunicorn's own master takes a worker that could not boot for a reason to end everything, running calls included.
"""

import base64
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.databases import execute
from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import DEPLOYED, Server, Token, fetch, open_sockets, wait_for

STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")
CLOUDWATCH = "cloudwatch://group/stream?region=eu-west-1"
# Loaded by every process before the product: while a file is there, what it names fails.
FAULTS = """
import os, sys, time
from gevent import monkey
monkey.patch_all()
sys.modules["boto3"] = None
here = os.path.dirname(__file__)
def is_there(name):
    return os.path.exists(os.path.join(here, name))
sleep = time.sleep  # between two tries
time.sleep = lambda seconds: sleep(600 if seconds >= 1 and is_there("no second try") else min(seconds, 2))
def failing(name, real, error):
    def call(*args, **kwargs):
        if is_there(name):
            raise error
        return real(*args, **kwargs)
    return call
import gunicorn.util, gunicorn.workers.base
fork = os.fork
os.fork = failing("no processes", fork, BlockingIOError(11, "Resource temporarily unavailable"))
made = gunicorn.workers.base.WorkerTmp
gunicorn.workers.base.WorkerTmp = failing("no descriptors", made, OSError(24, "Too many open files"))
gunicorn.util.import_app = failing("no application", gunicorn.util.import_app, ImportError("a file is gone"))
from prometheus_client.mmap_dict import MmapedDict
MmapedDict.__init__ = failing("no shared memory", MmapedDict.__init__, OSError(28, "No space left on device"))
"""

ESTABLISHED = "01"  # in /proc/net/tcp


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    """A directory in which a file's name is a fault of every server that has `PYTHONPATH` there."""
    directory = tmp_path / "faults"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(FAULTS)
    return directory


@pytest.fixture
def server(upstream, tmp_path, faults) -> Iterator[Server]:
    """Two workers, a secret that lies in a file, and an empty file for the URL that records are shipped to."""
    (tmp_path / "token").write_text("management-token-from-a-file")
    (tmp_path / "url").write_text("http://127.0.0.1:9/")
    settings = {
        "UPSTREAM_URL": upstream.url,
        "WEB_CONCURRENCY": "2",
        "MANAGEMENT_TOKEN": "management-token-from-a-file",
        "PYTHONPATH": str(faults),
        "ADMIN_PASSWORD": None,
        "ADMIN_PASSWORD_FILE": str(tmp_path / "token"),
        "LOGGING_URL_FILE": str(tmp_path / "url"),
    }
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        yield server


@contextmanager
def running_stream(server: Server, token: Token, upstream) -> Iterator[Callable[[], bytes]]:
    """A call that runs meanwhile, and a function that lets it end and tells what came."""
    with HandClient(server.url) as client:
        client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-gate", "boots"), body=STREAM)
        answer = client.read_head()
        client.read_chunk(answer)

        def finish() -> bytes:
            upstream.release("boots", count=100)
            client.read_rest(answer)
            return answer.body

        yield finish


def kill_one(server: Server) -> int:
    """End a worker that runs no call without a warning; which one it was."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{urlsplit(server.url).port:04X}"
    callers = {row[9] for row in rows if row[3] == ESTABLISHED and row[1].endswith(f":{port}")}
    idle = min(server.worker_pids(), key=lambda pid: len(open_sockets(pid) & callers))
    os.kill(idle, signal.SIGKILL)
    return idle


def outcome(server: Server, token: Token) -> object:
    """A call's status, or what kept it from having one."""
    try:
        return call(server.url, "GET", "/v1/models", token.bearer).status
    except OSError as exc:
        return repr(exc)


def outcomes(server: Server, token: Token, times: int = 20) -> set[object]:
    return {outcome(server, token) for _ in range(times)}


def replaced(server: Server, killed: int) -> bool:
    """Whether there are two workers, and neither is that one."""
    return killed not in (pids := server.worker_pids()) and len(pids) == 2


def serving(server: Server) -> float:
    """How many workers serve."""
    return total(server.metrics(), "llmproxy_workers")


@pytest.mark.parametrize("fault", ["no application", "no processes", "no descriptors", "no shared memory"])
def test_a_worker_that_cannot_be_replaced_is_once_it_can(server, upstream, faults, fault):
    token = server.issue_token()
    with running_stream(server, token, upstream) as finish:
        (faults / fault).touch()
        killed = kill_one(server)
        wait_for(lambda: "tried again" in server.output(), otherwise=server.output)

        assert outcomes(server, token) == {200}
        (faults / fault).unlink()
        wait_for(lambda: len(server.worker_pids()) == 2 and killed not in server.worker_pids(), timeout_s=40)
        assert finish().endswith(b"data: [DONE]\n\n")
        assert outcomes(server, token) == {200}


def test_a_stop_does_not_wait_for_a_worker_that_cannot_boot(server, faults):
    (faults / "no second try").touch()
    (faults / "no application").touch()
    kill_one(server)
    wait_for(lambda: "tried again" in server.output(), otherwise=server.output)
    server.terminate()

    assert server.wait() == 0


def test_a_reload_whose_workers_cannot_boot_leaves_the_old_ones_until_they_can(server, upstream, faults):
    token = server.issue_token()
    before = set(server.worker_pids())
    (faults / "no application").touch()
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "tried again" in server.output(), otherwise=server.output)

    assert outcomes(server, token, 40) == {200}
    assert before <= set(server.worker_pids())
    (faults / "no application").unlink()
    wait_for(lambda: not before & set(server.worker_pids()), timeout_s=60, otherwise=server.output)
    assert outcomes(server, token) == {200}


def test_reloads_one_upon_another_leave_nothing_behind_and_nobody_without_an_answer(server, upstream, faults):
    token = server.issue_token()
    before = set(server.worker_pids())
    seen = set(before)
    (faults / "no application").touch()
    for _ in range(3):
        server.process.send_signal(signal.SIGHUP)
        # Two of this reload's, and none of those before it, which may end after the signal was taken.
        wait_for(lambda seen=seen: len(new := set(server.worker_pids()) - before) == 2 and not new & seen)
        seen = seen | set(server.worker_pids())

        assert before <= set(server.worker_pids()) and outcomes(server, token) == {200}
    (faults / "no application").unlink()
    wait_for(lambda: len(server.worker_pids()) == 2 and not before & set(server.worker_pids()), timeout_s=60)
    assert outcomes(server, token) == {200}


def test_the_number_of_workers_is_changed_by_signals_as_before(server):
    for number, wanted in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
        server.process.send_signal(number)
        wait_for(lambda wanted=wanted: len(server.worker_pids()) == wanted, otherwise=server.output)
    wait_for(lambda: serving(server) == 1)

    assert fetch(server.url, "GET", "/healthz")[0] == 200


def test_a_secrets_file_that_is_gone_for_a_moment_stops_no_worker_from_being_replaced(server, upstream, tmp_path):
    token = server.issue_token()
    with running_stream(server, token, upstream) as finish:
        (tmp_path / "token").unlink()
        killed = kill_one(server)
        wait_for(lambda: replaced(server, killed))

        assert outcomes(server, token) == {200}
        assert finish().endswith(b"data: [DONE]\n\n")
    assert "wrong settings" not in server.output()


def test_a_worker_that_is_replaced_has_the_secrets_of_the_others(server, tmp_path):
    (tmp_path / "token").write_text("another-password-than-before")
    before = kill_one(server)
    wait_for(lambda: len(server.worker_pids()) == 2 and before not in server.worker_pids())

    server.wait_until_all_accept()
    assert {admin_status(server, "management-token-from-a-file") for _ in range(20)} == {200}
    old = set(server.worker_pids())
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not old & set(server.worker_pids()), timeout_s=40, otherwise=server.output)
    assert admin_status(server, "another-password-than-before") == 200


def admin_status(server: Server, password: str) -> int:
    credentials = base64.b64encode(f"admin:{password}".encode()).decode()
    return fetch(server.url, "GET", "/admin/projects", {"Authorization": f"Basic {credentials}"})[0]


def test_a_reload_that_asks_for_a_library_that_is_not_there_changes_nothing(server, upstream, tmp_path):
    token = server.issue_token()
    before = server.worker_pids()
    (tmp_path / "url").write_text(CLOUDWATCH)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "not reloading: " in server.output(), otherwise=server.output)

    assert "LOGGING_URL: needs boto3: pip install" in server.output()
    assert server.worker_pids() == before and outcomes(server, token) == {200}
    killed = kill_one(server)
    wait_for(lambda: replaced(server, killed))
    assert outcomes(server, token) == {200}


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """What opens files in the directory from here on finds it read-only."""
    bind = ["mount", "--bind", directory, directory]
    if os.getuid() or subprocess.run(bind, check=False, capture_output=True).returncode:
        pytest.skip("needs root that may mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_data_directory_that_became_read_only_stops_no_worker_from_being_replaced(server, upstream):
    token = server.issue_token()
    with running_stream(server, token, upstream) as finish:
        with read_only(server.data_dir):
            killed = kill_one(server)
            wait_for(lambda: replaced(server, killed) and serving(server) == 2)
            statuses = {call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(40)}
            # SQLite's file lies there, too.
            assert statuses <= ({200, 503} if server.settings.get("DATABASE_URL") is None else {200})
        wait_for(lambda: outcomes(server, token) == {200}, otherwise=server.output)
        assert finish().endswith(b"data: [DONE]\n\n")


@contextmanager
def database_gone(server: Server) -> Iterator[None]:
    """Who opens the database from here on finds an empty one, as where its disk is not mounted."""
    if url := server.settings.get("DATABASE_URL"):
        execute(url, "ALTER TABLE alembic_version RENAME TO away")
        yield
        execute(url, "ALTER TABLE away RENAME TO alembic_version")
        return
    away = server.data_dir.with_name("away")
    away.mkdir()
    files = list(server.data_dir.glob("llm-proxy.db*"))
    for file in files:
        file.rename(away / file.name)
    yield
    for file in server.data_dir.glob("llm-proxy.db*"):
        file.unlink()
    for file in files:
        (away / file.name).rename(file)


def test_a_worker_begins_no_new_database_where_the_old_one_is_gone(server, upstream):
    token = server.issue_token()
    # Who runs a call has the database open.
    with running_stream(server, token, upstream) as finish:
        with database_gone(server):
            killed = kill_one(server)
            wait_for(lambda: "tried again" in server.output(), timeout_s=20, otherwise=server.output)

            assert "the database has become empty: is its disk mounted?" in server.output()
            # To a new one the token would be unknown.
            assert outcomes(server, token) == {200}
        assert finish().endswith(b"data: [DONE]\n\n")
    wait_for(lambda: replaced(server, killed) and serving(server) == 2, timeout_s=40, otherwise=server.output)
    assert outcomes(server, token) == {200}


def test_a_worker_beside_a_newer_version_that_excludes_it_says_so_and_the_others_go_on(server, upstream):
    token = server.issue_token()
    url = server.settings.get("DATABASE_URL") or f"sqlite:///{server.data_dir}/llm-proxy.db"
    head = server.rows("SELECT version_num, oldest FROM alembic_version, schema_floor")[0]
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    execute(url, "UPDATE schema_floor SET oldest = '9999'")
    kill_one(server)
    wait_for(lambda: "tried again" in server.output(), otherwise=server.output)

    # One line for each try, of which a slow look finds several; the other worker may have said something between.
    output = server.output()
    said = output.count("\nthe database is of schema 9999, made by a newer version")
    assert output.count("tried again") <= said <= output.count("tried again") + 1
    assert "Traceback" not in server.output()
    assert outcomes(server, token) == {200}
    execute(url, f"UPDATE alembic_version SET version_num = '{head['version_num']}'")
    execute(url, f"UPDATE schema_floor SET oldest = '{head['oldest']}'")
    wait_for(lambda: serving(server) == 2, timeout_s=40, otherwise=server.output)
