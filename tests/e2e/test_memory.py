"""Bodies stream: however large they are and however slow their readers, the proxy's memory stays where it was."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection

from tests.http_by_hand import HandClient, call
from tests.servers import Server, Token, wait_for
from tests.websocket_upstream import WebSocketUpstream

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux")
MIB = 1024 * 1024
ALLOWED_MIB = 6


class Peak:
    """The most memory that the answering process held within a `with` block, above what it held before."""

    def __init__(self, server: Server) -> None:
        (self._pid,) = server.worker_pids()
        self.grown_mib = 0.0

    def __enter__(self) -> "Peak":
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._kib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.grown_mib = (self._kib("VmHWM") - self._before) / 1024

    def _kib(self, name: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def upload(client: HandClient, token, size: int, *, chunked: bool) -> int:
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(size))
    client.send_request("POST", "/v1/echo", token.bearer, framing)
    piece = b"x" * MIB
    for _ in range(size // MIB):
        client.send(b"100000\r\n%b\r\n" % piece if chunked else piece)
    client.send(b"0\r\n\r\n" if chunked else b"")
    return client.read_answer().json["body_length"]


def ask_for_file(client: HandClient, token, size: int):
    client.send_request("GET", "/v1/files/file-1/content", token.bearer, ("x-mock-size", str(size)))
    return client.read_head()


def read_away(client: HandClient, answer) -> int:
    """How long a body is, of which nothing is kept."""
    while client.read_chunk(answer):
        answer.chunks.clear()
    return answer.length


def until_it_stands(look) -> None:
    """Returns once a number has stood still for a while."""
    seen = []
    wait_for(lambda: seen.append(look()) or (len(seen) > 25 and len(set(seen[-25:])) == 1))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_upload_takes_no_memory(proxy, upstream, token, chunked):
    with HandClient(proxy.url) as client:
        upload(client, token, 4 * MIB, chunked=chunked)
        with Peak(proxy) as peak:
            assert upload(client, token, 128 * MIB, chunked=chunked) == 128 * MIB

    assert peak.grown_mib < ALLOWED_MIB


def test_a_large_download_takes_no_memory_even_when_nobody_reads(proxy, upstream, token):
    size = 256 * MIB
    with HandClient(proxy.url) as client:
        read_away(client, ask_for_file(client, token, 4 * MIB))
        with Peak(proxy) as peak:
            answer = ask_for_file(client, token, size)
            until_it_stands(lambda: upstream.last_request()["pieces_sent"])
            assert read_away(client, answer) == size

    assert peak.grown_mib < ALLOWED_MIB


def test_a_long_stream_takes_no_memory(proxy, upstream, token):
    body = b'{"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}}'
    with HandClient(proxy.url) as client, Peak(proxy) as peak:
        headers = (token.bearer, ("Content-Type", "application/json"), ("x-mock-events", "50000"))
        client.send_request("POST", "/v1/chat/completions", *headers, body=body)
        assert read_away(client, client.read_head()) > 5 * MIB

    assert proxy.wait_for_records(1, token)[0]["metadata"]["completion_tokens"] >= 50_000
    assert peak.grown_mib < ALLOWED_MIB


def websocket(proxy: Server, token: Token, **options) -> ClientConnection:
    url = proxy.url.replace("http", "ws") + "/v1/realtime"
    return connect(
        url, additional_headers=dict([token.bearer]), compression=None, proxy=None, max_size=None, **options
    )


def test_a_large_transfer_over_a_websocket_takes_no_memory(proxy):
    def talk(peer: ServerConnection) -> None:
        got = 0
        while got < 100 * MIB:
            got += len(peer.recv())
        for _ in range(100):
            peer.send(b"x" * MIB)

    with WebSocketUpstream(talk, max_size=None) as upstream:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url))
        with Peak(proxy) as peak, websocket(proxy, token) as client:
            for _ in range(100):
                client.send(b"x" * MIB)
            assert sum(len(client.recv()) for _ in range(100)) == 100 * MIB

    (record,) = proxy.wait_for_records(1, token)
    assert record["bytes_in"] > 100 * MIB and record["bytes_out"] > 100 * MIB
    assert peak.grown_mib < ALLOWED_MIB


def test_a_websocket_is_read_no_faster_than_its_other_side_reads(proxy):
    sent = []

    def pour(peer: ServerConnection) -> None:
        for _ in range(100):
            peer.send(b"x" * MIB)
            sent.append(1)

    with WebSocketUpstream(pour) as upstream:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url))
        with HandClient(proxy.url, receive_buffer=8192) as client, Peak(proxy) as peak:
            upgrade = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
            nonce = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            client.send_request("GET", "/v1/realtime", token.bearer, *upgrade, nonce)
            client.read_head()
            until_it_stands(lambda: len(sent))

            assert len(sent) < 30
    assert peak.grown_mib < ALLOWED_MIB


# Bodies that are read before they go up.


def said(size: int) -> bytes:
    """A chat of so many bytes, whose model stands last."""
    begin, end = b'{"messages":[{"role":"user","content":"', b'"}],"model":"gpt-4o-mini"}'
    return begin + b"x" * (size - len(begin) - len(end)) + end


OF_EMPTY_OBJECTS = b'{"messages":[' + b"{}," * (4 * MIB // 3) + b'{}],"model":"gpt-4o-mini"}'


@pytest.fixture
def ruled(proxy, token_for, recorder):
    """A token with a rule about models, before an upstream that keeps what comes."""
    recorder.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    token = token_for(recorder.url)
    rules = {"models": ["gpt-4o-mini"], "endpoints": ["chat", "files"]}
    assert proxy.manage("PATCH", f"/tokens/{token.id}", {"rules": rules})[0] == 200
    return token


@pytest.mark.parametrize(
    "body",
    [said(200_000), said(300_000), said(4 * MIB), said(40 * MIB), OF_EMPTY_OBJECTS],
    ids=["200 KB", "300 KB", "4 MiB", "40 MiB", "empty objects"],
)
def test_a_body_that_is_read_for_its_model_goes_up_as_it_came_and_takes_no_memory(proxy, recorder, ruled, body):
    kind = ("Content-Type", "application/json")
    assert call(proxy.url, "POST", "/v1/chat/completions", ruled.bearer, kind, body=said(300_000)).status == 200
    recorder.received()

    with Peak(proxy) as peak:
        answer = call(proxy.url, "POST", "/v1/chat/completions", ruled.bearer, kind, body=body)

    assert answer.status == 200
    assert sha256(recorder.received().body).digest() == sha256(body).digest()
    assert peak.grown_mib < ALLOWED_MIB
    assert list((proxy.data_dir / "tmp").iterdir()) == []


def test_a_file_streams_whatever_the_rules_say_of_models(proxy, recorder, ruled):
    file = b"x" * (100 * MIB)

    with Peak(proxy) as peak:
        answer = call(proxy.url, "POST", "/v1/files", ruled.bearer, body=file)

    assert answer.status == 200
    assert sha256(recorder.received().body).digest() == sha256(file).digest()
    assert peak.grown_mib < ALLOWED_MIB
