"""PostgreSQL under the running product: two nodes, the pool, PgBouncer, moving there."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from config import SECRETS
from llmproxy.keyring import KeyRing
from models import db
from tests.e2e.test_commands import call_in_parallel, flask
from tests.http_by_hand import call
from tests.pgbouncer import pgbouncer_before
from tests.receiver import receiver  # noqa: F401
from tests.servers import DEPLOYED, UPSTREAM_KEY, Server, fetch, open_sockets, wait_for
from tests.upstream import Peer, ScriptedUpstream

pytestmark = pytest.mark.postgres
NOT_COPIED = {"leases", "schema_floor"}


@pytest.fixture
def url(postgres_server) -> str:
    return postgres_server.new_database()


def test_two_nodes_of_two_workers_let_exactly_the_limit_pass(upstream, tmp_path, url):
    node = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": url, "WEB_CONCURRENCY": "2"}
    with Server(DEPLOYED, tmp_path / "a", **node) as one, Server(DEPLOYED, tmp_path / "b", **node) as two:
        token = one.issue_token(rate_limit=150)

        assert call_in_parallel([one, two], token, 480) == {200: 150, 429: 330}
        assert len(upstream.requests("/v1/models")) == 150
        assert two.manage("GET", f"/tokens/{token.id}")[1]["request_count"] == 150

        # What one node's operator changes, the other one's next call sees.
        assert one.manage("DELETE", "/tokens", {"id": token.id})[0] == 204
        assert call(two.url, "GET", "/v1/models", token.bearer).status == 401


def test_what_two_nodes_of_two_workers_read_at_once_counts_once(upstream, tmp_path, url):
    batches = [f"batch_{number}" for number in range(20)]

    def answers(peer: Peer) -> None:
        target = peer.read_request().split(b" ", 2)[1].decode()
        usage = {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29}
        body = json.dumps({"id": target.rpartition("/")[2], "object": "batch", "status": "completed", "usage": usage})
        head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        peer.send((head % len(body) + body).encode())

    node = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": url, "WEB_CONCURRENCY": "2"}
    with (
        ScriptedUpstream(every=answers) as batch_keeper,
        Server(DEPLOYED, tmp_path / "a", **node) as one,
        Server(DEPLOYED, tmp_path / "b", **node) as two,
    ):
        token = one.issue_token(one.create_project(base_url=batch_keeper.url))
        targets = [(server, f"/v1/batches/{name}") for name in batches for server in (one, two, one, two)]
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda each: call(each[0].url, "GET", each[1], token.bearer).status, targets))
        assert seen == [200] * len(targets)

        def total() -> dict | None:
            _, answer = one.manage("GET", f"/usage?project_id={token.project_id}&group_by=day")
            return answer["total"] if answer["total"]["requests"] == len(targets) else None

        assert wait_for(total)["total_tokens"] == len(batches) * 29


def test_a_worker_holds_no_more_connections_than_it_may(upstream, tmp_path, url):
    settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": url, "DATABASE_POOL_SIZE": "4"}
    seen = []
    with Server(DEPLOYED, tmp_path / "data", **settings) as server:
        token, [worker] = server.issue_token(rate_limit=10_000), server.worker_pids()
        with ThreadPoolExecutor(8) as pool:
            calls = pool.submit(call_in_parallel, [server], token, 320)
            lists = [pool.submit(server.manage, "GET", "/tokens") for _ in range(30)]
            while not calls.done():
                seen.append(connections(worker, urlsplit(url).port))

        assert calls.result() == {200: 320}
        assert {each.result()[0] for each in lists} == {200}
    assert 2 <= max(seen) <= 4


def connections(pid: int, port: int) -> int:
    """How many a process has to a port. The database itself still tells of one for a moment after it was closed."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return len(open_sockets(pid) & {row[9] for row in rows if row[3] == "01" and row[2].endswith(f":{port:04X}")})


def test_everything_works_through_pgbouncer_in_transaction_mode(upstream, tmp_path, url):
    with pgbouncer_before(url) as bouncer:
        settings = {"UPSTREAM_URL": upstream.url, "DATABASE_URL": bouncer, "DATABASE_PREPARE": "false"}
        with Server(DEPLOYED, tmp_path / "data", **settings, WEB_CONCURRENCY="2") as server:
            token = server.issue_token(rate_limit=200)

            assert call_in_parallel([server], token, 320) == {200: 200, 429: 120}
            for _ in range(8):
                assert server.manage("PATCH", f"/tokens/{token.id}", {"rate_limit": 200})[0] == 200
            assert server.manage("GET", "/usage")[0] == 200
            assert "deleted 0 expired tokens" in flask(server, "cleanup")
            assert "prepared statement" not in server.output()


def test_a_proxy_moves_to_postgresql_and_its_token_goes_on(upstream, tmp_path, url):
    source = f"sqlite:///{tmp_path}/source.db"
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, DATABASE_URL=source) as server:
        token = server.issue_token(rate_limit=3)
        call(server.url, "GET", "/v1/models", token.bearer)

    told = flask(server, "db-copy", "--from", source, "--to", url)

    assert "opened 1 sealed keys" in told and told.count("sha256") == len(db.metadata.tables) - len(NOT_COPIED)
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, DATABASE_URL=url) as server:
        statuses = [call(server.url, "GET", "/v1/models", token.bearer).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert len(server.manage("GET", "/tokens")[1]["data"]) == 1


def test_every_secret_may_lie_in_a_file(upstream, receiver, tmp_path, url):  # noqa: F811
    key = base64.b64encode(b"f" * 32).decode()
    secrets = {
        "DATABASE_URL": url, "MANAGEMENT_TOKEN": "management-token-in-a-file", "ADMIN_PASSWORD": "password-in-a-file",
        "ENCRYPTION_KEY": key, "LOGGING_URL": receiver.url, "LOGGING_TOKEN": "logging-token-in-a-file",
        "METRICS_TOKEN": "metrics-token-in-a-file", "ALERT_URL": f"{receiver.url}/alerts",
        "ALERT_SECRET": "whsec_" + base64.b64encode(b"s" * 32).decode(),
    }  # fmt: skip
    elsewhere = {"OTEL_EXPORTER_OTLP_HEADERS", "HTTPS_PROXY", "HTTP_PROXY"}  # test_tracing.py, test_egress.py
    assert set(secrets) | elsewhere == set(SECRETS)
    for name, value in secrets.items():
        (tmp_path / name).write_text(f"{value}\n")
    files = {f"{name}_FILE": str(tmp_path / name) for name in secrets}
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, **dict.fromkeys(secrets), **files) as server:
        server.settings["MANAGEMENT_TOKEN"] = secrets["MANAGEMENT_TOKEN"]  # what the tests' operator sends
        server.settings["METRICS_TOKEN"] = secrets["METRICS_TOKEN"]
        token = server.issue_token()
        basic = base64.b64encode(b"admin:password-in-a-file").decode()

        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        assert fetch(server.url, "GET", "/admin/", {"Authorization": f"Basic {basic}"})[0] == 200
        assert fetch(server.url, "GET", "/metrics")[0] == 401
        assert "llmproxy_requests_in_flight" in server.metrics()
        wait_for(lambda: receiver.records)
        assert not (tmp_path / "data" / "llm-proxy.db").exists()
        server.secrets |= set(secrets.values())
        assert server.leaks() == []

    with psycopg.connect(url) as database:
        sealed, project_id = database.execute("SELECT openai_api_key, id FROM projects").fetchone()
    assert KeyRing([b"f" * 32]).open(sealed, row_id=project_id) == UPSTREAM_KEY
