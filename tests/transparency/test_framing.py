"""Where messages begin and end: heads, bodies of every framing, connections that go on."""

import pytest

from mock_openai.mock import MockOpenAI
from tests.http_by_hand import HandClient, call
from tests.servers import UPSTREAM_KEY

JSON = ("Content-Type", "application/json")
CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'


def went_up(upstream: MockOpenAI) -> dict[str, str]:
    """The headers of the last request as the upstream saw them, names in lower case; each name once."""
    pairs = upstream.last_request()["headers"]
    headers = {name.lower(): value for name, value in pairs}
    assert len(headers) == len(pairs)
    return headers


def test_an_answer_of_the_proxy_itself_has_one_date(proxy):
    answer = call(proxy.url, "GET", "/v1/models")

    assert (len(answer.all("date")), len(answer.all("server"))) in ((1, 0), (1, 1))


def test_an_answer_without_a_content_type_stays_without(proxy, recorder, token_for):
    recorder.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    answer = call(proxy.url, "GET", "/v1/x", token_for(recorder.url).bearer)

    assert answer.all("content-type") == [] and answer.body == b"ok"


@pytest.mark.parametrize("phrase", [b"OK", b"Very Well", b"I'm a teapot, (sort of) [really]!", b""])
def test_the_reason_phrase_comes_down_as_sent(proxy, recorder, token_for, phrase):
    recorder.answers(b"HTTP/1.1 200 " + phrase + b"\r\nContent-Length: 2\r\n\r\nok")
    answer = call(proxy.url, "GET", "/v1/x", token_for(recorder.url).bearer)

    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.reason == phrase.decode()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 caf\xe9",
        b"HTTP/1.1 200 OK\r\nX-Odd: a\x01b",
        b"HTTP/1.1 200 OK\r\nX Odd: b",
        b"HTTP/1.1 999 Odd",
    ],
    ids=["latin reason", "control character", "space in a name", "odd status"],
)
def test_an_answer_that_is_hardly_http_still_leaves_an_answer_and_a_record(proxy, recorder, token_for, head):
    recorder.answers(head + b"\r\nContent-Length: 2\r\n\r\nok")
    token = token_for(recorder.url)
    answer = call(proxy.url, "GET", "/v1/x", token.bearer)

    assert (answer.status, answer.body) == (999 if b"999" in head else 200, b"ok") or answer.status == 502
    (record,) = proxy.wait_for_records(1, token)
    assert record["status_code"] == answer.status
    assert record["outcome"] == ("upstream_failed" if answer.status == 502 else "complete")


def test_a_plain_request_gains_nothing_but_an_accept_encoding(proxy, upstream, token):
    call(proxy.url, "GET", "/v1/models", token.bearer)

    assert went_up(upstream).keys() == {"host", "authorization", "accept-encoding"}


@pytest.mark.parametrize("connection", ["close, Authorization, Host", "authorization", "Accept-Encoding"])
def test_connection_cannot_take_away_what_the_proxy_sets(proxy, upstream, token, connection):
    assert call(proxy.url, "GET", "/v1/models", token.bearer, ("Connection", connection)).status == 200

    headers = went_up(upstream)
    assert headers["authorization"] == f"Bearer {UPSTREAM_KEY}" and headers["host"] in upstream.url
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("sent", ["gzip, br;q=0.5, zstd", "identity", "*", ""])
def test_accept_encoding_goes_up_as_it_was_sent(proxy, upstream, token, sent):
    call(proxy.url, "GET", "/v1/models", token.bearer, ("Accept-Encoding", sent))

    assert went_up(upstream)["accept-encoding"] == sent


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_a_body_of_known_length_goes_up_whole(proxy, upstream, token, size):
    answer = call(proxy.url, "POST", "/v1/echo", token.bearer, body=b"x" * size)

    assert answer.json["body_length"] == size
    assert went_up(upstream)["content-length"] == str(size)


def test_a_post_without_a_body_goes_up_with_length_zero(proxy, upstream, token):
    assert call(proxy.url, "POST", "/v1/echo", token.bearer).json["body_length"] == 0

    assert went_up(upstream)["content-length"] == "0"


@pytest.mark.parametrize("sizes", [[], [1], [5, 1, 70_000], [65536] * 4])
def test_a_chunked_body_goes_up_whole(proxy, upstream, token, sizes):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/echo", token.bearer, ("Transfer-Encoding", "chunked"))
        for size in sizes:
            client.send(b"%x;extension=1\r\n%b\r\n" % (size, b"x" * size))
        client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        answer = client.read_answer()

    assert answer.json["body_length"] == sum(sizes)
    assert went_up(upstream)["transfer-encoding"] == "chunked"


def test_the_answer_to_head_has_no_body_on_a_connection_that_goes_on(proxy, token):
    with HandClient(proxy.url) as client:
        for control in (("x-mock-framing", "chunked"), ("x-mock-framing", "close"), ("x-mock-status", "200")):
            assert client.call("HEAD", "/v1/models", token.bearer, control).status == 200

        assert client.call("GET", "/v1/models", token.bearer).json["object"] == "list"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_keeps_the_connection(proxy, token, status):
    with HandClient(proxy.url) as client:
        answer = client.call("GET", "/v1/models", token.bearer, ("x-mock-status", str(status)))

        assert (answer.status, answer.all("transfer-encoding")) == (status, [])
        assert client.call("GET", "/v1/models", token.bearer).status == 200


def test_a_304_may_tell_the_length_of_what_it_stands_for(proxy, recorder, token_for):
    recorder.answers(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 123\r\n\r\n')
    answer = call(proxy.url, "GET", "/v1/x", token_for(recorder.url).bearer)

    assert (answer.status, answer["etag"]) == (304, '"a"')


def test_a_204_with_a_length_of_zero_passes(proxy, recorder, token_for):
    recorder.answers(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")

    assert call(proxy.url, "GET", "/v1/x", token_for(recorder.url).bearer).status == 204


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("keep", [(), (("Connection", "keep-alive"),)], ids=["plain", "keep-alive"])
def test_a_client_of_http_1_0_gets_no_chunks(proxy, upstream, token, framing, keep):
    asked = (token.bearer, JSON, ("x-mock-framing", framing), *keep)
    answer = call(proxy.url, "POST", "/v1/chat/completions", *asked, body=STREAM, version="1.0")

    assert answer.all("transfer-encoding") == [] and answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.framing == ("length" if framing == "length" else "close")


def test_one_connection_carries_many_calls(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        for body in (CHAT, STREAM, CHAT):
            assert client.call("POST", "/v1/chat/completions", token.bearer, JSON, body=body).status == 200
        assert client.call("GET", "/v1/models", ("Authorization", "Bearer wrong")).status == 401
        assert client.call("GET", "/v1/models", token.bearer).status == 200

    assert upstream.connections()["accepted"] <= 1


def test_pipelined_calls_are_answered_in_order(proxy, token):
    with HandClient(proxy.url) as client:
        head = f"Host: x\r\nAuthorization: Bearer {token.secret}\r\n"
        calls = [f"POST /v1/echo/{n} HTTP/1.1\r\n{head}Content-Length: 3\r\n\r\nabc" for n in range(5)]
        client.send("".join(calls).encode())

        assert [client.read_answer().json["target"] for _ in calls] == [f"/v1/echo/{n}" for n in range(5)]


def test_a_client_that_asks_to_close_is_closed_on(proxy, token):
    with HandClient(proxy.url) as client:
        assert client.call("GET", "/v1/models", token.bearer, ("Connection", "close")).status == 200

        assert client.has_ended()
