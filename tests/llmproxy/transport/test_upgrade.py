"""An upstream that switches protocols because it was asked to: its connection, and what it said at once."""

import gc
import io
import socket
from collections.abc import Iterator

import pytest

from llmproxy.client.request_body import RequestBody
from llmproxy.transport.adapter import UpstreamAdapter
from llmproxy.transport.connection import Timeouts, verifying_context
from llmproxy.transport.request import UpstreamRequest
from llmproxy.transport.response import WireResponse
from tests.upstream import Peer, ScriptedUpstream

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: 1\r\n\r\n"


@pytest.fixture
def adapter() -> Iterator[UpstreamAdapter]:
    made = UpstreamAdapter(Timeouts(60, 60, 60), verifying_context())
    yield made
    made.close()


def asked(adapter: UpstreamAdapter, upstream: ScriptedUpstream) -> WireResponse:
    """What comes on a request to switch."""
    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    body.hold_if_small()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    request = UpstreamRequest(
        "GET", upstream.origin, "/v1/realtime", headers, body, lambda connection: None, may_upgrade=True
    )
    answer: WireResponse = adapter.send(request).raw
    return answer


@pytest.mark.parametrize("early", [b"", b"\x81\x02hi"])
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_the_connection_is_handed_over_with_what_came_at_once(adapter, early, interim):
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(interim + SWITCHED + early)
        assert peer.read_exactly(5) == b"hello"
        peer.send(b"bye")

    with ScriptedUpstream(script) as upstream:
        answer = asked(adapter, upstream)
        assert (answer.status, answer.fields.get("x-a")) == (101, "1")
        sock, said = answer.take_over()
        answer.close()
        with sock:
            sock.sendall(b"hello")
            assert said + sock.recv(100) == early + b"bye"


def test_an_answer_that_is_forgotten_takes_nothing_of_the_new_protocol_along(adapter):
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(SWITCHED)
        assert peer.read_exactly(5) == b"hello"
        peer.send(b"bye")

    with ScriptedUpstream(script) as upstream:
        answer = asked(adapter, upstream)
        sock, _ = answer.take_over()
        with sock:
            sock.sendall(b"hello")
            sock.recv(3, socket.MSG_PEEK)
            del answer
            gc.collect()
            sock.settimeout(60)
            assert sock.recv(3) == b"bye"


def test_a_connection_that_nobody_takes_over_is_closed(adapter):
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(SWITCHED)
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as upstream:
        asked(adapter, upstream).close()


def test_an_upstream_that_says_no_is_read_as_usual(adapter):
    refusal = (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno"
    )

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(refusal)

    with ScriptedUpstream(script) as upstream:
        answer = asked(adapter, upstream)
        assert (answer.status, answer.read1(), answer.is_drained) == (426, b"no", True)
        answer.close()
