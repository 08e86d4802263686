"""`stream_usage: "ask"` of a project: streams are accounted for, and their callers notice nothing."""

import contextlib
import json

import pytest

from llmproxy.client.held_bodies import MOST_BYTES_OF_A_TOKEN
from mock_openai.mock import MockOpenAI
from tests.http_by_hand import HandClient
from tests.servers import Server, fetch

CHAT = "/v1/chat/completions"
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
        for client in clients:
            client.send(body[-1:])
        assert [client.read_answer().status for client in clients] == [200] * len(clients)

    lengths = [int(dict(request["headers"])["Content-Length"]) for request in upstream.requests()]
    assert (lengths.count(len(body)), sum(length > len(body) for length in lengths)) == (2, fitting)
    # What they held is free again.
    fetch(proxy.url, "POST", CHAT, dict(headers), body)
    assert int(dict(upstream.last_request()["headers"])["Content-Length"]) > len(body)
