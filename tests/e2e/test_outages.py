"""The proxy's own parts fail: nobody is told that a good token is bad, and LOG_STRICT forwards nothing unrecorded."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import openai
import pytest

from tests.http_by_hand import call
from tests.servers import DEPLOYED, Server, fetch, wait_for

UNKNOWN = ("Authorization", "Bearer 00000000-0000-4000-8000-000000000000")


@pytest.fixture
def server(upstream, tmp_path) -> Iterator[Server]:
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        yield server


@contextmanager
def write_lock(server: Server) -> Iterator[None]:
    """The database as another process's long transaction leaves it."""
    with closing(sqlite3.connect(server.data_dir / "llm-proxy.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


# --- the database ---


@pytest.mark.sqlite
def test_a_locked_database_is_a_503_that_asks_to_come_back(server, upstream):
    token = server.issue_token()
    answers = {}

    def ask(name, *headers):
        answers[name] = call(server.url, "GET", "/v1/models", *headers)

    with write_lock(server):
        callers = [
            threading.Thread(target=ask, args=pair) for pair in (("known", token.bearer), ("unknown", UNKNOWN))
        ]
        for caller in callers:
            caller.start()
        # Whoever needs no database is served while the others wait for it.
        assert fetch(server.url, "GET", "/healthz")[0] == 200
        assert callers[0].is_alive()
        for caller in callers:
            caller.join()

    for answer in answers.values():
        error = answer.json["error"]
        assert (answer.status, error["type"], error["code"]) == (
            503,
            "service_unavailable_error",
            "auth_unavailable",
        )
        assert answer["retry-after"] == "1" and answer.all("www-authenticate") == []
    assert upstream.requests("/v1/models") == []
    assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
    server.wait_for_records(3)
    assert (server.count_calls(status_code=200), server.count_calls(status_code=503)) == (1, 2)


@pytest.mark.sqlite
def test_a_change_that_a_locked_database_cannot_take_is_a_503_and_not_made(tmp_path):
    with Server(DEPLOYED, tmp_path / "data") as server:
        with write_lock(server), ThreadPoolExecutor() as pool:
            change = pool.submit(server.manage, "POST", "/projects", {"name": "late", "openai_api_key": "sk-late"})
            # Whoever needs no database is served while the change waits for it.
            assert fetch(server.url, "GET", "/healthz")[0] == 200
            assert not change.done()
            status, told = change.result()

        assert (status, told["error"]["type"]) == (503, "service_unavailable_error")
        assert server.manage("GET", "/projects")[1]["data"] == []


@pytest.mark.sqlite
@pytest.mark.parametrize("put_there", ["a directory", "garbage", "nothing"])
def test_a_lost_database_is_a_503_and_never_a_401(server, upstream, put_there):
    for path in server.data_dir.glob("llm-proxy.db*"):
        path.unlink()
    place = server.data_dir / "llm-proxy.db"
    if put_there == "a directory":
        place.mkdir()
    if put_there == "garbage":
        place.write_bytes(b"garbage" * 10_000)

    client = openai.OpenAI(api_key=UNKNOWN[1][7:], base_url=f"{server.url}/v1", max_retries=0)
    with client, pytest.raises(openai.InternalServerError) as error:
        client.models.list()
    assert (error.value.status_code, error.value.code) == (503, "auth_unavailable")
    assert fetch(server.url, "GET", "/healthz")[0] == 200


def test_a_key_sealed_under_a_lost_encryption_key_is_the_operators_matter(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
    other = "b3RoZXItZW5jcnlwdGlvbi1rZXktb2YtdGhlLXRlc3Q="
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, ENCRYPTION_KEY=other) as server:
        answer = call(server.url, "GET", "/v1/models", token.bearer)

    assert (answer.status, answer.json["error"]["code"]) == (503, "auth_unavailable")
    assert upstream.requests("/v1/models") == []


# --- the log ---


def test_a_log_that_cannot_be_written_costs_nobody_a_call_and_is_caught_up_on(server, upstream):
    token = server.issue_token()
    with server.unwritable_log():
        wait_for(lambda: call(server.url, "GET", "/v1/models", token.bearer).status == 200 and pending(server) > 0)

    wait_for(lambda: pending(server) == 0)
    records = server.records(token)
    assert len(upstream.requests("/v1/models")) >= len(records) > 0
    assert all(record["outcome"] == "complete" for record in records)


def pending(server: Server) -> float:
    name = "llmproxy_log_pending_records "
    return float(next(line.removeprefix(name) for line in server.metrics().splitlines() if line.startswith(name)))


def test_log_strict_forwards_nothing_that_it_cannot_record(upstream, tmp_path):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, LOG_STRICT="on") as server:
        token = server.issue_token()
        assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        with server.unwritable_log():
            answer = wait_for(lambda: refused(server, token))
            assert (answer.json["error"]["code"], answer["retry-after"]) == ("log_unavailable", "1")
            forwarded = len(upstream.requests("/v1/models"))
            assert call(server.url, "GET", "/v1/models", token.bearer).status == 503
            assert len(upstream.requests("/v1/models")) == forwarded
        assert wait_for(lambda: call(server.url, "GET", "/v1/models", token.bearer).status == 200)


def refused(server, token):
    answer = call(server.url, "GET", "/v1/models", token.bearer)
    return answer if answer.status == 503 else None


# --- who may look ---


def test_metrics_may_be_kept_behind_a_token(tmp_path):
    with Server(DEPLOYED, tmp_path / "data", METRICS_TOKEN="metrics-token-of-the-tests") as server:
        for sent in (None, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
            status, headers, _ = fetch(server.url, "GET", "/metrics", sent)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="metrics"')

        wait_for(lambda: "llmproxy_requests_in_flight 0.0" in server.metrics())
