"""What is held and charged when a node is paused, the database goes, or the answer to a claim is lost on its way."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from tests.databases import execute
from tests.exposition import total
from tests.http_by_hand import call
from tests.meters import DOLLAR, UsingUpstream, add_meter, asking, numbers, rule, settled
from tests.postgres import PostgresServer, running_postgres
from tests.servers import DEPLOYED, Server, wait_for

CHAT = "/v1/chat/completions"
COST = 2800
BODY = asking("gpt-4.1", used=(1000, 100), max_tokens=1000)
WAITING = asking("gpt-4.1", used=(1000, 100), max_tokens=1000, waits=True)

pytestmark = pytest.mark.postgres


@pytest.fixture
def using() -> Iterator[UsingUpstream]:
    with UsingUpstream() as upstream:
        yield upstream


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A server that nobody else uses."""
    with running_postgres() as server:
        yield server


def reservations(url: str) -> list[str]:
    return [row["state"] for row in execute(url, "SELECT state FROM reservations")]


@contextmanager
def paused(server: Server) -> Iterator[None]:
    """All of a node's processes stand still, as on a machine that is suspended."""
    pids = [server.process.pid, *server.worker_pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_node_that_is_paused_is_taken_for_dead_by_nobody_and_charged_once(using, postgres, tmp_path):
    url = postgres.new_database()
    settings = {"UPSTREAM_URL": using.url, "DATABASE_URL": url}
    with Server(DEPLOYED, tmp_path / "a", **settings) as one, Server(DEPLOYED, tmp_path / "b", **settings) as two:
        token = one.issue_token()
        meter = add_meter(one, token, amount=10 * DOLLAR)

        def leases() -> set[str]:
            return {str(row) for row in execute(url, "SELECT name, until FROM leases WHERE name <> 'cleanup'")}

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(call, it.url, "POST", CHAT, token.bearer, body=WAITING) for it in (one, two)]
            wait_for(lambda: len(using.seen) == 2)
            with paused(one):
                before = leases()
                wait_for(lambda: leases() != before)  # the other one's reaper has looked
                assert reservations(url) == ["held", "held"]
                using.goes_on.set()
                assert running[1].result().status == 200
            assert running[0].result().status == 200

        assert settled(one, meter).spent == 2 * COST
        wait_for(lambda: reservations(url) == [], otherwise=lambda: reservations(url))
        assert numbers(one, meter).spent == 2 * COST
        assert [total(it.metrics(), "llmproxy_reservations_orphaned_total") for it in (one, two)] == [0, 0]


def test_what_ends_while_the_database_is_away_is_charged_once_when_it_is_back(using, postgres, tmp_path):
    url = postgres.new_database()
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, DATABASE_URL=url) as proxy:
        token = proxy.issue_token()
        meter = add_meter(proxy, token, amount=10 * DOLLAR)
        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(call, proxy.url, "POST", CHAT, token.bearer, body=WAITING) for _ in range(4)]
            wait_for(lambda: len(using.seen) == 4)
            execute(url, "CHECKPOINT")  # a crash forgets no claim then
            postgres.stop()
            using.goes_on.set()
            assert [done.result().status for done in running] == [200] * 4
            refused = call(proxy.url, "POST", CHAT, token.bearer, body=BODY)
            proxy.wait_for_records(4, token)
            postgres.start()

        assert (refused.status, refused.json["error"]["code"]) == (503, "auth_unavailable")
        wait_for(lambda: reservations(url) == [], otherwise=lambda: reservations(url))
        assert numbers(proxy, meter) == (4 * COST, 0, 0)
        assert execute(url, "SELECT sum(in_flight) AS n FROM tokens") == [{"n": 0}]


# The proxy itself deletes what it let go.
KEEPING = """
CREATE TABLE kept (request_id text);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO kept VALUES (NEW.request_id); RETURN NEW; END';
CREATE TRIGGER keep AFTER INSERT ON reservations FOR EACH ROW EXECUTE FUNCTION keep();
"""


class Cut:
    """
    A way to the database that loses an answer.

    Attributes:
        mark: The connection that sends this next is cut when the database has answered; empty for none.
        cuts: How often that was.
    """

    def __init__(self, port: int) -> None:
        self.mark = b""
        self.cuts = 0
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                database = socket.create_connection(self._to)
                marked = threading.Event()
                threading.Thread(target=self._up, args=(client, database, marked), daemon=True).start()
                threading.Thread(target=self._down, args=(client, database, marked), daemon=True).start()

    def _up(self, client: socket.socket, database: socket.socket, marked: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if self.mark and self.mark in data:
                    self.mark = b""
                    marked.set()
                database.sendall(data)
            database.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, database: socket.socket, marked: threading.Event) -> None:
        with suppress(OSError):
            while data := database.recv(1 << 16):
                # ReadyForQuery, idle: what was asked for has been committed.
                if marked.is_set() and data.endswith(b"Z\0\0\0\5I"):
                    self.cuts += 1
                    break
                if not marked.is_set():
                    client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
            database.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("rules", "budget"),
    [({"concurrency": 1}, {"amount": 10 * DOLLAR}), ({}, {"amount": 20_000, "reserve": "bound"})],
    ids=["the only call that may run", "the only one that fits"],
)
def test_a_claim_whose_answer_is_lost_after_its_commit_is_sent_again_and_counts_once(
    using, postgres, tmp_path, rules, budget
):
    url = postgres.new_database()
    cut = Cut(postgres.port)
    through = url.replace(f":{postgres.port}/", f":{cut.port}/")
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=using.url, DATABASE_URL=through) as proxy:
        token = proxy.issue_token()
        meter = add_meter(proxy, token, **budget)
        rule(proxy, token, rules)
        execute(url, KEEPING)
        cut.mark = meter.encode()

        assert call(proxy.url, "POST", CHAT, token.bearer, body=BODY).status == 200

        assert cut.cuts == 1
        assert settled(proxy, meter) == (COST, 0, 0)
        assert len(execute(url, "SELECT * FROM kept")) == len(using.seen) == 1
        [counted] = execute(url, f"SELECT in_flight, request_count FROM tokens WHERE id = '{token.id}'")
        assert counted == {"in_flight": 0, "request_count": 1}
    cut.close()
