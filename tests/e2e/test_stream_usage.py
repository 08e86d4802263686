"""`stream_usage: "ask"` of a project: streams are accounted for, and their callers notice nothing."""

import contextlib
import hashlib
import json

import pytest

from llmproxy.client.held_bodies import MOST_BYTES_OF_A_TOKEN
from mock_openai.mock import MockOpenAI
from tests.http_by_hand import HandClient
from tests.servers import Server, fetch
from tests.upstream import Peer, ScriptedUpstream, answering

CHAT = "/v1/chat/completions"
CHUNK = b'data: {"model":"m","choices":[{"delta":{}}],"usage":null}\n\n'
USAGE_CHUNK = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
PLAIN = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


def _stream(server: Server, token, body: dict, *headers: tuple[str, str]) -> bytes:
    status, _, seen = fetch(server.url, "POST", CHAT, dict([token.bearer, *headers]), body)
    assert status == 200
    return seen


@pytest.fixture
def asking_token(proxy: Server):
    """A token of a project whose streams' usage is asked for."""
    return proxy.issue_token(proxy.create_project(stream_usage="ask"))


def test_a_stream_is_accounted_for_and_its_caller_sees_no_extra_chunk(proxy, upstream: MockOpenAI, asking_token):
    seen = _stream(proxy, asking_token, PLAIN)

    assert upstream.last_request()["json"]["stream_options"] == {"include_usage": True}
    assert b'"choices":[]' not in seen and seen.rstrip().endswith(b"data: [DONE]")
    [record] = proxy.wait_for_records(1, asking_token)
    assert record["usage_source"] == "reported" and record["metadata"]["total_tokens"] > 0
    assert record["bytes_out"] == len(seen)


def test_a_caller_that_asks_gets_its_usage_chunk(proxy, upstream: MockOpenAI, asking_token):
    seen = _stream(proxy, asking_token, {**PLAIN, "stream_options": {"include_usage": True}})

    assert b'"choices":[]' in seen


def test_a_compressed_stream_is_asked_for_uncompressed(proxy, upstream: MockOpenAI, asking_token):
    seen = _stream(proxy, asking_token, PLAIN, ("Accept-Encoding", "gzip"))

    assert dict(upstream.last_request()["headers"])["Accept-Encoding"] == "identity"
    assert seen.startswith(b"data: ")


def test_without_the_setting_nothing_is_asked(proxy, upstream: MockOpenAI, token):
    _stream(proxy, token, PLAIN)

    assert upstream.last_request()["json"] == PLAIN
    assert [record["usage_source"] for record in proxy.wait_for_records(1, token)] == ["absent"]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/completions",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/%63hat/completions",
        "/v1/chat%2Fcompletions?x=%20",
        "/v1/completion%73/",
    ],
)
def test_a_path_is_known_however_it_is_written_and_goes_up_as_it_was(proxy, target):
    seen_up = []

    def answers(peer: Peer) -> None:
        seen_up.append(peer.read_request())
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n")
        peer.send(CHUNK + USAGE_CHUNK + DONE)

    with ScriptedUpstream(answers) as upstream:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url, stream_usage="ask"))
        _, _, seen = fetch(proxy.url, "POST", target, dict([token.bearer]), PLAIN)

    assert seen == CHUNK + DONE
    assert seen_up[0].startswith(f"POST {target} ".encode()) and b'"include_usage":true' in seen_up[0]
    [record] = proxy.wait_for_records(1, token)
    assert (record["endpoint"], record["usage_source"]) == (target.partition("?")[0], "reported")


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b""])
def test_the_chunk_that_was_asked_for_is_taken_out_whatever_the_stream_is_called(proxy, content_type):
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\n\r\n" % content_type
    with ScriptedUpstream(answering(head + CHUNK + USAGE_CHUNK + DONE)) as upstream:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url, stream_usage="ask"))
        _, _, seen = fetch(proxy.url, "POST", CHAT, dict([token.bearer]), PLAIN)

    assert seen == CHUNK + DONE
    assert [record["usage_source"] for record in proxy.wait_for_records(1, token)] == ["reported"]


@pytest.mark.parametrize(("size", "is_asked"), [(0, True), (100_000, True), (4_100_000, True), (4_300_000, False)])
def test_a_chunked_body_is_asked_in_up_to_the_limit(proxy, upstream: MockOpenAI, asking_token, size, is_asked):
    """The limit is 4 MiB."""
    body = json.dumps({**PLAIN, "padding": "x" * size}).encode()
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    with HandClient(proxy.url) as client:
        headers = asking_token.bearer, ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")
        client.send_request("POST", CHAT, *headers)
        for piece in pieces:
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.read_answer().status == 200

    asked = b'{"stream_options":{"include_usage":true},' + body[1:]
    expected = hashlib.sha256(asked if is_asked else body).hexdigest()
    assert upstream.last_request()["body_sha256"] == expected
    [record] = proxy.wait_for_records(1, asking_token)
    assert record["bytes_in"] == len(body)


def test_of_many_large_bodies_at_once_some_go_up_as_they_were_sent(proxy, upstream: MockOpenAI, asking_token):
    """Beyond what one token may have held of them: nobody holds the memory of a worker by sending no last byte."""
    body = json.dumps({**PLAIN, "padding": "x" * 4_000_000}).encode()
    fitting = MOST_BYTES_OF_A_TOKEN // len(body)
    headers = [asking_token.bearer, ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HandClient(proxy.url)) for _ in range(fitting + 2)]
        for client in clients:
            client.send_request("POST", CHAT, *headers)
            client.send(body[:-1])
        upstream.wait_for("receiving", path=CHAT, count=2)  # all have been looked at, and these two not held
        for client in clients:
            client.send(body[-1:])
        assert [client.read_answer().status for client in clients] == [200] * len(clients)

    lengths = [int(dict(request["headers"])["Content-Length"]) for request in upstream.requests()]
    assert (lengths.count(len(body)), sum(length > len(body) for length in lengths)) == (2, fitting)
    # What they held is free again.
    fetch(proxy.url, "POST", CHAT, dict(headers), body)
    assert int(dict(upstream.last_request()["headers"])["Content-Length"]) > len(body)
