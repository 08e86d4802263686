"""The Session made for proxying: what requests would add, keep or follow, it does not."""

import errno
import io
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from requests.exceptions import ChunkedEncodingError, ConnectTimeout, ReadTimeout, RequestException, SSLError
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ProxyError as RefusedByProxy

from llmproxy.client.request_body import RequestBody
from llmproxy.errors import ClientGone, ProxyError, UpstreamTimeout, UpstreamUnreachable
from llmproxy.headers import Origin
from llmproxy.transport.connection import Connection, Timeouts
from llmproxy.transport.request import UpstreamRequest
from llmproxy.upstream import Upstream, translate
from tests.upstream import Peer, ScriptedUpstream, keeping

ORIGIN = Origin("https", "api.test", 443, "api.test", "/v1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream(Timeouts(connect_s=10, first_byte_s=10, idle_s=10))
    yield made
    made.close()


def exchange(upstream: Upstream, origin: Origin, **headers: str) -> tuple[int, bytes]:
    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    body.hold_if_small()
    pairs = [("Host", "x"), *headers.items()]
    response = upstream.open(UpstreamRequest("GET", origin, "/v1/models", pairs, body, on_connection=lambda _: None))
    data = b"".join(iter(response.raw.read1, b""))
    response.raw.close()
    return response.status_code, data


def test_nothing_is_added_to_a_request_and_no_cookie_is_kept(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .netrc would replace the key, proxies of the environment would see it."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login planted password planted\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    asked: list[bytes] = []
    with_cookie = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: planted=1; Path=/\r\n\r\n")

    def script(peer: Peer) -> None:
        for _ in range(2):
            asked.append(peer.read_request())
            peer.send(with_cookie)
        assert peer.is_closed_by_other_side()

    with ScriptedUpstream(script) as server:
        for _ in range(2):
            assert exchange(upstream, server.origin, Authorization="Bearer key") == (200, b"ok")
        upstream.close()

    assert asked == [b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\n\r\n"] * 2


@pytest.mark.parametrize("location", [b"http://127.0.0.1:1/v1/models", b"/v1/other", b"//", b"http://["])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_and_is_never_followed(status: int, location: bytes, upstream: Upstream) -> None:
    answer = b"HTTP/1.1 %d X\r\nLocation: %b\r\nContent-Length: 2\r\n\r\nok" % (status, location)
    with ScriptedUpstream(keeping(answer)) as server:
        assert exchange(upstream, server.origin) == (status, b"ok")
        upstream.close()


def test_a_prefix_of_the_base_url_stands_before_the_target(upstream: Upstream) -> None:
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        asked.append(peer.read_request())
        peer.send(OK)

    with ScriptedUpstream(script) as server:
        origin = Origin("http", "127.0.0.1", server.origin.port, "x", "/openai/v1")
        exchange(upstream, origin)

    assert asked[0].startswith(b"GET /openai/v1/models HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (ConnectTimeout(), UpstreamTimeout), (ReadTimeout(), UpstreamTimeout), (SSLError(), UpstreamUnreachable),
        (RequestsConnectionError(), UpstreamUnreachable), (ChunkedEncodingError(), UpstreamUnreachable),
        (RequestException(), UpstreamUnreachable),
    ],
)  # fmt: skip
def test_an_error_of_the_library_becomes_ours(error: RequestException, ours: type[ProxyError]) -> None:
    assert type(translate(error, ORIGIN)) is ours


def raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (raised(RequestsConnectionError(), socket.gaierror(-2, "Name or service not known")), "dns"),
        (raised(RequestsConnectionError(), ConnectionRefusedError()), "refused"),
        (raised(RequestsConnectionError(), OSError(errno.EHOSTUNREACH, "No route to host")), "network"),
        (raised(RequestsConnectionError(), ssl.SSLCertVerificationError()), "tls"),
        (raised(RequestsConnectionError(), ConnectionResetError()), "hung_up"),
        (RefusedByProxy(), "egress"), (ReadTimeout(), "timeout"), (RequestsConnectionError(), "other"),
    ],
)  # fmt: skip
def test_the_cause_is_that_of_the_error_below_the_librarys(error: RequestException, cause: str) -> None:
    ours = translate(error, ORIGIN)

    assert (ours.cause, ours.upstream) == (cause, "https://api.test")


def test_an_upstream_that_fails_is_named_to_the_operator_and_nothing_else_is(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def dies(peer: Peer) -> None:
        peer.read_request()

    with ScriptedUpstream(dies) as server, pytest.raises(UpstreamUnreachable) as caught:
        exchange(upstream, server.origin, Authorization="Bearer planted-key")

    assert server.origin.host in caught.value.detail and server.origin.host not in caught.value.message
    assert "planted-key" not in caught.value.detail + caplog.text


def test_a_client_that_is_gone_is_no_failure_of_the_upstream(upstream: Upstream) -> None:
    def refuse(_: Connection) -> None:
        raise ClientGone

    body = RequestBody(io.BytesIO(), length=0, max_bytes=0)
    body.hold_if_small()
    with ScriptedUpstream() as server, pytest.raises(ClientGone):
        upstream.open(UpstreamRequest("GET", server.origin, "/v1/x", [], body, on_connection=refuse))
