"""Large bodies of tokens with rules: as they came, in flat memory; files stream."""

import hashlib
import json
import sys

import pytest

from tests.e2e.test_memory import ALLOWED_MIB, MIB, Peak
from tests.http_by_hand import HandClient
from tests.servers import wait_for
from tests.upstream import Peer, ScriptedUpstream

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux")
RULES = {"models": ["gpt-4o-mini"], "endpoints": ["chat", "files"], "limits": {"max_output_tokens": 100, "tools": []}}
FILE_MIB = 96
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class HashingUpstream(ScriptedUpstream):
    """Keeps of each body how much of it has come, and at its end its SHA-256 alone."""

    def __init__(self) -> None:
        super().__init__(every=self._serve)
        self.arrived = 0
        self.digests: list[str] = []

    def _serve(self, peer: Peer) -> None:
        while first := peer.socket.recv(1):
            head = first + peer.read_head()
            left = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            digest, self.arrived = hashlib.sha256(), 0
            while left:
                piece = peer.socket.recv(min(left, MIB))
                assert piece, "the connection ended early"
                digest.update(piece)
                left -= len(piece)
                self.arrived += len(piece)
            self.digests.append(digest.hexdigest())
            peer.send(OK)


@pytest.fixture
def hashing():
    with HashingUpstream() as upstream:
        yield upstream


@pytest.fixture
def token(token_for, proxy, hashing):
    token = token_for(hashing.url)
    assert proxy.manage("PATCH", f"/tokens/{token.id}", {"rules": RULES})[0] == 200
    return token


def saying(size: int, content: str = "") -> bytes:
    """A chat request of about so many bytes whose model stands behind all else."""
    content = content or json.dumps("ü" + "x" * size)
    return b'{"messages":[{"role":"user","content":%s}],"model":"gpt-4o-mini"}' % content.encode()


BODIES = {
    "200 KB": lambda: saying(200_000),
    "300 KB": lambda: saying(300_000),
    "4 MB": lambda: saying(4 * MIB),
    "40 MB": lambda: saying(40 * MIB),
    "4 MB of {},": lambda: saying(0, "[" + "{}," * (4 * MIB // 3) + "{}]"),
}


@pytest.mark.parametrize("size", BODIES)
def test_a_body_goes_up_as_it_came_and_takes_no_memory(proxy, token, hashing, size):
    body = BODIES[size]()
    with HandClient(proxy.url) as client:
        client.call("POST", "/v1/chat/completions", token.bearer, body=BODIES["300 KB"]())
        with Peak(proxy) as peak:
            answer = client.call("POST", "/v1/chat/completions", token.bearer, body=body)

    assert answer.status == 200, answer.body
    assert hashing.digests[-1] == hashlib.sha256(body).hexdigest()
    assert peak.grown_mib < ALLOWED_MIB


def test_a_file_streams_and_takes_no_memory(proxy, token, hashing):
    pieces = [bytes([number]) * MIB for number in range(FILE_MIB)]
    with HandClient(proxy.url) as client, Peak(proxy) as peak:
        client.send_request("POST", "/v1/files", token.bearer, ("Content-Length", str(FILE_MIB * MIB)))
        for piece in pieces[:-1]:
            client.send(piece)
        # All but the last piece is there while that has not been sent.
        wait_for(lambda: hashing.arrived == (FILE_MIB - 1) * MIB, otherwise=lambda: hashing.arrived)
        client.send(pieces[-1])
        answer = client.read_answer()

    assert answer.status == 200
    assert hashing.digests == [hashlib.sha256(b"".join(pieces)).hexdigest()]
    assert peak.grown_mib < ALLOWED_MIB
