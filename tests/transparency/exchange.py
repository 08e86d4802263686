"""One exchange made directly and through the proxy, and what may differ by the page's rules."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.http_by_hand import Answer, HandClient
from tests.recorder import Pairs, Received, RecordingUpstream
from tests.servers import UPSTREAM_KEY
from tests.transparency.page import header_rules, removes

REQUEST_RULES = header_rules("Headers of a request")
ANSWER_RULES = header_rules("Headers of an answer")
# Whoever sends a message frames it. That the body is the same is compared.
FRAMING = {"content-length", "transfer-encoding", "connection"}


@dataclass
class Sent:
    """
    A request as a client sends it. In headers and head, `{host}` stands for whom it is sent to, `{key}` for the key.

    Attributes:
        wire: The body as it goes on the wire, where that is not the body.
    """

    method: str
    target: str
    headers: Pairs = field(default_factory=list)
    body: bytes | None = None
    version: str = "1.1"
    wire: bytes | None = None

    def bytes_for(self, host: str, key: str) -> bytes:
        """Head and body."""
        lines = [f"{self.method} {self.target} HTTP/{self.version}", "Host: {host}", "Authorization: Bearer {key}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body is not None and self.wire is None:
            lines.append(f"Content-Length: {len(self.body)}")
        head = "\r\n".join([*lines, "", ""]).replace("{host}", host).replace("{key}", key)
        return head.encode("latin-1") + (self.wire or self.body or b"")


@dataclass
class Exchange:
    """What arrived upstream, and what came back: interim answers, then the answer."""

    up: Received
    interim: list[Answer]
    down: Answer


Read = Callable[[HandClient, str], tuple[list[Answer], Answer]]


def read_whole(client: HandClient, method: str) -> tuple[list[Answer], Answer]:
    """The interim answers, and the answer with its body."""
    interim = []
    while (answer := client.read_head(method)).status < 200:
        interim.append(answer)
    return interim, client.read_rest(answer)


class Twice:
    """Makes exchanges directly and through a proxy, whose `token` is for a project of this upstream."""

    def __init__(self, recorder: RecordingUpstream, proxy_url: str, token: str) -> None:
        self.recorder = recorder
        self.proxy_url = proxy_url
        self.token = token

    def proxied(self, sent: Sent, read: Read = read_whole) -> Exchange:
        """The exchange through the proxy."""
        return self._make(self.proxy_url, self.token, sent, read)

    def direct(self, sent: Sent, read: Read = read_whole) -> Exchange:
        """The exchange without it."""
        return self._make(self.recorder.url, UPSTREAM_KEY, sent, read)

    def _make(self, url: str, key: str, sent: Sent, read: Read) -> Exchange:
        with HandClient(url) as client:
            client.send(sent.bytes_for(client.host, key))
            interim, down = read(client, sent.method)
        return Exchange(self.recorder.received(), interim, down)

    def same(self, sent: Sent) -> Exchange:
        """The proxied exchange, after it was compared with the direct one."""
        direct, proxied = self.direct(sent), self.proxied(sent)
        assert_same(proxied, direct)
        return proxied


def assert_same(proxied: Exchange, direct: Exchange) -> None:
    """Both ways are the same but for the page's rules."""
    assert_same_up(proxied.up, direct.up)
    assert_same_down(proxied.down, direct.down)


def assert_same_up(proxied: Received, direct: Received) -> None:
    """What arrived upstream is the same but for the page's rules."""
    assert proxied.line.rpartition(" ")[0] == direct.line.rpartition(" ")[0]
    assert proxied.line.endswith(" HTTP/1.1")
    assert proxied.body == direct.body
    assert (proxied.chunks is None) == (direct.chunks is None)
    expected = [pair for pair in direct.headers if not removes(REQUEST_RULES, pair[0])]
    if not direct.all("accept-encoding"):
        expected.append(("Accept-Encoding", "identity"))
    assert unframed(proxied.headers) == unframed(expected)
    assert proxied.all("content-length") == direct.all("content-length")


def assert_same_down(proxied: Answer, direct: Answer) -> None:
    """What came back is the same but for the page's rules."""
    assert (proxied.version, proxied.status, proxied.reason) == (direct.version, direct.status, direct.reason)
    expected = [pair for pair in direct.headers if not removes(ANSWER_RULES, pair[0])]
    own_id = [pair for pair in proxied.headers if pair[0] == "x-proxy-request-id"]
    assert len(own_id) == 1
    assert unframed(pair for pair in proxied.headers if pair not in own_id) == unframed(expected)
    assert proxied.all("content-length") == direct.all("content-length")
    assert proxied.body == direct.body


def unframed(headers) -> Pairs:
    """Headers without those that frame the message."""
    return [(name, value) for name, value in headers if name.lower() not in FRAMING]


def answer(
    *lines: str, body: bytes = b"", status: str = "200 OK", framing: str = "length", trailers: bytes = b""
) -> bytes:
    """An answer's bytes, with what OpenAI's edge always sends and a Content-Type where none is given."""
    head = [f"HTTP/1.1 {status}", "Date: Thu, 01 Jan 2026 00:00:00 GMT", "Server: cloudflare", "x-request-id: req_1"]
    head += lines
    if framing == "length":
        head.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        head.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x;n=1\r\n%b\r\n" % (len(part), part) for part in pieces(body)) + b"0\r\n%b\r\n" % trailers
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def pieces(body: bytes) -> list[bytes]:
    """A body in pieces of odd sizes."""
    sizes, found = (1, 7, 4093, 13, 65537), []
    while body:
        size = sizes[len(found) % len(sizes)]
        found.append(body[:size])
        body = body[size:]
    return found
