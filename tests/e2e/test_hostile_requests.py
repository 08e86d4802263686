"""Requests that servers could read differently, or that lead elsewhere: refused, and the upstream sees none."""

import contextlib
import socket
import subprocess
import sys
import textwrap
from urllib.parse import urlsplit

import pytest

from tests.conftest import serve
from tests.http_by_hand import TIMEOUT_S, Broken, HandClient, call
from tests.servers import DEPLOYED, ROOT, WAIT_S, Server, environment, on_both_servers

pytestmark = on_both_servers
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
    "/v1/mod\x01els",
    "/v1/mod\x7fels",
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
    "target",
    ["/v1/models#part", "*", "/v2/models", "//v1/models", "/%76%31/models", "/V1/models", "/v1%2f../manage/tokens",
     "/v1%2fmodels", "/v1/../manage/tokens", "/v1\x00/models", "/v1/mod\x00els", "v1/models", "///", "/v1"],
)  # fmt: skip
def test_what_is_not_under_v1_never_goes_up(proxy, upstream, token, target):
    with HandClient(proxy.url) as client:
        client.send_request("OPTIONS" if target == "*" else "GET", target, token.bearer)
        try:
            status = client.read_answer().status
        except Broken:
            status = 0

    assert status in (0, 400, 404, 405)

    assert upstream.requests() == []


def test_a_refused_target_is_answered_in_openais_form_and_recorded(proxy, token):
    answer = call(proxy.url, "GET", "/v1/%2e%2e/admin", token.bearer)

    error = answer.json["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", None)
    proxy.wait_for_refusals()
    assert proxy.count_calls(outcome="refused", status_code=400) >= 1


def test_an_absolute_target_for_this_host_is_forwarded_as_a_path(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        assert client.call("GET", f"http://{client.host}/v1/models?a=b", token.bearer).status == 200

    assert upstream.last_request()["target"] == "/v1/models?a=b"


def test_the_host_header_decides_nothing(proxy, upstream, token):
    head = f"GET /v1/models HTTP/1.1\r\nHost: elsewhere.example\r\nAuthorization: Bearer {token.secret}\r\n\r\n"

    assert refuses(proxy, head.encode()) == 200
    assert upstream.last_request()["target"] == "/v1/models"


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@elsewhere.example", "a,b", "[::1", "a:b:c", "\x01"])
def test_a_host_that_is_none_leads_nowhere_else(proxy, upstream, token, host):
    head = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token.secret}\r\n\r\n"

    # Routing never looks at it; what goes up is the upstream's own.
    if refuses(proxy, head.encode("latin-1")) == 200:
        assert dict(upstream.last_request()["headers"])["Host"] == upstream.url.removeprefix("http://")
    else:
        assert upstream.requests() == []


def test_a_request_of_http_1_1_without_a_host_is_refused(proxy, upstream, token):
    assert refuses(proxy, f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {token.secret}\r\n\r\n".encode()) == 400
    assert upstream.requests() == []


@pytest.mark.parametrize("target", ["/v1/models", "elsewhere.example:443", "127.0.0.1:22"])
def test_nobody_gets_a_tunnel(proxy, upstream, token, target):
    head = f"CONNECT {target} HTTP/1.1\r\nHost: elsewhere.example\r\nAuthorization: Bearer {token.secret}\r\n\r\n"

    assert refuses(proxy, head.encode()) in (0, 400, 404, 405)
    assert upstream.requests() == []


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "DEBUG"])
def test_a_method_is_refused_whose_answer_would_show_the_projects_key(proxy, upstream, token, method):
    answer = call(proxy.url, method, "/v1/models", token.bearer)

    assert (answer.status, answer.json["error"]["type"]) == (405, "invalid_request_error")
    assert method not in answer["allow"]
    assert upstream.requests() == []


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
    "a NUL in a value": "X-A: b\x00c\r\nContent-Length: 4",
    "a NUL in a name": "X\x00A: b\r\nContent-Length: 4",
    "a line without a colon": "X-A\r\nContent-Length: 4",
    "a name that is empty": ": b\r\nContent-Length: 4",
    "a name with a space in it": "X A: b\r\nContent-Length: 4",
    "a length with a space in it": "Content-Length: 4 4",
    "an empty length": "Content-Length:",
    "an endless length": "Content-Length: " + 4000 * "9",
    "a coding in a header like it": "Transfer-Encoding : chunked",
    "a coding with a quote": 'Transfer-Encoding: "chunked"',
    "chunked and more": "Transfer-Encoding: chunked;q=1",
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_request_with_doubtful_framing_is_refused(proxy, upstream, token, framing):
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n{FRAMINGS[framing]}\r\n\r\n"

    # 501 is what RFC 9112 section 6.1 asks for where a transfer coding is not known.
    assert refuses(proxy, head.encode("latin-1") + b"4\r\nbody\r\n0\r\n\r\n") in (0, 400, 501)
    assert upstream.requests() == []


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\nbody\r\n0\r\n\r\n",
        b"-4\r\nbody\r\n0\r\n\r\n",
        b"+4\r\nbody\r\n0\r\n\r\n",
        b"0x4\r\nbody\r\n0\r\n\r\n",
        b"4_0\r\nbody\r\n0\r\n\r\n",
        b" 4\r\nbody\r\n0\r\n\r\n",
        b"\r\nbody\r\n0\r\n\r\n",
        b"4\nbody\n0\n\n",
        b"4\r\nbodyx\r\n0\r\n\r\n",
        b"4\r\nbody0\r\n\r\n",
        b"4\r\nbody\r\n0\r\nX : a\r\n\r\n",
        b"f" * 40 + b"\r\nbody\r\n0\r\n\r\n",
        b"4;" + b"x" * 100_000 + b"\r\nbody\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunks_are_refused_and_never_complete_upstream(proxy, upstream, token, chunks):
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"

    with HandClient(proxy.url) as client:
        client.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        client.finish_sending()  # some of these promise more
        try:
            status = client.read_answer().status
        except Broken:
            status = 0

    assert status in (0, 400, 499)
    assert [request for request in upstream.requests() if request["body_complete"]] == []


# What many a parser reads leniently, python's own among them.
LENIENTLY_READ = {
    "a bare line feed": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: b\nX-B: c\r\n",
    "line feeds alone": b"GET /v1/models HTTP/1.1\nHost: x\n",
    "a bare carriage return": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: b\rX-B: c\r\n",
    "a vertical tab in the request line": b"GET /v1/models?a=\x0b HTTP/1.1\r\nHost: x\r\n",
    "tabs between the parts": b"GET\t/v1/models\tHTTP/1.1\r\nHost: x\r\n",
    "a method that is none": b"G(T /v1/models HTTP/1.1\r\nHost: x\r\n",
    "a line feed in a chunk extension": (
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%b\r\n4;a\nb\r\nbody\r\n0\r\n"
    ),
}


@pytest.mark.parametrize("request_", LENIENTLY_READ)
def test_nothing_is_read_leniently(proxy, upstream, token, request_):
    data = LENIENTLY_READ[request_]
    bearer = f"Authorization: Bearer {token.secret}\r\n".encode()

    with HandClient(proxy.url) as client:
        client.send((data % bearer if b"%b" in data else data + bearer) + b"\r\n")
        client.finish_sending()
        try:
            status = client.read_answer().status
        except Broken:
            status = 0

    assert status in (0, 400, 499)
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


def test_a_hundred_thousand_headers_are_refused_and_the_next_client_is_served(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        try:
            client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n")
            status = client.read_answer().status
        except (Broken, ConnectionError):
            status = 0

    assert status in (0, 400, 431)
    assert upstream.requests() == []
    assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200


def test_an_endless_chunked_body_is_cut_off_at_the_limit(impatient_proxy, upstream):
    token = impatient_proxy.issue_token()
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
    with HandClient(impatient_proxy.url) as client:
        client.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    (record,) = impatient_proxy.wait_for_records(1, token)
    assert (record["status_code"], record["error"]["code"]) == (413, "request_too_large")
    assert record["bytes_in"] < 1_200_000
    assert [request for request in upstream.requests() if request["body_complete"]] == []


@pytest.mark.parametrize("framing", ["Content-Length: 50000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_in_ends_with_408(hasty_proxy, upstream, framing):
    token = hasty_proxy.issue_token()
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n{framing}\r\n\r\n"
    with HandClient(hasty_proxy.url) as client:
        client.send(head.encode())
        # Never silent for as long as the idle time, and never fast enough.
        client.sock.settimeout(0.2)
        while True:
            client.send(b"1\r\nx\r\n" if "chunked" in framing else b"x")
            with contextlib.suppress(TimeoutError):
                client.sock.recv(1, socket.MSG_PEEK)
                break
        client.sock.settimeout(TIMEOUT_S)
        answer = client.read_answer()

    assert (answer.status, answer.json["error"]["code"]) == (408, "request_timeout")
    record = hasty_proxy.record_of(answer["x-request-id"])
    assert (record["status_code"], record["outcome"]) == (408, "refused")
    assert [request for request in upstream.requests() if request["body_complete"]] == []


@pytest.fixture(scope="module")
def hasty_proxy(server_kind, running_upstream, tmp_path_factory):
    """A proxy that lets a body lag behind 100 KB/s by a second."""
    settings = {"MIN_BODY_RATE": "100000", "IDLE_TIMEOUT": "1"}
    yield from serve(server_kind, running_upstream, tmp_path_factory, **settings)


@pytest.mark.servers(DEPLOYED)
def test_five_thousand_idle_connections_keep_nobody_out(proxy, upstream, token):
    address = urlsplit(proxy.url)
    with contextlib.ExitStack() as idle:
        for _ in range(5000):
            idle.enter_context(socket.create_connection((address.hostname, address.port)))

        assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200


# --- slow heads ---

EMBEDDED_WITH_A_SHORT_DEADLINE = """
    import sys
    sys.path.insert(0, sys.argv.pop())
    import wsgi
    from server.pywsgi import handler
    handler.HEAD_DEADLINE_S = 1
    wsgi.main()
"""


@pytest.fixture(scope="module")
def hurried(server_kind, tmp_path_factory):
    """The address of a server that gives a head a fraction of the usual time."""
    data_dir = tmp_path_factory.mktemp("hurried") / "data"
    if server_kind == DEPLOYED:
        with Server(DEPLOYED, data_dir, arguments=("--keep-alive", "1")) as server:
            yield server.url
            assert "Traceback" not in server.output()
        return
    script = [sys.executable, "-c", textwrap.dedent(EMBEDDED_WITH_A_SHORT_DEADLINE), str(ROOT)]
    process = subprocess.Popen(script, env=environment(data_dir), stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[2].removesuffix("/v1")
    finally:
        process.terminate()
        process.wait(WAIT_S)
        process.stdout.close()


@pytest.mark.parametrize("sent", [b"", b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(hurried, sent):
    with HandClient(hurried) as client:
        client.send(sent)

        assert client.has_ended()


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"\r\n"]
)
def test_a_client_that_stays_after_its_answer_is_not_waited_for(hurried, rest):
    with HandClient(hurried) as client:
        client.send(b"POST /v1/models HTTP/1.1\r\nHost: x\r\n" + rest)

        assert client.read_answer().status == 401
        assert client.has_ended()


def test_the_body_of_a_refused_request_may_not_trickle_in_for_ever(hurried):
    with HandClient(hurried) as client:
        client.send(b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert client.read_answer().status == 401

        assert_is_cut_off(client, b"x")


def test_a_head_that_trickles_in_is_cut_off_too(hurried):
    with HandClient(hurried) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n")

        assert_is_cut_off(client, b"X-Slow: 1\r\n")


def assert_is_cut_off(client, drop):
    """The server ends the connection while the client goes on sending drops."""
    client.sock.settimeout(0.05)
    for _ in range(1000):
        try:
            client.send(drop)
            if not client.sock.recv(1, socket.MSG_PEEK):
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    pytest.fail("it may take as long as it likes")
