"""A stop: what runs may end, nothing new begins, and the process leaves with 0."""

import os
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from tests.exposition import total
from tests.http_by_hand import Answer, Broken, HandClient, call
from tests.receiver import receiver  # noqa: F401
from tests.servers import DEPLOYED, ROOT, Server, Token, fetch, on_both_servers, wait_for

pytestmark = on_both_servers
STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")


@pytest.fixture
def server(server_kind, upstream, tmp_path) -> Iterator[Server]:
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        yield server


@pytest.fixture
def gate() -> str:
    return str(uuid.uuid4())


def begin_stream(client: HandClient, token: Token, gate: str):
    headers = (token.bearer, JSON, ("x-mock-gate", gate))
    client.send_request("POST", "/v1/chat/completions", *headers, body=STREAM)
    answer = client.read_head()
    client.read_chunk(answer)
    return answer


def is_refused(url: str) -> bool:
    """True when a call is turned away, by a closed door or in words."""
    try:
        status, _, body = fetch(url, "GET", "/readyz")
    except OSError:
        return True
    return status == 503 and b"proxy_draining" in body


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once_with_0(server, number):
    token = server.issue_token()
    with HandClient(server.url) as idle:
        assert idle.call("GET", "/v1/models", token.bearer).status == 200
    server.process.send_signal(number)

    # gunicorn ends by SIGINT at once, for a developer's Ctrl-C; SIGTERM is what deployments send.
    assert server.wait() == 0
    assert "Traceback" not in server.output()


@pytest.mark.once
def test_a_running_stream_ends_and_nothing_new_begins(server, upstream, gate):
    token = server.issue_token()
    with HandClient(server.url) as client:
        answer = begin_stream(client, token, gate)
        server.terminate()
        wait_for(lambda: is_refused(server.url))
        assert server.process.poll() is None
        upstream.release(gate, count=100)
        client.read_rest(answer)

        assert answer.body.endswith(b"data: [DONE]\n\n")
    assert server.wait() == 0
    (record,) = server.records(token)
    assert record["outcome"] == "complete"


@pytest.mark.once
def test_a_client_that_keeps_its_connection_does_not_hold_the_stop_up(server, upstream, gate):
    token = server.issue_token()
    with HandClient(server.url) as client, HandClient(server.url) as idle:
        assert idle.call("GET", "/v1/models", token.bearer).status == 200
        answer = begin_stream(client, token, gate)
        server.terminate()
        wait_for(lambda: is_refused(server.url))
        upstream.release(gate, count=100)
        client.read_rest(answer)

        assert server.wait() == 0


@pytest.mark.once
def test_a_stream_that_outlasts_the_time_to_drain_is_cut_and_recorded(upstream, tmp_path, gate, server_kind):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_TIMEOUT="1") as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            answer = begin_stream(client, token, gate)
            server.terminate()
            with pytest.raises(Broken):
                client.read_rest(answer)
        assert server.wait() == 0

    upstream.wait_for("client_gone")
    assert cut(server, token) == (200, "proxy_draining")


@pytest.mark.once
def test_what_outlasts_the_time_to_drain_though_it_says_nothing_is_cut_too(upstream, tmp_path, server_kind):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_TIMEOUT="1") as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            client.send_request("GET", "/v1/models", token.bearer, ("x-mock-hold", "1"))
            upstream.wait_for("waiting")
            server.terminate()
            refusal = client.read_answer()

            assert (refusal.status, refusal.json["error"]["code"]) == (503, "proxy_draining")
            assert server.wait() == 0
    assert cut(server, token) == (503, "proxy_draining")


# --- the overlap ---


@pytest.mark.once
def test_new_calls_are_served_until_balancers_have_looked(upstream, tmp_path, server_kind):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_OVERLAP="60") as server:
        token = server.issue_token()
        with HandClient(server.url) as kept:
            assert kept.call("GET", "/v1/models", token.bearer).all("connection") != ["close"]
            server.terminate()
            wait_for(lambda: is_refused(server.url))
            answers = [
                call(server.url, "GET", "/v1/models", token.bearer),
                kept.call("GET", "/v1/models", token.bearer),
            ]

            assert [(answer.status, answer["connection"].lower()) for answer in answers] == [(200, "close")] * 2
            assert kept.has_ended()
        server.terminate()
        assert server.wait() == 0
    assert len(server.records(token)) == 3


@pytest.mark.once
def test_a_kept_connection_that_missed_the_overlap_hears_that_it_is_over(server, upstream, gate):
    token = server.issue_token()
    with HandClient(server.url) as kept:
        answer = begin_stream(kept, token, gate)
        server.terminate()
        wait_for(lambda: "no new calls" in server.output(), otherwise=server.output)
        # Its answer had promised to keep the connection, so the next call comes this way.
        kept.send_request("GET", "/v1/models", token.bearer)
        upstream.release(gate, count=100)
        kept.read_rest(answer)
        refusal = kept.read_answer()

        assert (refusal.status, refusal.json["error"]["code"]) == (503, "proxy_draining")
        assert (refusal["retry-after"], refusal["connection"].lower()) == ("1", "close")
    assert server.wait() == 0
    assert upstream.requests("/v1/models") == []


def cut(server: Server, token: Token) -> tuple[int, str]:
    """Status and error in the one record that a token's calls have left."""
    (record,) = server.wait_for_records(1, token)
    return record["status_code"], record["error"]["code"]


def is_shut(url: str) -> bool:
    try:
        fetch(url, "GET", "/healthz")
    except OSError:
        return True
    return False


# --- what is in a hurry ---


@pytest.mark.once
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_with_everything_recorded(upstream, tmp_path, gate, server_kind, second):
    with Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_OVERLAP="60") as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            answer = begin_stream(client, token, gate)
            server.terminate()
            wait_for(lambda: is_refused(server.url))
            server.process.send_signal(second)
            with pytest.raises(Broken):
                client.read_rest(answer)

            assert server.wait() == 0
    assert cut(server, token) == (200, "proxy_draining")
    assert "Traceback" not in server.output()


@pytest.mark.once
def test_a_supervisor_that_tells_master_and_workers_alike_has_said_it_once(upstream, tmp_path, gate):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            answer = begin_stream(client, token, gate)
            for pid in [*server.worker_pids(), server.process.pid]:
                os.kill(pid, signal.SIGTERM)
            wait_for(lambda: is_refused(server.url))
            upstream.release(gate, count=100)
            client.read_rest(answer)

            assert answer.body.endswith(b"data: [DONE]\n\n")
        assert server.wait() == 0


def test_workers_without_a_master_go_and_record_what_they_cut(upstream, tmp_path, gate):
    with Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            answer = begin_stream(client, token, gate)
            server.kill()
            with pytest.raises(Broken):
                client.read_rest(answer)
        wait_for(lambda: is_shut(server.url))

    assert cut(server, token) == (200, "proxy_draining")


# --- what is not with the upstream yet ---


@contextmanager
def waiting_claims(server: Server) -> Iterator[None]:
    """Somebody else is in the middle of writing."""
    if url := server.settings.get("DATABASE_URL"):
        with psycopg.connect(url) as postgres:
            postgres.execute("LOCK TABLE tokens IN EXCLUSIVE MODE")
            yield
    else:
        with closing(sqlite3.connect(server.data_dir / "llm-proxy.db", isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")


def wait_for_metric(server: Server, line: str) -> None:
    wait_for(lambda: f"\n{line}\n" in server.metrics(), otherwise=server.metrics)


def refusal_after_two_stops(server: Server, client: HandClient) -> Answer:
    """What a client is told whose call is cut by the second stop."""
    server.terminate()
    wait_for(lambda: is_refused(server.url))
    server.terminate()
    refusal = client.read_answer()

    assert (refusal.status, refusal.json["error"]["code"]) == (503, "proxy_draining")
    return refusal


def test_a_call_whose_claim_waits_is_cut_in_words_and_recorded(server, upstream):
    token = server.issue_token()
    with HandClient(server.url) as client, waiting_claims(server):
        client.send_request("GET", "/v1/models", token.bearer)
        wait_for_metric(server, "llmproxy_requests_in_flight 1.0")
        refusal = refusal_after_two_stops(server, client)
    assert server.wait() == 0
    (record,) = server.records()
    assert (record["status_code"], record["error"]["code"]) == (503, "proxy_draining")
    assert (record["request_id"], record["token"]) == (refusal["x-request-id"], None)
    assert upstream.requests() == []


def test_a_websocket_whose_claim_waits_is_refused_when_the_others_are_closed(server, upstream):
    token = server.issue_token()
    asks = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), token.bearer]
    with HandClient(server.url) as client, waiting_claims(server):
        client.send_request("GET", "/v1/realtime", *asks, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
        wait_for_metric(server, "llmproxy_requests_in_flight 1.0")
        server.terminate()
        refusal = client.read_answer()

        assert (refusal.status, refusal.json["error"]["code"]) == (503, "proxy_draining")
    assert server.wait() == 0
    assert [record["error"]["code"] for record in server.records()] == ["proxy_draining"]


@pytest.mark.once
def test_a_call_whose_body_is_still_to_come_is_cut_in_words_too(server, upstream):
    token = server.issue_token()
    with HandClient(server.url) as client:
        client.send_request("POST", "/v1/echo", token.bearer, ("Content-Length", "10"))
        client.send(b"hello")
        wait_for_metric(server, "llmproxy_claim_seconds_count 1.0")
        refusal_after_two_stops(server, client)
        assert server.wait() == 0
    assert cut(server, token) == (503, "proxy_draining")
    assert upstream.requests("/v1/echo") == []


# --- what is done before the end ---


@pytest.mark.once
def test_a_worker_hears_of_a_stop_from_the_moment_on_when_it_is_forked(tmp_path):
    # As if the master stopped just then: gunicorn logs a worker's start before it sets the worker's handlers.
    conf = tmp_path / "conf.py"
    conf.write_text(f"""
import os, signal
exec(open({str(ROOT / "gunicorn.conf.py")!r}).read())
ours = post_fork
def post_fork(arbiter, worker):
    if worker.age == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    ours(arbiter, worker)
""")

    with Server(DEPLOYED, tmp_path / "data", arguments=("-c", str(conf))) as server:
        wait_for(lambda: "was sent SIGTERM" in server.output())
        assert fetch(server.url, "GET", "/healthz")[0] == 200


def test_usage_is_added_up_and_records_are_shipped_before_the_end(upstream, receiver, tmp_path, server_kind):  # noqa: F811
    settings = {"UPSTREAM_URL": upstream.url, "LOGGING_URL": receiver.url, "WEB_CONCURRENCY": "2"}
    with Server(server_kind, tmp_path / "data", **settings) as server:
        token = server.issue_token()
        for _ in range(40):
            assert call(server.url, "GET", "/v1/models", token.bearer).status == 200
        server.terminate()
        assert server.wait() == 0

    assert len({record["request_id"] for record in receiver.records}) == 40
    query = "SELECT SUM(requests) AS sum FROM usage_sums JOIN usage_keys k ON k.id = key_id WHERE k.view = 1"
    assert server.rows(f"{query} AND token_id = '{token.id}'") == [{"sum": 40}]


@pytest.mark.once
def test_readyz_tells_that_it_is_about_to_stop_while_healthz_still_answers(server, upstream, gate):
    token = server.issue_token()
    assert fetch(server.url, "GET", "/readyz")[0] == 200
    with HandClient(server.url) as client, HandClient(server.url) as probe:
        # A probe whose connection is busy when the stop comes is answered after it.
        probe_answer = begin_stream(probe, token, gate)
        probe.send_request("GET", "/readyz")
        server.terminate()
        wait_for(lambda: is_refused(server.url))
        upstream.release(gate, count=100)
        probe.read_rest(probe_answer)
        client.close()
        try:
            told = probe.read_answer()
            assert (told.status, told.json["error"]["code"]) == (503, "proxy_draining")
        except Broken:
            pass


# --- what waits for room in the log ---


def make_records_wait(server: Server, token: Token, count: int) -> int:
    """Makes calls of which at least `count` must wait for room; how many there were."""
    made = 0
    with HandClient(server.url) as client:
        while total(server.metrics(), "llmproxy_log_pending_records") < count:
            for _ in range(min(count, 400)):
                assert client.call("GET", "/v1/models", token.bearer).status == 200
                made += 1
    return made


@pytest.mark.once
def test_thousands_of_records_that_waited_in_memory_are_written_at_a_stop(server):
    token = server.issue_token(rate_limit=100_000)
    with server.unwritable_log():
        made = make_records_wait(server, token, 1700)  # more than three ticks of the background write
    server.terminate()

    assert server.wait() == 0
    assert len(server.records(token)) + server.aside().count(token.id) == made
    assert len(server.records(token)) >= 1700
    assert "could not be written" not in server.output()


@pytest.mark.once
def test_a_stop_says_how_many_records_it_loses(server):
    token = server.issue_token()
    with server.unwritable_log():
        made = make_records_wait(server, token, 3)
        server.terminate()

        assert server.wait() == 0
    lost = made - server.aside().count(token.id)
    assert f"{lost} call records could not be written before the end" in server.output()
