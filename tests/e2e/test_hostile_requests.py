"""Requests that servers could read differently, or that lead elsewhere: refused, and the upstream sees none."""

import socket
import subprocess
import sys
import textwrap

import pytest

from tests.http_by_hand import Broken, HandClient, call
from tests.servers import DEPLOYED, EMBEDDED, ROOT, Server, environment

BAD_TARGETS = [
    "/v1/../admin/projects",
    "/v1/..",
    "/v1/./models",
    "/v1/models/..",
    "/v1/%2e%2e/admin",
    "/v1/%2E%2E/admin",
    "/v1/.%2e/admin",
    "/v1/%2e/models",
    "/v1/%2e%2e%2fadmin",
    "/v1/a/..%2f..%2fadmin",
    "/v1/a%2f..%2f..",
    "/v1/..%5cadmin",
    "/v1/..\\admin",
    "/v1/a%5C..%5C..",
    "/v1//../x",
    "http://elsewhere.example/v1/models",
    "https://elsewhere.example/v1/models",
    "HTTP://elsewhere.example:80/v1/models",
    "http://user@{host}/v1/models",
    "http://{host}.elsewhere.example/v1/models",
]


def refuses(proxy: Server, data: bytes) -> int:
    """The status of the answer to these bytes, 0 where the connection just ends."""
    with HandClient(proxy.url) as client:
        client.send(data)
        try:
            return client.read_answer().status
        except Broken:
            return 0


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_a_target_that_leads_elsewhere_is_refused(proxy, upstream, token, target):
    with HandClient(proxy.url) as client:
        answer = client.call("GET", target.replace("{host}", client.host), token.bearer)

    assert answer.status == 400
    assert upstream.requests() == []


@pytest.mark.parametrize(
    "target", ["/v1/models#part", "*", "/v2/models", "//v1/models", "/%76%31/models", "/V1/models"]
)
def test_what_is_not_under_v1_never_goes_up(proxy, upstream, token, target):
    assert call(proxy.url, "OPTIONS" if target == "*" else "GET", target, token.bearer).status in (400, 404, 405)

    assert upstream.requests() == []


def test_a_refused_target_is_answered_in_openais_form_and_recorded(proxy, token):
    answer = call(proxy.url, "GET", "/v1/%2e%2e/admin", token.bearer)

    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", None)
    record = proxy.record_of(answer["x-request-id"])
    assert (record["status_code"], record["outcome"], record["endpoint"]) == (400, "refused", "/v1/%2e%2e/admin")


def test_an_absolute_target_for_this_host_is_forwarded_as_a_path(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        assert client.call("GET", f"http://{client.host}/v1/models?a=b", token.bearer).status == 200

    assert upstream.last_request()["target"] == "/v1/models?a=b"


def test_the_host_header_decides_nothing(proxy, upstream, token):
    head = f"GET /v1/models HTTP/1.1\r\nHost: elsewhere.example\r\nAuthorization: Bearer {token.secret}\r\n\r\n"

    assert refuses(proxy, head.encode()) == 200
    assert upstream.last_request()["target"] == "/v1/models"


FRAMINGS = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two lengths": "Content-Length: 4\r\nContent-Length: 5",
    "two lengths in one": "Content-Length: 4, 5",
    "a negative length": "Content-Length: -4",
    "a signed length": "Content-Length: +4",
    "a length that is none": "Content-Length: four",
    "a length in hex": "Content-Length: 0x4",
    "an unknown coding": "Transfer-Encoding: gzip",
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked, then another": "Transfer-Encoding: chunked, identity",
    "a tab before chunked": "Transfer-Encoding: \x0bchunked",
    "two hosts": "Host: a\r\nContent-Length: 4",
    "a space before the colon": "Content-Length : 4",
    "a folded line": "X-Folded: a\r\n b\r\nContent-Length: 4",
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_request_with_doubtful_framing_is_refused(proxy, upstream, token, framing):
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n{FRAMINGS[framing]}\r\n\r\n"

    # 501 is what RFC 9112 section 6.1 asks for where a transfer coding is not known.
    assert refuses(proxy, head.encode("latin-1") + b"4\r\nbody\r\n0\r\n\r\n") in (0, 400, 501)
    assert upstream.requests() == []


@pytest.mark.parametrize(
    "chunks", [b"x\r\nbody\r\n0\r\n\r\n", b"-4\r\nbody\r\n0\r\n\r\n", b"4\r\nbodyx\r\n0\r\n\r\n"]
)
def test_malformed_chunks_are_refused_and_never_complete_upstream(proxy, upstream, token, chunks):
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"

    assert refuses(proxy, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) in (0, 400)
    assert [request for request in upstream.requests() if request["body_complete"]] == []


@pytest.mark.parametrize(
    "line",
    [b"GET /v1/models", b"GET /v1/models HTTP/3.0", b"GET /v1/mo dels HTTP/1.1", b"\x16\x03\x01\x02\x00", b"GET"],
)
def test_a_broken_request_line_is_refused(proxy, upstream, token, line):
    head = line + f"\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n\r\n".encode()

    assert refuses(proxy, head) in (0, 400, 505)
    assert upstream.requests() == []


@pytest.mark.parametrize("header", ["SCRIPT_NAME: /v1", "PATH_INFO: /v1/other", "X_Forwarded_For: 192.0.2.1"])
def test_a_header_cannot_pose_as_part_of_the_environment(proxy, upstream, token, header):
    name, value = header.split(": ")
    assert call(proxy.url, "GET", "/v1/models", token.bearer, (name, value)).status == 200

    request = upstream.last_request()
    assert request["target"] == "/v1/models" and "192.0.2.1" not in str(request["headers"])


@pytest.mark.parametrize(
    "line", ["Authorization: Bearer {}", "GET /v1/models HTTP/1.1\r\nAuthorization : Bearer {}", "GET {} HTTP/9.9"]
)
def test_a_malformed_line_with_a_token_in_it_is_not_quoted_in_the_servers_log(proxy, token, line):
    assert refuses(proxy, line.format(token.secret).encode() + b"\r\n\r\n") in (0, 400, 505)

    assert "output" not in proxy.leaks()


def test_too_large_a_head_is_refused(proxy, upstream, token):
    headers = [(f"X-Header-{number}", "x" * 100) for number in range(2000)]
    with HandClient(proxy.url) as client:
        try:
            client.send_request("GET", "/v1/models", token.bearer, *headers)
            status = client.read_answer().status
        except (Broken, ConnectionError):
            status = 0

    assert status in (0, 400, 431)
    assert upstream.requests() == []


# --- slow heads ---

EMBEDDED_WITH_A_SHORT_DEADLINE = """
    import sys
    sys.path.insert(0, sys.argv.pop())
    import wsgi
    wsgi.HEAD_DEADLINE_S = 0.3
    wsgi.main()
"""


@pytest.fixture(scope="module", params=[EMBEDDED, DEPLOYED])
def hurried(request, tmp_path_factory):
    """The address of a server that gives a head a fraction of the usual time."""
    data_dir = tmp_path_factory.mktemp("hurried") / "data"
    if request.param == DEPLOYED:
        with Server(DEPLOYED, data_dir, arguments=("--keep-alive", "1")) as server:
            yield server.url
        return
    script = [sys.executable, "-c", textwrap.dedent(EMBEDDED_WITH_A_SHORT_DEADLINE), str(ROOT)]
    process = subprocess.Popen(script, env=environment(data_dir), stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[2].removesuffix("/v1")
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.mark.parametrize("sent", [b"", b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(hurried, sent):
    with HandClient(hurried) as client:
        client.send(sent)

        assert client.has_ended()


def test_a_head_that_trickles_in_is_cut_off_too(hurried):
    with HandClient(hurried) as client:
        client.sock.settimeout(0.05)
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n")

        for _ in range(100):
            try:
                client.send(b"X-Slow: 1\r\n")
                if not client.sock.recv(1, socket.MSG_PEEK):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("a head may take as long as it likes")
