"""A client or an upstream that never pauses keeps nobody of its worker waiting: it goes on, and they are answered."""

from contextlib import ExitStack

import pytest

from measure.suite import hostile
from tests.http_by_hand import call
from tests.security.attackers import REFUSED, answering_for_ever, attacking
from tests.servers import on_both_servers, wait_for
from tests.upstream import ScriptedUpstream

pytestmark = on_both_servers
OTHERS = 20
OK = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n\r\n"
JSON, EVENTS = b"application/json", b"text/event-stream"
RESPONSES = {
    "brackets": (JSON, b"[" * 65536),
    "log probabilities": (JSON, b'{"token":" a","logprob":-0.1,"bytes":[32,97],"top_logprobs":[]},' * 1024),
    "small events": (EVENTS, b"data: {}\n\n" * 6554),
    "events with usage": (EVENTS, b'data: {"usage":{"prompt_tokens":1}}\n\n' * 1800),
    "lines of one event": (EVENTS, b'data: {"usage":1}\n' + b":\n" * 32768),
    "empty lines": (EVENTS, b"\n" * 65536),
    "one event": (EVENTS, b"data: " + b"x" * 65536),
}
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def assert_others_are_answered(proxy):
    """Each waits for its answer, and nobody else does anything about the attack meanwhile."""
    assert {call(proxy.url, "GET", "/healthz").status for _ in range(OTHERS)} == {200}


@pytest.mark.parametrize(
    "request_bytes", [REFUSED, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["401", "healthz"]
)
def test_requests_one_behind_the_other(proxy, request_bytes):
    with attacking(proxy.url, b"", request_bytes * 500) as attacker:
        wait_for(lambda: attacker.sent > 1_000_000)
        assert_others_are_answered(proxy)
        assert not attacker.is_cut.is_set()


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;%b\r\nx\r\n" % (b"e" * 4000)], ids=["tiny", "with extensions"])
def test_an_upload_in_tiny_chunks(proxy, lonely_mock, token_for, chunk):
    bearer = token_for(lonely_mock.url).secret
    opening = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n"
    with attacking(proxy.url, f"{opening}Transfer-Encoding: chunked\r\n\r\n".encode(), chunk * 10_000) as attacker:
        lonely_mock.wait_for("receiving")
        wait_for(lambda: attacker.sent > 100_000)
        assert_others_are_answered(proxy)
        assert not attacker.is_cut.is_set()


@pytest.mark.parametrize("kind", RESPONSES)
def test_a_response_without_a_pause(proxy, token_for, kind):
    content_type, piece = RESPONSES[kind]
    with ScriptedUpstream(every=answering_for_ever(OK % content_type, piece)) as upstream:
        bearer = token_for(upstream.url).secret
        opening = f"GET /v1/responses/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n\r\n"
        with attacking(proxy.url, opening.encode()) as attacker:
            wait_for(lambda: len(attacker.received) > 60_000)
            assert_others_are_answered(proxy)
            assert not attacker.is_cut.is_set()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_websocket_of_small_frames(proxy, token_for, direction):
    up = b"\x81\x81\0\0\0\0x" * 8192 if direction == "up" else b""
    script = answering_for_ever(SWITCHED, b"\x81\x01x" * 8192) if direction == "down" else _switch_and_read
    with ScriptedUpstream(every=script) as upstream:
        bearer = token_for(upstream.url).secret.encode()
        with attacking(proxy.url, hostile._WEBSOCKET % (b"", bearer), up) as attacker:
            wait_for(lambda: b" 101 " in attacker.received and (attacker.sent > 1_000_000 or direction == "down"))
            assert_others_are_answered(proxy)
            assert not attacker.is_cut.is_set()


def _switch_and_read(peer):
    peer.read_head()
    peer.send(SWITCHED)
    try:
        while peer.socket.recv(1 << 20):
            pass
    except OSError:
        pass


def test_bodies_that_are_looked_into(proxy, lonely_mock):
    """A project that asks for usage has its streams' requests looked into. The last may outlive its client."""
    token = proxy.issue_token(proxy.create_project(base_url=lonely_mock.url, stream_usage="ask"))
    body = b'{"stream":true,"stream_options":{},%b"model":"gpt-4o"}' % (b'"a":1,' * 600_000)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
    with attacking(proxy.url, b"", f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as attacker:
        wait_for(lonely_mock.requests)
        assert_others_are_answered(proxy)
        assert not attacker.is_cut.is_set()


def test_bodies_that_one_token_with_rules_sends_at_once(proxy):
    """Each costs a reader as much as any may, and no turn of the loop has a part of all of them."""
    token = proxy.issue_token(rules={"models": ["gpt-4o"]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
    opening = f'{head}Content-Length: 4000000\r\n\r\n{{"a":[1'.encode()
    with ExitStack() as stack:
        attackers = [stack.enter_context(attacking(proxy.url, opening, b",[]" * 20_000)) for _ in range(20)]
        wait_for(lambda: all(attacker.sent for attacker in attackers))
        answered = 0
        while answered < OTHERS and not all(attacker.received for attacker in attackers):
            assert call(proxy.url, "GET", "/healthz").status == 200
            answered += 1
        assert answered >= OTHERS // 4  # all of them, unless the machine was elsewhere for most of the attack
        wait_for(lambda: all(attacker.received.startswith(b"HTTP/1.1 400") for attacker in attackers), timeout_s=60)
