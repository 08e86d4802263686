"""
Upstreams that fail, in every way and at every byte: the client gets the promised status or a visible cut, the record
says what happened, the connection is not used again, and the next call works.
"""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme

from tests.conftest import serve
from tests.http_by_hand import Answer, Broken, HandClient, call
from tests.ports import free_port
from tests.servers import DEPLOYED, UPSTREAM_KEY, WAIT_S, Server, Token
from tests.upstream import (
    Peer,
    Script,
    ScriptedUpstream,
    answering,
    keeping,
    server_context,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b'f\r\ndata: {"a": 1}\n\r\nd\r\n\ndata: [DONE]\r\n2\r\n\n\n\r\n0\r\n\r\n',
)
WHOLE = {"sized": b"hello", "chunked": b"hello", "stream": b'data: {"a": 1}\n\ndata: [DONE]\n\n'}
BODIES = {"sized": SIZED, "chunked": CHUNKED, "stream": STREAM}
UNREACHABLE = {"status_code": 502, "outcome": "upstream_failed", "upstream_status": None}
TIMED_OUT = {"status_code": 504, "outcome": "upstream_timeout", "upstream_status": None}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def proxy(running_upstream, authority, tmp_path_factory) -> Iterator[Server]:
    """Never tired of waiting. No key may be left in anything it writes."""
    trusted = tmp_path_factory.mktemp("trusted") / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    settings = {"CONNECT_TIMEOUT": "60", "SSL_CERT_FILE": str(trusted)}
    yield from serve(DEPLOYED, running_upstream, tmp_path_factory, **settings)


@pytest.fixture(scope="module")
def tired(running_upstream, tmp_path_factory) -> Iterator[Server]:
    """Soon tired of waiting for an answer."""
    settings = {"FIRST_BYTE_TIMEOUT": "1.5", "IDLE_TIMEOUT": "1.5"}
    yield from serve(DEPLOYED, running_upstream, tmp_path_factory, **settings)


def record_of(proxy: Server, answer: Answer) -> dict:
    return proxy.record_of(answer["x-proxy-request-id"])


def assert_refused(proxy: Server, answer: Answer, code: str, **expected) -> None:
    """An answer of the proxy itself, in OpenAI's form and without the key, and its record."""
    assert (answer.status, answer.json["error"]["code"]) == (expected["status_code"], code)
    assert answer.json["error"]["type"] == "server_error"
    assert UPSTREAM_KEY not in answer.body.decode()
    record = record_of(proxy, answer)
    assert {name: record[name] for name in expected} == expected
    assert record["error"] == {"code": code, "type": "server_error"}


# --- no connection ---


@pytest.mark.parametrize(
    "where", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}", "https://no-such-host.invalid"]
)
def test_an_upstream_that_cannot_be_connected_to(proxy, token_for, where):
    answer = call(proxy.url, "GET", "/v1/x", token_for(where.format(port=free_port())).bearer)

    assert_refused(proxy, answer, "upstream_unreachable", **UNREACHABLE)


@pytest.mark.parametrize("fault", ["unknown authority", "another name", "no TLS"])
def test_an_upstream_that_cannot_prove_who_it_is_gets_no_request(proxy, authority, token_for, fault):
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        seen.append(peer.read_to_end())

    signer = trustme.CA() if fault == "unknown authority" else authority
    name = "other.example" if fault == "another name" else "localhost"
    upstream = ScriptedUpstream(script, tls=None if fault == "no TLS" else server_context(signer, name))
    with contextlib.suppress(OSError), upstream:  # the other side breaks off the handshake
        answer = call(proxy.url, "GET", "/v1/x", token_for(f"https://localhost:{upstream.origin.port}").bearer)

    assert_refused(proxy, answer, "upstream_unreachable", **UNREACHABLE)
    assert not any(b"Bearer" in said for said in seen)


@pytest.mark.parametrize("phase", ["connect", "handshake"])
def test_a_client_that_leaves_while_the_connection_is_made_is_not_waited_for(proxy, token_for, phase):
    """The connection may take a minute here; the record comes when the client has left."""
    waiting = []
    with socket.create_server(("127.0.0.1", 0), backlog=0 if phase == "connect" else 10) as listener:
        port = listener.getsockname()[1]
        for _ in range(4 if phase == "connect" else 0):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(("127.0.0.1", port))
        token = token_for(f"https://127.0.0.1:{port}")
        with HandClient(proxy.url) as client:
            client.send_request("GET", "/v1/x", token.bearer)
            if phase == "handshake":
                accepted, _ = listener.accept()
                waiting.append(accepted)
        (record,) = proxy.wait_for_records(1, token)
        for sock in waiting:
            sock.close()

    assert (record["outcome"], record["status_code"]) == ("client_closed", 499)


# --- no answer ---


def sends(data: bytes, end: Callable[[Peer], None]) -> Script:
    """Reads a request, sends `data`, and ends in its way."""

    def script(peer: Peer) -> None:
        peer.read_request()
        try:
            peer.send(data)
            end(peer)
        except ConnectionError:
            pass  # the proxy had seen enough

    return script


def waits(peer: Peer) -> None:
    assert peer.is_closed_by_other_side()


def half_closes(peer: Peer) -> None:
    peer.finish_sending()
    waits(peer)


ENDS = {"fin": Peer.close, "reset": Peer.reset, "half-closed": half_closes}
NO_ANSWERS = {
    "no byte": b"",
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no empty line": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    "hints only": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
}
NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a bad status line": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + CHUNKED[0].partition(b"\r\n")[2] + CHUNKED[1],
    "a folded header": b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a header of 1 MB": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n",
    "headers of 1 MB": b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"a" * 10_000 + b"\r\n") * 100 + b"\r\n",
    "a name of 2 KB": b"HTTP/1.1 200 OK\r\n" + 2048 * b"x" + b": a\r\nContent-Length: 0\r\n\r\n",
    "headers of 70 KB, and a body": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: " + 70_000 * b"a" + b"\r\n\r\nok",
    "a status below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status of nothing": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "a control byte in the reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
    "a hint with one": b"HTTP/1.1 103 \x7f\r\n\r\n" + OK,
    "another transfer coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "another one below the chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED[1],
    "two transfer codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
    + CHUNKED[1],
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}


def assert_next_call_works(proxy: Server, upstream: ScriptedUpstream, token: Token) -> None:
    """On a connection of its own, because the last one is in doubt."""
    before = upstream.connections
    assert call(proxy.url, "POST", "/v1/x", token.bearer, body=b"x").body == b"ok"
    assert upstream.connections == before + 1


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("sent", NO_ANSWERS)
def test_an_upstream_that_ends_before_its_answers_head_does(proxy, token_for, sent, end):
    with ScriptedUpstream(sends(NO_ANSWERS[sent], ENDS[end]), answering(OK)) as upstream:
        token = token_for(upstream.url)
        answer = call(proxy.url, "POST", "/v1/x", token.bearer, body=b"x")
        assert_refused(proxy, answer, "upstream_unreachable", **UNREACHABLE)
        assert_next_call_works(proxy, upstream, token)


@pytest.mark.parametrize("sent", NOT_HTTP)
def test_an_answer_that_is_no_http(proxy, token_for, sent):
    with ScriptedUpstream(sends(NOT_HTTP[sent], waits), answering(OK)) as upstream:
        token = token_for(upstream.url)
        answer = call(proxy.url, "POST", "/v1/x", token.bearer, body=b"x")
        assert_refused(proxy, answer, "upstream_unreachable", **UNREACHABLE)
        assert_next_call_works(proxy, upstream, token)


def drips(peer: Peer) -> None:
    for _ in range(1200):
        peer.send(b"a")
        time.sleep(0.05)
    raise AssertionError("the proxy waited for ever")


@pytest.mark.parametrize(("sent", "end"), [(b"", waits), (OK[:20], waits), (b"HTTP/1.1 200 OK\r\nX-A: ", drips)])
def test_an_answer_whose_head_does_not_come_in_time(tired, sent, end):
    with ScriptedUpstream(sends(sent, end), answering(OK)) as upstream:
        token = tired.issue_token(tired.create_project(base_url=upstream.url))
        answer = call(tired.url, "POST", "/v1/x", token.bearer, body=b"x")
        assert_refused(tired, answer, "upstream_timeout", **TIMED_OUT)
        assert_next_call_works(tired, upstream, token)


# --- half an answer ---


def assert_cut(proxy: Server, token: Token, whole: bytes, **expected) -> None:
    """A call whose answer breaks off visibly, after a part of `whole`."""
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/x", token.bearer, body=b"x")
        answer = client.read_head("POST")
        with pytest.raises(Broken):
            client.read_rest(answer)
    assert answer.status == 200 and whole.startswith(answer.body)
    record = record_of(proxy, answer)
    assert (record["status_code"], record["upstream_status"]) == (200, 200)
    assert {name: record[name] for name in expected} == expected


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("framing", BODIES)
def test_an_answer_cut_at_each_byte_of_its_body(proxy, token_for, framing, end):
    head, body = BODIES[framing]
    cuts = [sends(head + body[:at], ENDS[end]) for at in range(len(body))]
    error = {"code": "upstream_unreachable", "type": "server_error"}
    with ScriptedUpstream(*cuts, answering(OK)) as upstream:
        token = token_for(upstream.url)
        for _ in cuts:
            assert_cut(proxy, token, WHOLE[framing], outcome="upstream_failed", error=error)
        assert_next_call_works(proxy, upstream, token)


BAD_CHUNKS = {
    "chunk too long": b"xx0\r\n\r\n",
    "no size": b"\r\nxyz\r\n\r\n",
    "negative size": b"\r\n-5\r\nhello\r\n0\r\n\r\n",
    "bad trailer": b"\r\n0\r\nX\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD_CHUNKS)
def test_a_bad_chunk_is_a_cut(proxy, token_for, bad):
    has_begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(CHUNKED[0] + b"5\r\nhello")
        assert has_begun.wait(WAIT_S)
        peer.send(BAD_CHUNKS[bad])
        waits(peer)

    with ScriptedUpstream(script, answering(OK)) as upstream, HandClient(proxy.url) as client:
        token = token_for(upstream.url)
        client.send_request("POST", "/v1/x", token.bearer, body=b"x")
        answer = client.read_head("POST")
        assert client.read_chunk(answer) == b"hello"
        has_begun.set()
        with pytest.raises(Broken):
            client.read_rest(answer)
        assert record_of(proxy, answer)["outcome"] == "upstream_failed"
        assert_next_call_works(proxy, upstream, token)


@pytest.mark.parametrize("framing", BODIES)
def test_an_answer_that_falls_silent_is_a_cut(tired, framing):
    head, body = BODIES[framing]
    error = {"code": "upstream_timeout", "type": "server_error"}
    with ScriptedUpstream(sends(head + body[:4], waits), answering(OK)) as upstream:
        token = tired.issue_token(tired.create_project(base_url=upstream.url))
        assert_cut(tired, token, WHOLE[framing], outcome="upstream_timeout", error=error)
        assert_next_call_works(tired, upstream, token)


# --- more than an answer ---


@pytest.mark.parametrize("answer", [OK + b"more", OK + OK, b"".join(CHUNKED) + b"more"])
def test_what_an_upstream_sends_beyond_its_answer_reaches_nobody(proxy, token_for, answer):
    with ScriptedUpstream(sends(answer, waits), answering(OK)) as upstream:
        token = token_for(upstream.url)
        with HandClient(proxy.url) as client:
            first = client.call("POST", "/v1/x", token.bearer, body=b"x")
            assert first.body in (b"ok", b"hello")
            assert client.call("POST", "/v1/x", token.bearer, body=b"x").body == b"ok"
        assert upstream.connections == 2
        assert record_of(proxy, first)["outcome"] == "complete"


def test_gzip_that_breaks_off_passes_as_it_is(proxy, token_for):
    packed = gzip.compress(json.dumps({"id": "x", "usage": {"total_tokens": 3}}).encode())[:-12]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    )
    with ScriptedUpstream(answering(head % len(packed) + packed)) as upstream:
        token = token_for(upstream.url)
        answer = call(proxy.url, "POST", "/v1/chat/completions", token.bearer, body=b"{}")

    assert answer.body == packed
    record = record_of(proxy, answer)
    assert (record["outcome"], record["metadata"], record["usage_source"]) == ("complete", None, "absent")


# --- answers that are none of ours to change ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_passed_and_the_key_is_not_sent_there(proxy, recorder, token_for, status):
    location = f"{recorder.url}/v1/x"
    redirect = f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
    with ScriptedUpstream(answering(redirect)) as upstream:
        answer = call(proxy.url, "POST", "/v1/x", token_for(upstream.url).bearer, body=b"x")

    assert (answer.status, answer["location"]) == (status, location)
    assert not recorder.has_received()


def test_a_401_for_our_key_is_a_502_that_nobody_should_retry(proxy, token_for):
    body = b'{"error": {"message": "Incorrect API key provided: %b"}}' % UPSTREAM_KEY.encode()
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with ScriptedUpstream(keeping(refusal), answering(OK)) as upstream:
        token = token_for(upstream.url)
        answer = call(proxy.url, "POST", "/v1/x", token.bearer, body=b"x")
        assert answer["x-should-retry"] == "false"
        assert_refused(proxy, answer, "upstream_auth_failed", **UNREACHABLE | {"upstream_status": 401})
        assert_next_call_works(proxy, upstream, token)


@pytest.mark.parametrize("retry_after", [None, "7", "Wed, 21 Oct 2026 07:28:00 GMT"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_of_the_upstreams_own_is_passed_as_it_is(proxy, token_for, status, retry_after):
    header = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    sent = f"HTTP/1.1 {status} No\r\n{header}Content-Length: 13\r\n\r\n".encode() + b'{"error": {}}'
    with ScriptedUpstream(answering(sent)) as upstream:
        answer = call(proxy.url, "POST", "/v1/x", token_for(upstream.url).bearer, body=b"x")

    assert (answer.status, answer.reason, answer.body) == (status, "No", b'{"error": {}}')
    assert answer.all("retry-after") == ([retry_after] if retry_after else [])
    record = record_of(proxy, answer)
    assert (record["status_code"], record["upstream_status"], record["outcome"]) == (status, status, "complete")
