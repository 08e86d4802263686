"""What a caller sends beside HTTP, or at its edges: one request is never read as two, and every refusal is told."""

import pytest

from tests.http_by_hand import HandClient
from tests.servers import MANAGEMENT_TOKEN, UPSTREAM_KEY, on_both_servers

pytestmark = on_both_servers

BROKEN_CHUNKS = {
    "a size that is none": b"g",
    "a size that is none, after a chunk": b"2\r\n{}\r\ng",
    "more than the size says": b"2\r\n{}x\r\n",
    "a line feed alone": b"2\n{}\n",
    "an extension with a carriage return": b"2;a\rb\r\n{}\r\n",
    "a trailer that is none": b"0\r\n\x01: b\r\n\r\n",
    "a trailer that frames": b"0\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("/v1/files", None),
        ("/v1/files", "nobody's"),
        ("/healthz", "nobody's"),
        ("/manage/projects", MANAGEMENT_TOKEN),
    ],
)
@pytest.mark.parametrize("chunks", BROKEN_CHUNKS)
def test_what_follows_broken_chunks_is_not_executed(proxy, upstream, token, chunks, path, secret):
    head = "Host: x\r\nAuthorization: Bearer"
    behind = f"GET /v1/models HTTP/1.1\r\n{head} {token.secret}\r\n\r\n"
    with HandClient(proxy.url) as client:
        client.send(f"POST {path} HTTP/1.1\r\n{head} {secret or token.secret}\r\n".encode())
        client.send(b"Transfer-Encoding: chunked\r\n\r\n" + BROKEN_CHUNKS[chunks] + behind.encode())

        assert client.read_to_end().count(b"HTTP/1.1 ") <= 1

    assert [request for request in upstream.requests() if request["method"] == "GET"] == []


def test_an_operators_broken_body_is_a_400_and_no_fault(proxy):
    with HandClient(proxy.url) as client:
        head = f"POST /manage/projects HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {MANAGEMENT_TOKEN}\r\n"
        client.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\ng\r\n")
        answer = client.read_answer()

        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
        assert client.has_ended()
    assert "Traceback" not in proxy.output()


@pytest.mark.parametrize("path", ["/admin/", "/manage/projects", "/self", "/metrics"])
def test_a_header_of_many_lines_is_no_longer_than_one_line_may_be(proxy, path):
    """To take ninety of them apart would keep everybody else waiting."""
    with HandClient(proxy.url) as client:
        long = client.call("GET", path, *[("Cookie", "a=b;" * 2000)] * 7)
        short = client.call("GET", path, *[("Cookie", "a=b")] * 90)

        assert (long.status, long.json["error"]["code"]) == (431, "headers_too_large")
        assert short.status != 431


@pytest.mark.parametrize("path", ["/manage/projects", "/self", "/v1/models"])
def test_credentials_beyond_ascii_are_none_and_no_fault(proxy, path):
    before = proxy.output()
    with HandClient(proxy.url) as client:
        assert client.call("GET", path, ("Authorization", "Basic \xff")).status == 401
    assert "Traceback" not in proxy.output().removeprefix(before)


def test_a_head_beyond_64_kib_is_refused_before_it_ends(proxy):
    """What has come of one is looked through again at each read: many that are never whole would stop everybody."""
    with HandClient(proxy.url) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: %b\r\n" % (b"a" * 8000) * 10)
        answer = client.read_answer()

        assert (answer.status, answer.json["error"]["code"]) == (431, "headers_too_large")
        assert client.has_ended()


REFUSED = {
    "no version": (b"GET /v1/models\r\n\r\n", 400, None),
    "another protocol": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, None),
    "a method that is none": (b"G(T /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400, None),
    "a bare carriage return": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: a\rY: b\r\n\r\n", 400, None),
    "two framings": (
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        None,
    ),
    "chunks of HTTP/1.0": (
        b"POST /v1/files HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        None,
    ),
    "too long a line": (b"GET /v1/" + 9000 * b"a" + b" HTTP/1.1\r\n\r\n", 414, "request_line_too_long"),
    "another expectation": (
        b"GET /v1/models?a=1 HTTP/1.1\r\nHost: x\r\nExpect: the worst\r\n\r\n",
        417,
        "expectation_failed",
    ),
    "too long a header": (
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + 9000 * b"a" + b"\r\n\r\n",
        431,
        "headers_too_large",
    ),
    "too many headers": (
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + 101 * b"X: a\r\n" + b"\r\n",
        431,
        "headers_too_large",
    ),
    **{
        f"another coding: {coding}": (
            f"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n".encode(),
            501,
            "unknown_transfer_coding",
        )
        for coding in (
            "x, chunked", "gzip, chunked", "GZip \t,CHUNKED", "x-gzip, chunked", "deflate, chunked",
            "compress, chunked", "gzip, deflate, chunked", "gzip\r\nTransfer-Encoding: chunked",
            "deflate\r\nX: y\r\ntransfer-encoding:chunked", "identity, chunked",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_no_application_sees_is_refused_in_openais_form_with_a_record(proxy, case):
    sent, status, code = REFUSED[case]
    error = {"code": code, "type": "invalid_request_error"}
    alike = {
        "status_code": status,
        "outcome": "refused",
        "token": None,
        "error": error,
        "client_address": "127.0.0.1",
    }
    proxy.wait_for_refusals()
    before = proxy.count_calls(**alike)
    with HandClient(proxy.url) as client:
        client.send(sent)
        answer = client.read_answer()
        assert client.has_ended()

    assert (answer.status, answer["connection"]) == (status, "close")
    assert answer.json["error"] == error | {"message": answer.json["error"]["message"], "param": None}
    assert answer["x-request-id"] == answer["x-proxy-request-id"]
    proxy.wait_for_refusals()
    assert proxy.count_calls(**alike) == before + 1


@pytest.mark.parametrize("line", [b"%b", b"GET %b HTTP/9.9", b"%b /v1/models HTTP/1.1", b"GET /v1/models %b"])
def test_a_malformed_request_line_with_a_token_in_it_is_quoted_nowhere(proxy, token, line):
    with HandClient(proxy.url) as client:
        client.send(line % token.secret.encode() + b"\r\nHost: x\r\n\r\n")
        answer = client.read_answer()

    assert answer.status == 400 and token.secret.encode() not in answer.body
    proxy.wait_for_refusals()
    assert proxy.leaks() == []


@pytest.mark.parametrize("connection", ["close, TE", "TE, close", "keep-alive, CLOSE", "te ,\tclose", "close"])
def test_a_client_that_wants_its_connection_closed_among_other_things_is_obeyed(proxy, upstream, token, connection):
    with HandClient(proxy.url) as client:
        answer = client.call("GET", "/v1/models", token.bearer, ("TE", "trailers"), ("Connection", connection))

        assert (answer.status, answer["connection"]) == (200, "close")
        assert client.has_ended()


def test_a_client_that_names_close_in_a_second_header_is_obeyed(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        pairs = [("Connection", "keep-alive"), ("Connection", "close")]
        answer = client.call("GET", "/v1/models", token.bearer, *pairs)

        assert (answer.status, answer["connection"]) == (200, "close")
        assert client.has_ended()


@pytest.mark.parametrize("expectation", ["100-continue", "100-CONTINUE", "100-Continue"])
def test_an_expectation_is_answered_in_any_case(proxy, upstream, token, expectation):
    with HandClient(proxy.url) as client:
        head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
        client.send(f"{head}Expect: {expectation}\r\nContent-Length: 2\r\n\r\n".encode())
        assert client.read_head().status == 100
        client.send(b"{}")

        assert client.read_answer().status == 200


def test_an_empty_line_between_requests_is_passed_over(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        assert client.call("POST", "/v1/echo", token.bearer, body=b"{}").status == 200
        client.send(b"\r\n")
        assert client.call("GET", "/v1/models", token.bearer).status == 200
        client.send_request("POST", "/v1/echo", token.bearer, body=b"{}")
        client.send(b"\r\n")
        assert client.read_answer().status == 200

        assert client.call("GET", "/v1/models", token.bearer).status == 200
    assert UPSTREAM_KEY not in str(proxy.records(token))
