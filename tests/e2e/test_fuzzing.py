"""Requests that nobody would think of: whatever is sent, nothing is forwarded but what was asked for."""

import contextlib
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http_by_hand import Broken, HandClient, call
from tests.servers import UPSTREAM_KEY

# Each example is a call to a running server: bounded in number, never timed, and the same ones in every run.
some = settings(max_examples=60, suppress_health_check=list(HealthCheck))

SEGMENTS = st.sampled_from(
    ["models", "a", "..", ".", "%2e%2e", "%2E", ".%2e", "", "%2f", "%5c", "..%2f", "\\", "%00", "%", "%zz", "é", ";x",
     "v1", "manage", "admin", "a.b", "...", "%252e%252e", "?", "&a=b", "#", " ", "\t", "@h", ":80", "//"]
)  # fmt: skip


@pytest.fixture
def token(proxy):
    """For as many calls as it takes to make a failing example small."""
    return proxy.issue_token(rate_limit=1_000_000)


def answer_to(url: str, data: bytes) -> int:
    """The status of the first answer to these bytes; 0 where there is none that can be read."""
    with HandClient(url) as client:
        with contextlib.suppress(ConnectionError):
            client.send(data)
            client.finish_sending()
        try:
            return client.read_answer().status
        except (Broken, ConnectionError, ValueError):
            return 0


@some
@given(st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join))
def test_a_target_goes_up_as_it_came_or_not_at_all(proxy, upstream, token, rest):
    upstream.reset()
    target = f"/v1/{rest}"

    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n\r\n"
    with HandClient(proxy.url) as client:
        client.send(head.encode("latin-1"))
        status = client.read_answer().status

    arrived = [request["target"] for request in upstream.requests()]
    assert arrived == [target] or (arrived == [] and status in (400, 404, 414)), status


@some
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.sampled_from(["", ";a", ";a=b"]))), st.data())
def test_a_body_arrives_whole_however_it_is_chunked_and_split(proxy, upstream, token, chunks, data):
    upstream.reset()
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\n"
    sent = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    for piece, extension in chunks:
        sent += f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n"
    sent += b"0\r\n\r\n"
    cut = data.draw(st.integers(0, len(sent)))
    with HandClient(proxy.url) as client:
        client.send(sent[:cut])
        client.send(sent[cut:])
        answer = client.read_answer()

    assert answer.status == 200
    request = upstream.last_request()
    assert request["body_complete"]
    assert request["body_sha256"] == hashlib.sha256(b"".join(piece for piece, _ in chunks)).hexdigest()


@some
@given(st.data())
def test_a_damaged_request_never_becomes_two_and_never_shows_the_key(proxy, upstream, token, data):
    upstream.reset()
    whole = (
        f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token.secret}\r\nContent-Type: text/plain\r\n"
        "X-Other: a, b\r\nContent-Length: 60\r\n\r\n"
    ).encode() + b"GET /v1/models HTTP/1.1\r\nHost: y\r\nX-Hidden: yes\r\n\r\n......"
    start = data.draw(st.integers(0, len(whole)))
    end = min(len(whole), start + data.draw(st.integers(0, 6)))
    junk = data.draw(
        st.binary(max_size=6)
        | st.sampled_from([b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\r\n\r\n", b"\r\n "])
        | st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"\r\nContent-Length: 5\r\n"])
    )

    status = answer_to(proxy.url, whole[:start] + junk + whole[end:])

    assert status == 0 or status < 500 or status in (501, 505), status
    arrived = upstream.requests()
    assert len(arrived) <= 1
    for request in arrived:
        headers = [(name.lower(), value) for name, value in request["headers"]]
        assert [value for name, value in headers if name == "authorization"] == [f"Bearer {UPSTREAM_KEY}"]
        assert "x-hidden" not in dict(headers)
        assert request["target"].startswith("/v1/")
        assert token.secret not in str(headers)
    assert call(proxy.url, "GET", "/v1/models", token.bearer).status == 200
