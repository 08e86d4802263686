"""Streams: every event leaves as it arrives, a slow reader slows the upstream, and a break is seen as one."""

import hashlib
import json
import threading
import uuid

import openai
import pytest
import trustme

from mock_openai.mock import MockOpenAI
from mock_openai.shapes import binary_pieces
from tests.http_by_hand import TIMEOUT_S, Broken, HandClient, call
from tests.servers import WAIT_S, Server, on_both_servers, wait_for
from tests.upstream import Peer, ScriptedUpstream

pytestmark = on_both_servers
STREAM = json.dumps(
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
).encode()
JSON = ("Content-Type", "application/json")
MIB = 1024 * 1024


def ask(client: HandClient, token, *controls: str, version: str = "1.1") -> None:
    headers = [("x-mock-" + control.partition(": ")[0], control.partition(": ")[2]) for control in controls]
    client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, *headers, body=STREAM, version=version)


@pytest.fixture
def gate() -> str:
    return str(uuid.uuid4())


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
@pytest.mark.parametrize("encoding", [(), ("encoding: gzip",)], ids=["plain", "gzip"])
def test_an_event_arrives_before_the_upstream_sends_the_next(proxy, upstream, token, gate, framing, encoding):
    with HandClient(proxy.url) as client:
        ask(client, token, f"gate: {gate}", f"framing: {framing}", "events: 3", *encoding)
        answer = client.read_head()
        received = 0
        while client.read_chunk(answer):  # a piece came: only now may the upstream send another
            received += 1
            upstream.release(gate)

    request = upstream.wait_for("answered")
    assert request["pieces_sent"] > 3
    assert received >= request["pieces_sent"]


def test_the_head_of_a_stream_arrives_before_its_first_event(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        ask(client, token, "hang-after: 0")

        assert client.read_head().status == 200


def test_openais_client_iterates_a_stream_as_it_comes(proxy, upstream, token, gate):
    with openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            extra_headers={"x-mock-gate": gate},
        )
        chunks = 0
        for _ in stream:
            chunks += 1
            upstream.release(gate)

    assert chunks == upstream.wait_for("answered")["pieces_sent"] - 1  # `data: [DONE]` is no chunk


def test_one_slow_stream_holds_nobody_else_up(proxy, upstream, token, gate):
    with HandClient(proxy.url) as waiting:
        ask(waiting, token, f"gate: {gate}")
        answer = waiting.read_head()
        waiting.read_chunk(answer)

        assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200


def ask_for_a_file(client: HandClient, token, framing: str, size: int) -> None:
    headers = (token.bearer, ("x-mock-size", str(size)), ("x-mock-framing", framing))
    client.send_request("GET", "/v1/files/file-1/content", *headers)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_client_that_does_not_read_stops_the_upstream_from_sending(proxy, upstream, token, framing):
    with HandClient(proxy.url, receive_buffer=64 * 1024) as client:
        ask_for_a_file(client, token, framing, 64 * MIB)
        client.read_chunk(client.read_head())
        sent = settled(lambda: upstream.last_request()["pieces_sent"] * 65536)

    # The kernel's buffers on the four sockets in between, which grow to a few MB each.
    assert sent < 24 * MIB
    upstream.wait_for("client_gone")
    assert proxy.wait_for_records(1, token)[0]["outcome"] == "client_closed"


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_client_that_reads_late_gets_all_of_it(proxy, upstream, token, framing):
    with HandClient(proxy.url, receive_buffer=64 * 1024) as client:
        ask_for_a_file(client, token, framing, 16 * MIB)
        answer = client.read_head()
        settled(lambda: upstream.last_request()["pieces_sent"])
        got = client.read_rest(answer).body

    assert hashlib.sha256(got).digest() == hashlib.sha256(b"".join(binary_pieces(16 * MIB))).digest()
    (record,) = proxy.wait_for_records(1, token)
    assert (record["outcome"], record["bytes_out"]) == ("complete", 16 * MIB)


def settled(look):
    """A number once it has stood still for a while."""
    seen = []

    def stands() -> bool:
        seen.append(look())
        return len(seen) > 25 and len(set(seen[-25:])) == 1

    wait_for(stands)
    return seen[-1]


def test_an_upstream_that_does_not_read_stops_the_client_from_sending(proxy, upstream, token, gate):
    sent = 0
    with HandClient(proxy.url) as client:
        headers = (token.bearer, ("x-mock-read-gate", gate), ("Content-Length", str(64 * MIB)))
        client.send_request("POST", "/v1/echo", *headers)
        upstream.wait_for("receiving")
        client.sock.settimeout(0.5)
        try:
            while sent < 64 * MIB:
                sent += client.sock.send(b"x" * 65536)
        except TimeoutError:
            pass
        assert sent < 24 * MIB

        client.sock.settimeout(TIMEOUT_S)
        upstream.release(gate)
        client.send(b"x" * (64 * MIB - sent))
        assert client.read_answer().json["body_length"] == 64 * MIB


# --- breaks ---


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_break_within_a_stream_reaches_the_client_as_a_break(proxy, upstream, token, framing, how):
    with HandClient(proxy.url) as client:
        ask(client, token, f"framing: {framing}", "cut-after: 3", f"cut-with: {how}")
        with pytest.raises(Broken) as broken:
            client.read_answer()

    assert b"data: " in broken.value.body
    (record,) = proxy.wait_for_records(1, token)
    assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("upstream_failed", 200, 200)
    assert record["bytes_out"] == len(broken.value.body)
    assert record["error"] == {"code": "upstream_unreachable", "type": "server_error"}


def test_a_break_of_a_body_that_only_the_end_of_the_connection_ends_is_seen_where_it_can_be(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        ask(client, token, "framing: close", "cut-after: 3", "cut-with: reset")
        with pytest.raises(Broken):
            client.read_answer()

    (record,) = proxy.wait_for_records(1, token)
    assert record["outcome"] == "upstream_failed"


def test_a_client_of_http_1_0_sees_a_break_too(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        ask(client, token, "framing: chunked", "cut-after: 3", version="1.0")
        with pytest.raises(Broken):
            client.read_answer()


def test_openais_client_raises_on_a_break(proxy, upstream, token):
    with openai.OpenAI(api_key=token.secret, base_url=f"{proxy.url}/v1", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            extra_headers={"x-mock-cut-after": "3"},
        )
        with pytest.raises(openai.APIConnectionError):
            list(stream)


def test_a_broken_json_answer_reaches_the_client_as_broken(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        client.send_request("GET", "/v1/models", token.bearer, ("x-mock-cut-after", "1"))
        with pytest.raises(Broken):
            client.read_answer()

    assert proxy.wait_for_records(1, token)[0]["outcome"] == "upstream_failed"


# --- time ---


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_stream_that_falls_silent_is_cut_off(impatient_proxy, upstream, framing):
    token = impatient_proxy.issue_token()
    with HandClient(impatient_proxy.url) as client:
        ask(client, token, f"framing: {framing}", "hang-after: 2")
        with pytest.raises(Broken) as broken:
            client.read_answer()

    assert b"data: " in broken.value.body
    upstream.wait_for("client_gone")
    (record,) = impatient_proxy.wait_for_records(1, token)
    assert (record["outcome"], record["status_code"]) == ("upstream_timeout", 200)
    assert record["duration_ms"] - record["ttft_ms"] > 1400


def test_an_upstream_that_never_answers_is_a_504(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()
    client = openai.OpenAI(api_key=token.secret, base_url=f"{impatient_proxy.url}/v1", max_retries=0)
    with client, pytest.raises(openai.InternalServerError) as error:
        client.models.list(extra_headers={"x-mock-hold": "1"})

    assert (error.value.status_code, error.value.code) == (504, "upstream_timeout")
    upstream.wait_for("client_gone", path="/v1/models")
    (record,) = impatient_proxy.wait_for_records(1, token)
    assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("upstream_timeout", 504, None)


def test_an_upstream_that_takes_no_connection_is_a_504(impatient_proxy, deaf_port):
    project = impatient_proxy.create_project(base_url=f"http://127.0.0.1:{deaf_port}")
    answer = call(impatient_proxy.url, "GET", "/v1/models", impatient_proxy.issue_token(project).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")


def test_a_stream_may_last_longer_than_any_timeout(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()
    with HandClient(impatient_proxy.url) as client:
        ask(client, token, "gap-ms: 100", "events: 22")
        answer = client.read_answer()

    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert impatient_proxy.wait_for_records(1, token)[0]["duration_ms"] > 2000


# --- TLS ---


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def tls_upstream(authority, tmp_path_factory):
    place = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(place / "cert.pem")
    certificate.private_key_pem.write_to_path(place / "key.pem")
    authority.cert_pem.write_to_path(place / "ca.pem")
    with MockOpenAI(cert=place / "cert.pem", key=place / "key.pem") as mock:
        mock.ca = place / "ca.pem"
        yield mock


def test_an_upstream_whose_certificate_nobody_signed_is_not_spoken_to(proxy, tls_upstream, token_for):
    tls_upstream.reset()
    answer = call(proxy.url, "GET", "/v1/models", token_for(tls_upstream.url).bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    assert tls_upstream.requests() == []


def test_a_certificate_authority_of_ones_own_is_trusted_by_ssl_cert_file(proxy, tls_upstream, tmp_path):
    with Server(
        proxy.kind, tmp_path / "data", UPSTREAM_URL=tls_upstream.url, SSL_CERT_FILE=str(tls_upstream.ca)
    ) as server:
        token = server.issue_token()
        with HandClient(server.url) as client:
            assert client.call("GET", "/v1/models", token.bearer).status == 200
            ask(client, token)
            assert client.read_answer().body.endswith(b"data: [DONE]\n\n")
        wrong_name = server.issue_token(
            server.create_project(base_url=tls_upstream.url.replace("127.0.0.1", "127.0.0.2"))
        )
        assert call(server.url, "GET", "/v1/models", wrong_name.bearer).status == 502


def test_many_streams_run_at_once(proxy, upstream, token, gate):
    clients = [HandClient(proxy.url) for _ in range(50)]
    try:
        for client in clients:
            ask(client, token, f"gate: {gate}", "events: 2")
        answers = [client.read_head() for client in clients]
        for client, answer in zip(clients, answers, strict=True):
            client.read_chunk(answer)
        upstream.release(gate, count=1000)
        readers = [
            threading.Thread(target=lambda c=client, a=answer: list(iter(lambda: c.read_chunk(a), b"")))
            for client, answer in zip(clients, answers, strict=True)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(WAIT_S)
    finally:
        for client in clients:
            client.close()

    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_piece_of_an_upload_goes_up_before_the_client_sends_the_next(proxy, framing):
    pieces = [bytes([ord("g") + number]) * 20_000 for number in range(10)]
    came = [threading.Event() for _ in pieces]
    header = ("Transfer-Encoding", "chunked") if framing == "chunked" else ("Content-Length", "200000")

    def script(peer: Peer) -> None:
        peer.read_head()
        end = b""
        for piece, has_come in zip(pieces, came, strict=True):
            left = len(piece)
            while left:
                left -= peer.socket.recv(65536).count(piece[:1])
            has_come.set()
        if framing == "chunked":
            while not end.endswith(b"0\r\n\r\n"):
                end += peer.read_exactly(1)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with ScriptedUpstream(script) as upstream, HandClient(proxy.url) as client:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url))
        client.send_request("POST", "/v1/audio/transcriptions", token.bearer, header)
        for piece, has_come in zip(pieces, came, strict=True):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            assert has_come.wait(WAIT_S)
        client.send(b"0\r\n\r\n" * (framing == "chunked"))

        assert client.read_answer().body == b"ok"
