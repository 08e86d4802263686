"""A running call whose token is revoked or whose project is switched off ends, visibly, within seconds."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.conftest import serve
from tests.http_by_hand import Answer, Broken, HandClient
from tests.servers import DEPLOYED, WAIT_S, Server, Token, wait_for
from tests.websocket_upstream import WebSocketUpstream

CHAT = b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}'
STREAM = CHAT[:-1] + b', "stream": true}'
JSON = ("Content-Type", "application/json")
SILENT = ("x-mock-hang-after", "2")


def begin_stream(client: HandClient, token: Token, *controls: tuple[str, str], version: str = "1.1") -> Answer:
    controls = (token.bearer, JSON, *controls)
    client.send_request("POST", "/v1/chat/completions", *controls, body=STREAM, version=version)
    answer = client.read_head()
    client.read_chunk(answer)
    return answer


def revoke(proxy: Server, token: Token) -> None:
    assert proxy.manage("DELETE", "/tokens", {"id": token.id})[0] == 204


def switch_off(proxy: Server, token: Token) -> None:
    assert proxy.manage("PATCH", f"/projects/{token.project_id}", {"is_active": False})[0] == 200


def delete_project(proxy: Server, token: Token) -> None:
    assert proxy.manage("DELETE", f"/projects/{token.project_id}?force=true")[0] == 204


def expire(proxy: Server, token: Token) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    status, told = proxy.manage("PATCH", f"/tokens/{token.id}", {"expires_at": soon})
    assert status == 200, told


def cut_record(proxy: Server, token: Token) -> tuple[str, int, str]:
    (record,) = proxy.wait_for_records(1, token)
    assert record["cut"] is True
    return record["outcome"], record["status_code"], record["error"]["code"]


def test_a_silent_stream_is_cut_whyever_its_token_may_no_longer_be_used(proxy, upstream):
    reasons = {revoke: "token_revoked", switch_off: "project_inactive", delete_project: "token_revoked"}
    with ExitStack() as stack:
        tokens = {take_back: proxy.issue_token() for take_back in reasons}
        clients = {take_back: stack.enter_context(HandClient(proxy.url)) for take_back in reasons}
        answers = {take_back: begin_stream(clients[take_back], tokens[take_back], SILENT) for take_back in reasons}
        for take_back, token in tokens.items():
            take_back(proxy, token)
        for take_back, code in reasons.items():
            with pytest.raises(Broken):
                clients[take_back].read_rest(answers[take_back])
            assert cut_record(proxy, tokens[take_back]) == ("refused", 200, code)
    upstream.wait_for("client_gone")


def test_a_stream_of_many_events_is_cut(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        answer = begin_stream(client, token, ("x-mock-events", "100000"), ("x-mock-gap-ms", "5"))
        revoke(proxy, token)
        with pytest.raises(Broken):
            client.read_rest(answer)

    assert cut_record(proxy, token) == ("refused", 200, "token_revoked")


def test_a_client_of_http_1_0_sees_the_cut_as_a_reset(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        answer = begin_stream(client, token, SILENT, version="1.0")
        revoke(proxy, token)
        with pytest.raises(Broken):
            client.read_rest(answer)


def test_a_call_that_waits_for_its_first_byte_is_refused_in_words(proxy, upstream, token):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/chat/completions", token.bearer, JSON, ("x-mock-hold", "1"), body=CHAT)
        upstream.wait_for("waiting")
        revoke(proxy, token)
        answer = client.read_answer()

    assert (answer.status, answer.json["error"]["code"]) == (401, "token_revoked")
    assert cut_record(proxy, token) == ("refused", 401, "token_revoked")
    # Nobody asks again on behalf of somebody who lost their permission.
    assert len(upstream.requests("/v1/chat/completions")) == 1


@pytest.mark.parametrize("framing", [("Content-Length", "1000000"), ("Transfer-Encoding", "chunked")])
def test_an_upload_that_stands_still_is_refused_in_words(proxy, upstream, token, framing):
    with HandClient(proxy.url) as client:
        client.send_request("POST", "/v1/echo", token.bearer, framing)
        client.send(b"20000\r\n" * (framing[1] == "chunked") + b"x" * 0x20000)
        upstream.wait_for("receiving")
        revoke(proxy, token)
        answer = client.read_answer()

        assert (answer.status, answer.json["error"]["code"]) == (401, "token_revoked")
        assert client.has_ended()
    assert not upstream.wait_for("client_gone")["body_complete"]
    assert cut_record(proxy, token) == ("refused", 401, "token_revoked")


def test_an_answer_that_nobody_reads_is_cut(proxy, upstream, token):
    with HandClient(proxy.url, receive_buffer=8192) as client:
        client.send_request("GET", "/v1/files/file-1/content", token.bearer, ("x-mock-size", "100000000"))
        client.read_chunk(client.read_head())
        revoke(proxy, token)

        assert cut_record(proxy, token) == ("refused", 200, "token_revoked")
    assert upstream.wait_for("client_gone")["pieces_sent"] < 1000


def test_the_next_call_on_the_same_upstream_is_unaffected(proxy, upstream, token):
    other = proxy.issue_token()
    with HandClient(proxy.url) as client, HandClient(proxy.url) as next_client:
        answer = begin_stream(client, token, SILENT)
        going_on = begin_stream(next_client, other, ("x-mock-gate", gate := str(uuid.uuid4())))
        revoke(proxy, token)
        with pytest.raises(Broken):
            client.read_rest(answer)
        upstream.release(gate, count=100)

        assert next_client.read_rest(going_on).body.endswith(b"data: [DONE]\n\n")


def test_an_expired_tokens_stream_goes_on_by_default(proxy, upstream, token):
    watched = proxy.issue_token()
    with HandClient(proxy.url) as client, HandClient(proxy.url) as revoked:
        answer = begin_stream(client, token, ("x-mock-gate", gate := str(uuid.uuid4())))
        other = begin_stream(revoked, watched, SILENT)
        expire(proxy, token)
        wait_for(lambda: client_is_refused(proxy, token))
        # A look at all that runs has come and gone when this one is cut.
        revoke(proxy, watched)
        with pytest.raises(Broken):
            revoked.read_rest(other)
        upstream.release(gate, count=100)

        assert client.read_rest(answer).body.endswith(b"data: [DONE]\n\n")


def client_is_refused(proxy: Server, token: Token) -> bool:
    with HandClient(proxy.url) as client:
        return client.call("GET", "/v1/models", token.bearer).status == 401


@pytest.fixture(scope="module")
def opposite(running_upstream, tmp_path_factory) -> Iterator[Server]:
    """Cuts what others let go on, and lets go on what others cut."""
    settings = {"CUT_STREAMS": "off", "CUT_STREAMS_AT_EXPIRY": "on"}
    yield from serve(DEPLOYED, running_upstream, tmp_path_factory, **settings)


def test_both_can_be_set_the_other_way_round(opposite, upstream):
    revoked, expired = opposite.issue_token(), opposite.issue_token()
    with HandClient(opposite.url) as going_on, HandClient(opposite.url) as cut:
        answer = begin_stream(going_on, revoked, ("x-mock-gate", gate := str(uuid.uuid4())))
        other = begin_stream(cut, expired, SILENT)
        revoke(opposite, revoked)
        expire(opposite, expired)
        with pytest.raises(Broken):
            cut.read_rest(other)
        upstream.release(gate, count=100)

        assert going_on.read_rest(answer).body.endswith(b"data: [DONE]\n\n")
    assert cut_record(opposite, expired) == ("refused", 200, "token_expired")


def test_a_websocket_ends_whatever_is_set(opposite):
    with WebSocketUpstream() as upstream:
        token = opposite.issue_token(opposite.create_project(base_url=upstream.url))
        url = opposite.url.replace("http", "ws") + "/v1/realtime"
        with connect(url, additional_headers=dict([token.bearer]), proxy=None) as client:
            revoke(opposite, token)
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(timeout=WAIT_S)

    assert closed.value.rcvd.code == 1008
