"""A stop: what runs may end, nothing new begins, and the process leaves with 0."""

import signal
import uuid
from collections.abc import Iterator

import pytest

from tests.http_by_hand import Broken, HandClient
from tests.servers import DEPLOYED, EMBEDDED, Server, Token, fetch, wait_for

STREAM = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
JSON = ("Content-Type", "application/json")


@pytest.fixture(params=[EMBEDDED, DEPLOYED])
def server(request, upstream, tmp_path) -> Iterator[Server]:
    with Server(request.param, tmp_path / "data", UPSTREAM_URL=upstream.url) as server:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once_with_0(server, number):
    token = server.issue_token()
    with HandClient(server.url) as idle:
        assert idle.call("GET", "/v1/models", token.bearer).status == 200
    server.process.send_signal(number)

    # gunicorn ends by SIGINT at once, for a developer's Ctrl-C; SIGTERM is what deployments send.
    assert server.wait(5) == 0
    assert "Traceback" not in server.output()


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


def test_a_call_on_a_connection_that_was_open_before_is_turned_away(server, upstream, gate):
    token = server.issue_token()
    with HandClient(server.url) as streaming, HandClient(server.url) as kept:
        answer = begin_stream(streaming, token, gate)
        # The next call is on its way already when the stop comes, behind one that is still being answered.
        kept_answer = begin_stream(kept, token, gate)
        kept.send_request("GET", "/v1/models", token.bearer)
        server.terminate()
        wait_for(lambda: is_refused(server.url))
        upstream.release(gate, count=100)
        streaming.read_rest(answer)
        kept.read_rest(kept_answer)
        try:
            refusal = kept.read_answer()
            assert (refusal.status, refusal.json["error"]["code"]) == (503, "proxy_draining")
            assert refusal["retry-after"] == "1"
        except Broken:
            pass

    assert server.wait() == 0
    assert upstream.requests("/v1/models") == []


def test_a_client_that_keeps_its_connection_does_not_hold_the_stop_up(server, upstream, gate):
    token = server.issue_token()
    with HandClient(server.url) as client, HandClient(server.url) as idle:
        assert idle.call("GET", "/v1/models", token.bearer).status == 200
        answer = begin_stream(client, token, gate)
        server.terminate()
        wait_for(lambda: is_refused(server.url))
        upstream.release(gate, count=100)
        client.read_rest(answer)

        assert server.wait(5) == 0


def test_a_stream_that_outlasts_the_time_to_drain_is_cut_and_recorded(upstream, tmp_path, gate, kind):
    with Server(kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_TIMEOUT="1") as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            answer = begin_stream(client, token, gate)
            server.terminate()
            with pytest.raises(Broken):
                client.read_rest(answer)
        assert server.wait() == 0

    upstream.wait_for("client_gone")
    assert len(server.records(token)) == 1


@pytest.fixture(params=[EMBEDDED, DEPLOYED])
def kind(request) -> str:
    return request.param


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
