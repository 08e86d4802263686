"""A client that hangs up, at any moment: the upstream call ends with it, and one record says so."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.http_by_hand import HandClient
from tests.servers import Server, on_both_servers, wait_for

CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
JSON = ("Content-Type", "application/json")
ENDINGS = pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])


def assert_client_closed(proxy, token) -> dict:
    (record,) = proxy.wait_for_records(1, token)
    assert (record["outcome"], record["status_code"]) == ("client_closed", 499)
    assert record["error"] is None or record["error"]["code"] is None
    return record


@on_both_servers
@ENDINGS
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_while_it_sends_its_body(proxy, upstream, token, framing, reset):
    client = HandClient(proxy.url)
    kind = {"length": ("Content-Length", "1000000"), "chunked": ("Transfer-Encoding", "chunked")}[framing]
    client.send_request("POST", "/v1/echo", token.bearer, kind)
    client.send(b"20000\r\n" * (framing == "chunked") + b"x" * 0x20000)
    upstream.wait_for("receiving")
    client.close(reset=reset)

    assert not upstream.wait_for("client_gone")["body_complete"]
    record = assert_client_closed(proxy, token)
    assert record["upstream_status"] is None and 0 < record["bytes_in"] <= 0x20000


@ENDINGS
def test_while_it_sends_a_body_that_would_be_held(proxy, upstream, token, reset):
    client = HandClient(proxy.url)
    client.send_request("POST", "/v1/echo", token.bearer, ("Content-Length", "1000"))
    client.send(b"x" * 10)
    client.close(reset=reset)

    assert_client_closed(proxy, token)
    assert upstream.requests() == []


@on_both_servers
@ENDINGS
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "kept connection"])
def test_while_it_waits_for_the_first_byte(proxy, upstream, token, reset, warm):
    client = HandClient(proxy.url)
    if warm:
        client.call("POST", "/v1/echo", token.bearer, body=b"x")
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hold", "1"), body=CHAT)
    upstream.wait_for("waiting", path="/v1/chat/completions")
    client.close(reset=reset)

    upstream.wait_for("client_gone", path="/v1/chat/completions")
    proxy.wait_for_records(1 + warm, token)
    assert [record["outcome"] for record in proxy.records(token)] == ["complete"] * warm + ["client_closed"]
    # Nobody asks again on behalf of somebody who left.
    assert len(upstream.requests("/v1/chat/completions")) == 1


@on_both_servers
@ENDINGS
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_while_the_upstream_is_silent_within_its_stream(proxy, upstream, token, framing, reset):
    client = HandClient(proxy.url)
    controls = (("x-mock-hang-after", "2"), ("x-mock-framing", framing))
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, *controls, body=STREAM)
    client.read_chunk(client.read_head())
    client.close(reset=reset)

    upstream.wait_for("client_gone")
    record = assert_client_closed(proxy, token)
    assert record["upstream_status"] == 200 and record["bytes_out"] > 0 and record["ttft_ms"] is not None


@ENDINGS
def test_between_the_head_and_the_first_event(proxy, upstream, token, reset):
    client = HandClient(proxy.url)
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hang-after", "0"), body=STREAM)
    client.read_head()
    client.close(reset=reset)

    upstream.wait_for("client_gone")
    assert assert_client_closed(proxy, token)["ttft_ms"] is None


@ENDINGS
def test_while_the_upstream_sends_faster_than_anybody_reads(proxy, upstream, token, reset):
    client = HandClient(proxy.url, receive_buffer=8192)
    client.send_request("GET", "/v1/files/file-1/content", token.bearer, ("x-mock-size", "100000000"))
    client.read_chunk(client.read_head())
    client.close(reset=reset)

    assert upstream.wait_for("client_gone")["pieces_sent"] < 1000
    assert_client_closed(proxy, token)


def test_a_chunked_upload_whose_client_leaves_never_ends_cleanly_upstream(proxy, upstream, token):
    client = HandClient(proxy.url)
    client.send_request("POST", "/v1/echo", token.bearer, ("Transfer-Encoding", "chunked"))
    client.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    upstream.wait_for("receiving")
    client.close()

    assert not upstream.wait_for("client_gone")["body_complete"]


def test_a_client_that_sent_its_next_request_early_is_not_taken_for_gone(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        client.send_request("GET", "/v1/models", token.bearer, ("x-mock-delay-ms", "500"))
        wait_for(lambda: upstream.requests("/v1/models"))
        client.send_request("GET", "/v1/models/gpt-4o-mini", token.bearer)

        assert client.read_answer().json["object"] == "list"
        assert client.read_answer().json["object"] == "model"


# What may stand behind a request: a stray line, a next request, one that is never whole.
BEHIND = {
    "an empty line": b"\r\n",
    "a request": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "many requests": 100 * b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "more than the kernel takes, so that the end does not come": b"x" * 400_000,
    "half a request": b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab",
}


@on_both_servers
@ENDINGS
@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("behind", BEHIND)
def test_behind_more_than_its_request(proxy, upstream, token, behind, when, reset):
    client = HandClient(proxy.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
    head += f"x-mock-hold: 1\r\nContent-Length: {len(CHAT)}\r\n\r\n"
    client.send(head.encode() + CHAT + (BEHIND[behind] if when == "at once" else b""))
    upstream.wait_for("waiting")
    client.send(BEHIND[behind] if when == "later" else b"")
    client.close(reset=reset)

    upstream.wait_for("client_gone")
    assert_client_closed(proxy, token)


@on_both_servers
def test_behind_its_next_request_within_a_stream(proxy, upstream, token):
    client = HandClient(proxy.url)
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hang-after", "2"), body=STREAM)
    client.read_chunk(client.read_head())
    client.send_request("GET", "/v1/models", token.bearer)
    client.close()

    upstream.wait_for("client_gone")
    assert assert_client_closed(proxy, token)["upstream_status"] == 200


def test_a_connection_whose_client_left_is_not_used_for_somebody_else(proxy, upstream, token):
    client = HandClient(proxy.url)
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hang-after", "2"), body=STREAM)
    client.read_chunk(client.read_head())
    client.close()
    broken = upstream.wait_for("client_gone")

    with HandClient(proxy.url) as other:
        assert other.call("GET", "/v1/models", token.bearer).json["object"] == "list"
    assert upstream.last_request()["connection"] != broken["connection"]


def test_while_its_upload_waits_for_an_upstream_that_does_not_read(proxy, upstream, token):
    client = HandClient(proxy.url)
    headers = (token.bearer, ("x-mock-read-gate", "shut"), ("Content-Length", "99999999"))
    client.send_request("POST", "/v1/echo", *headers)
    upstream.wait_for("receiving")
    client.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):  # until every buffer on the way is full
        for _ in range(1000):
            client.send(b"x" * 65536)
    client.close(reset=True)  # a FIN would wait behind what nobody takes

    assert_client_closed(proxy, token)
    upstream.release("shut")  # it sees an end only by reading
    assert not upstream.wait_for("client_gone")["body_complete"]


@on_both_servers
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_client_that_stops_reading_is_cut_off_after_the_idle_time(impatient_proxy, upstream, framing):
    token = impatient_proxy.issue_token()
    with HandClient(impatient_proxy.url, receive_buffer=8192) as client:
        headers = (token.bearer, ("x-mock-size", "100000000"), ("x-mock-framing", framing))
        client.send_request("GET", "/v1/files/file-1/content", *headers)
        client.read_chunk(client.read_head())

        # The client is still there, and does nothing.
        assert upstream.wait_for("client_gone")["pieces_sent"] < 1000
        assert_client_closed(impatient_proxy, token)


def test_one_that_closes_its_sending_side_counts_as_one_that_left(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hold", "1"), body=CHAT)
        client.sock.shutdown(socket.SHUT_WR)

        upstream.wait_for("client_gone")
        assert_client_closed(proxy, token)


@pytest.fixture
def patient_proxy(server_kind, tmp_path) -> Iterator[Server]:
    """A proxy that would wait for a connection much longer than any test."""
    with Server(server_kind, tmp_path / "data", CONNECT_TIMEOUT="100") as server:
        yield server


@ENDINGS
def test_while_the_proxy_connects(patient_proxy, deaf_port, reset):
    project = patient_proxy.create_project(base_url=f"http://127.0.0.1:{deaf_port}")
    token = patient_proxy.issue_token(project)
    client = HandClient(patient_proxy.url)
    client.send_request("GET", "/v1/models", token.bearer)
    wait_for(lambda: "llmproxy_requests_in_flight 1.0" in patient_proxy.metrics())
    client.close(reset=reset)

    assert assert_client_closed(patient_proxy, token)["upstream_status"] is None
