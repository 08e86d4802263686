"""Guesses at an operator's credentials, as the deployed server takes them on all of its workers."""

import base64
import json
import os
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from control.sign_ins import MAX_FAILURES
from tests.exposition import total
from tests.http_by_hand import call
from tests.servers import ADMIN_PASSWORD, MANAGEMENT_TOKEN, Server, on_both_servers, wait_for

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
PROXY = "127.0.0.1"


def basic(password: str, user: str = "admin") -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def served(address: str) -> tuple[str, str]:
    """What the operator's balancer says of whom it serves."""
    return "X-Forwarded-For", address


RIGHT = {
    "/admin/projects": basic(ADMIN_PASSWORD),
    "/manage/projects": bearer(MANAGEMENT_TOKEN),
    "/metrics": bearer("m" * 20),
}
WRONG = {"/admin/projects": basic("guess"), "/manage/projects": bearer("guess"), "/metrics": bearer("guess")}


def guess(server: Server, path: str, *headers: tuple[str, str]) -> int:
    """The status of a wrong guess."""
    return call(server.url, "GET", path, WRONG[path], *headers).status


def use_up_guesses(server: Server, path: str, *headers: tuple[str, str]) -> float:
    """All that there are; when the last was made, at the earliest."""
    for _ in range(MAX_FAILURES):
        began = time.monotonic()
        assert guess(server, path, *headers) == 401
    return began


def must_wait(
    server: Server, path: str, credentials: tuple[str, str], *headers: tuple[str, str], failed_at: float
) -> None:
    """
    Credentials that come after the last guess that there is wait for a second, whatever they are.

    A machine that stood still for as long lets them pass, and a further guess makes the wait twice as long.

    Args:
        failed_at: When that guess was made, at the earliest.
    """
    wait_s = 1
    while call(server.url, "GET", path, credentials, *headers).status != 429:
        assert time.monotonic() - failed_at >= wait_s
        failed_at, wait_s = time.monotonic(), 2 * wait_s
        guess(server, path, *headers)


@pytest.fixture
def workers(server_kind, upstream, tmp_path):
    settings = {
        "WEB_CONCURRENCY": "3",
        "TRUSTED_PROXIES": PROXY,
        "METRICS_TOKEN": "m" * 20,
        "UPSTREAM_URL": upstream.url,
    }
    with Server(server_kind, tmp_path / "data", **settings) as server:
        yield server


@on_both_servers
@pytest.mark.parametrize("path", RIGHT)
def test_parallel_guesses_over_all_workers_are_ten_and_then_wait(workers, path):
    statuses: list[int] = []
    began = time.monotonic()

    def guess_often() -> None:
        for _ in range(5):
            statuses.append(guess(workers, path, served("203.0.113.1")))

    guessers = [threading.Thread(target=guess_often) for _ in range(12)]
    for guesser in guessers:
        guesser.start()
    for guesser in guessers:
        guesser.join()

    # One more is let through after a second, the next after two, four, and so on.
    assert (more := Counter(statuses)[401] - MAX_FAILURES) >= 0 and 2**more - 1 <= time.monotonic() - began
    assert Counter(statuses)[429] == 60 - Counter(statuses)[401]
    assert call(workers.url, "GET", path, RIGHT[path], served("203.0.113.2")).status == 200


@on_both_servers
@pytest.mark.parametrize("path", ["/admin/projects", "/manage/projects"])
def test_nothing_that_is_sent_without_credentials_forgives_a_guess(workers, path):
    for _ in range(MAX_FAILURES - 1):
        assert guess(workers, path, served("203.0.113.1")) == 401
    for method in METHODS:
        for more in (
            [],
            [("Access-Control-Request-Method", "GET"), ("Origin", workers.url)],
            [("Cookie", "session=x")],
        ):
            answer = call(workers.url, method, path, served("203.0.113.1"), ("Accept", "text/html"), *more)
            assert answer.status in (401, 405) and not answer.all("set-cookie")
    failed_at = time.monotonic()
    assert call(workers.url, "OPTIONS", path, WRONG[path], served("203.0.113.1")).status == 401

    must_wait(workers, path, RIGHT[path], served("203.0.113.1"), failed_at=failed_at)


@on_both_servers
def test_a_browser_that_signed_in_before_is_not_kept_waiting(workers):
    here = served("203.0.113.1")
    page = call(workers.url, "GET", "/admin/", RIGHT["/admin/projects"], here, ("Accept", "text/html"))
    cookie = ("Cookie", page["set-cookie"].partition(";")[0])
    failed_at = use_up_guesses(workers, "/admin/projects", here)

    must_wait(workers, "/admin/projects", RIGHT["/admin/projects"], here, failed_at=failed_at)
    assert call(workers.url, "GET", "/admin/", RIGHT["/admin/projects"], here, cookie).status == 200


@on_both_servers
def test_guesses_are_logged_counted_and_in_the_audit_trail_without_what_was_guessed(workers):
    for number in range(3):
        guessed = basic("a-guessed-password", user="a-typed-password")
        call(workers.url, "GET", "/admin/", guessed, served(f"203.0.113.{number}"))

    # It is told of the first one at once, which may be before the others, and of what follows in a minute.
    (entry,) = wait_for(lambda: workers.rows("SELECT * FROM audit WHERE action = 'sign_in.fail'"))
    after = entry["after"] if isinstance(entry["after"], dict) else json.loads(entry["after"])
    last = f"203.0.113.{after['failures'] - 1}"
    assert (entry["target_id"], entry["actor"], entry["address"]) == ("admin", "somebody", last)
    assert "wrong credentials for admin from 203.0.113.0" in workers.output()
    assert total(workers.metrics(), "llmproxy_sign_in_failures_total", realm="admin") == 3
    told = workers.output() + str(workers.rows("SELECT * FROM audit")) + workers.metrics()
    assert "a-guessed-password" not in told and "a-typed-password" not in told
    shown = call(workers.url, "GET", "/admin/audit?type=sign_in", RIGHT["/admin/projects"], ("Accept", "text/html"))
    assert b"could not sign in to" in shown.body


@pytest.mark.sqlite
def test_a_guess_needs_no_lock_of_the_database(workers):
    with closing(sqlite3.connect(workers.data_dir / "llm-proxy.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for path in WRONG:
            failed_at = use_up_guesses(workers, path)
            must_wait(workers, path, WRONG[path], failed_at=failed_at)
        connection.execute("ROLLBACK")


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of a megabyte, which is full as soon as somebody wants it to be."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]
    if os.getuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root that may mount")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def fill(directory: Path) -> None:
    """Leave no byte of a file system."""
    with (directory / "all").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@on_both_servers
def test_a_guess_on_a_full_disk_ends_no_worker(server_kind, tmp_path):
    """What failures are counted in was a mapped file: to touch it where no room was left ended every worker."""
    with (
        small_disk(tmp_path / "tmp") as disk,
        Server(server_kind, tmp_path / "data", WEB_CONCURRENCY="2", TMPDIR=str(disk)) as server,
    ):
        before = server.worker_pids()
        fill(disk)

        failed_at = use_up_guesses(server, "/manage/projects")
        must_wait(server, "/manage/projects", WRONG["/manage/projects"], failed_at=failed_at)
        wait_for(lambda: server.rows("SELECT * FROM audit WHERE action = 'sign_in.fail'"))
        assert server.worker_pids() == before and server.process.poll() is None
