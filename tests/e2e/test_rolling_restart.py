"""Restarts under load lose nobody a call: gunicorn's reload, and two nodes behind a balancer that probes /readyz."""

import contextlib
import http.client
import os
import select
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.databases import database_of
from tests.http_by_hand import HandClient, call
from tests.ports import free_port
from tests.servers import DEPLOYED, WAIT_S, Server, Token, fetch, wait_for

CLIENTS = 8
STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")
# Looks at /readyz ten times a second and tries the other node where it could not connect. It never sends a call twice
# that a node may have seen.
BALANCER = """
defaults
  mode http
  timeout connect 60s
  timeout client 60s
  timeout server 60s
  timeout check 60s
  retries 3
  retry-on conn-failure
  option redispatch 1
  option httpchk GET /readyz
  default-server check inter 100ms fall 1 rise 1
frontend proxy
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  server first {first}
  server second {second}
"""


class Traffic:
    """
    Clients that call without a pause, on kept connections, every third time for a stream. Nothing is repeated.

    As clients do, they look before each call whether the server has closed what they kept.
    """

    def __init__(self, url: str, token: Token) -> None:
        self._place = urlsplit(url).netloc
        self._headers = dict([token.bearer, JSON])
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        self._ends: list[str] = []

    @property
    def seen(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(self._ends)

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        self.wait_for_more(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def wait_for_more(self, calls: int) -> None:
        """Returns when so many more calls have ended."""
        aim = self.seen.total() + calls
        wait_for(lambda: self.seen.total() >= aim, otherwise=lambda: self.seen)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._place, timeout=WAIT_S)
        number = 0
        while not self._stop.is_set():
            number += 1
            self._ends.append(self._call(connection, is_stream=number % 3 == 0))
        connection.close()

    def _call(self, connection: http.client.HTTPConnection, *, is_stream: bool) -> str:
        # Nothing is read ahead of a response: what there is now to be read is the connection's end.
        if connection.sock and select.select([connection.sock], [], [], 0)[0]:
            connection.close()
        try:
            if is_stream:
                connection.request("POST", "/v1/chat/completions", STREAM, self._headers)
            else:
                connection.request("GET", "/v1/models", headers=self._headers)
            response = connection.getresponse()
            is_whole = not is_stream or response.read().endswith(b"data: [DONE]\n\n")
            response.read()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            return f"{type(exc).__name__}: {exc}"
        return "whole" if (response.status, is_whole) == (200, True) else str(response.status)


def recorded(*servers: Server) -> Counter[str]:
    """The outcomes in the records, all of which must be there: the servers have stopped."""
    records = [record for server in servers for record in server.records()]
    assert len({record["request_id"] for record in records}) == len(records)
    return Counter(record["outcome"] for record in records)


def counted(server: Server) -> float:
    name = "llmproxy_requests_total{"
    return sum(float(line.split()[-1]) for line in server.metrics().splitlines() if line.startswith(name))


def reload(server: Server) -> None:
    """Replace every worker; returns when there are as many new ones, whatever becomes of the old ones."""
    before = set(server.worker_pids())
    server.process.send_signal(signal.SIGHUP)
    workers = int(server.settings["WEB_CONCURRENCY"])
    wait_for(lambda: len(set(server.worker_pids()) - before) >= workers, otherwise=server.output)


def test_a_reload_under_load_loses_no_call(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "WEB_CONCURRENCY": "2", "DRAIN_OVERLAP": "1"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token = server.issue_token(rate_limit=1_000_000)
        with Traffic(server.url, token) as traffic:
            for _ in range(2):
                reload(server)
                wait_for(lambda: len(server.worker_pids()) == 2)
                traffic.wait_for_more(50)

        assert traffic.seen == {"whole": traffic.seen.total()}
        # Workers that have left stay counted.
        wait_for(lambda: counted(server) == traffic.seen.total(), otherwise=lambda: counted(server))
    assert recorded(server) == {"complete": traffic.seen.total()}
    assert "Traceback" not in server.output()


def test_a_worker_that_is_told_to_go_while_it_starts_loses_no_call_either(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "WEB_CONCURRENCY": "2", "DRAIN_OVERLAP": "1"}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token = server.issue_token(rate_limit=1_000_000)
        with Traffic(server.url, token) as traffic:
            before = set(server.worker_pids())
            reload(server)
            young = (set(server.worker_pids()) - before).pop()

            def tell_again() -> bool:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(young, signal.SIGTERM)
                return young not in server.worker_pids()

            # Some of these come while it imports the application.
            wait_for(tell_again)
            wait_for(lambda: len(server.worker_pids()) == 2)
            traffic.wait_for_more(50)

        assert traffic.seen == {"whole": traffic.seen.total()}
    assert recorded(server) == {"complete": traffic.seen.total()}


def test_a_stream_that_outlasts_a_reload_holds_nothing_else_up(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            client.send_request(
                "POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-gate", "reload"), body=STREAM
            )
            answer = client.read_head()
            client.read_chunk(answer)
            (old,) = server.worker_pids()
            reload(server)
            (new,) = set(server.worker_pids()) - {old}
            os.kill(new, signal.SIGKILL)

            # The master still sees what happens, and starts another one, though the old worker drains.
            wait_for(lambda: set(server.worker_pids()) - {old, new}, otherwise=server.output)
            assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
            assert old in server.worker_pids()
            upstream.release("reload", count=100)
            client.read_rest(answer)
            assert answer.body.endswith(b"data: [DONE]\n\n")
        wait_for(lambda: len(server.worker_pids()) == 1 and old not in server.worker_pids())


def answers(url: str) -> bool:
    try:
        return fetch(url, "GET", "/readyz")[0] == 200
    except OSError:
        return False


def test_a_reload_with_settings_that_have_become_wrong_changes_nothing(tmp_path):
    (tmp_path / "token").write_text("management-token-from-a-file")
    settings = {"MANAGEMENT_TOKEN": None, "MANAGEMENT_TOKEN_FILE": str(tmp_path / "token")}
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        before = server.worker_pids()
        (tmp_path / "token").unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "not reloading: wrong settings" in server.output(), otherwise=server.output)

        assert server.worker_pids() == before
        assert fetch(server.url, "GET", "/healthz")[0] == 200

        (tmp_path / "token").write_text("management-token-that-is-new")
        reload(server)
        wait_for(lambda: len(server.worker_pids()) == 1)
        bearer = {"Authorization": "Bearer management-token-that-is-new"}
        assert fetch(server.url, "GET", "/manage/projects", bearer)[0] == 200


@contextmanager
def balancer(directory: Path, *urls: str) -> Iterator[str]:
    """HAProxy in front of two nodes; its address."""
    port = free_port()
    first, second = (urlsplit(url).netloc for url in urls)
    config = directory / "haproxy.cfg"
    config.write_text(BALANCER.format(port=port, first=first, second=second))
    process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(url))
        yield url
    finally:
        process.terminate()
        process.wait(WAIT_S)


@pytest.mark.skipif(not any(Path(place, "haproxy").exists() for place in ("/usr/sbin", "/usr/bin")), reason="HAProxy")
def test_nodes_restarted_one_after_another_behind_a_balancer_lose_no_call(upstream, tmp_path):
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": database_of(tmp_path), "DRAIN_OVERLAP": "1"}
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(Server(DEPLOYED, tmp_path / name, PORT=str(free_port()), **settings))
            for name in ("first", "second")
        ]
        token = nodes[0].issue_token(rate_limit=1_000_000)
        url = stack.enter_context(balancer(tmp_path, *(node.url for node in nodes)))
        with Traffic(url, token) as traffic:
            for node in nodes:
                node.terminate()
                assert node.wait() == 0
                node.start()
                before = len(node.records())
                # The next one goes when the balancer has found this one again.
                wait_for(lambda node=node, before=before: len(node.records()) > before + 50)
        assert traffic.seen == {"whole": traffic.seen.total()}

    assert recorded(*nodes) == {"complete": traffic.seen.total()}
    assert all(len(node.records()) > 50 for node in nodes)
