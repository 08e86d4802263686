"""An upstream that repeats the key it was sent, wherever there is room: nobody gets it, and nothing keeps it."""

import gzip
import json
import zlib
from base64 import b64encode

import brotli
import pytest
from websockets.http11 import Response
from websockets.sync.client import connect

from tests.exposition import total
from tests.http_by_hand import HandClient, call
from tests.servers import ADMIN_PASSWORD, UPSTREAM_KEY, Server, contents, fetch, on_both_servers, wait_for
from tests.upstream import ScriptedUpstream, answering
from tests.websocket_upstream import WebSocketUpstream

KEY = UPSTREAM_KEY
MASK = "*" * len(KEY)


def head(status: str, *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, *([] if length is None else [f"Content-Length: {length}"])]
    return "\r\n".join([*lines, "", ""]).encode()


def everything_kept(server: Server) -> str:
    """All that the server has written, or shows to operators."""
    basic = {"Authorization": f"Basic {b64encode(f'admin:{ADMIN_PASSWORD}'.encode()).decode()}"}
    pages = ["/admin/", "/admin/requests", "/admin/projects"]
    pages += [f"/admin/requests/{record['request_id']}" for record in server.records()]
    shown = [fetch(server.url, "GET", page, basic)[2].decode() for page in pages]
    files = [data.decode("latin-1") for data in contents(server.data_dir, "*").values()]
    usage = json.dumps(server.manage("GET", "/usage?group_by=model")[1])
    return "\n".join([*shown, *files, usage, server.metrics(), server.output()])


@on_both_servers
@pytest.mark.parametrize("cut", [0, 80, 300])
def test_headers_interim_responses_and_trailers_come_masked_by_as_many_bytes(proxy, token_for, cut):
    answer = b"".join(
        [
            head("103 Early Hints", f"Link: </{KEY}>"),
            head(
                f"200 {KEY}", f"x-request-id: {KEY}", f"Location: https://x/?k={KEY}&k={KEY}", f"x-{KEY}: 1",
                "Trailer: x-sum", "Transfer-Encoding: chunked",
            ),
            f"2\r\n{{}}\r\n0\r\nx-sum: {KEY}\r\n\r\n".encode(),
        ]
    )  # fmt: skip

    def script(peer):
        peer.read_request()
        middle = answer.index(KEY.encode(), cut) + 10
        peer.send(answer[:middle])
        peer.send(answer[middle:])

    with ScriptedUpstream(script) as upstream, HandClient(proxy.url) as client:
        token = token_for(upstream.url)
        client.send_request("GET", "/v1/x", token.bearer)
        hint = client.read_head()
        got = client.read_answer()

    assert (hint.status, hint["Link"]) == (103, f"</{MASK}>")
    assert (got.status, got.reason, got["x-request-id"], got[f"x-{MASK}"]) == (200, MASK, MASK, "1")
    assert got["Location"] == f"https://x/?k={MASK}&k={MASK}"
    assert got.trailers == [("x-sum", MASK)]
    assert proxy.wait_for_records(1, token)[0]["upstream_request_id"] == MASK


@on_both_servers
@pytest.mark.parametrize("cut", [1, 20, 40, 55])
def test_an_error_s_body_comes_masked_by_as_many_bytes_wherever_it_is_cut(proxy, token_for, cut):
    body = json.dumps({"error": {"message": f"no such key: {KEY}", "type": KEY, "code": KEY}}).encode()

    def script(peer):
        peer.read_request()
        peer.send(head("403 Forbidden", "Content-Type: application/json", length=len(body)) + body[:cut])
        peer.send(body[cut:])

    with ScriptedUpstream(script) as upstream:
        got = call(proxy.url, "GET", "/v1/x", token_for(upstream.url).bearer)

    assert got.status == 403 and got.body == body.replace(KEY.encode(), MASK.encode())


CODINGS = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "deflate": zlib.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("coding", CODINGS)
@on_both_servers
def test_a_compressed_error_that_holds_it_is_a_502(proxy, token_for, coding):
    body = CODINGS[coding](b"x" * 70_000 + KEY.encode())
    answer = head("500 No", f"Content-Encoding: {coding}", length=len(body)) + body
    with ScriptedUpstream(answering(answer)) as upstream:
        token = token_for(upstream.url)
        got = call(proxy.url, "GET", "/v1/x", token.bearer)

    assert (got.status, got.json["error"]["code"]) == (502, "upstream_echoed_key")
    assert got["x-should-retry"] == "false"
    (record,) = proxy.wait_for_records(1, token)
    assert (record["upstream_status"], record["outcome"]) == (500, "upstream_failed")


@pytest.mark.parametrize("body", [gzip.compress(b'{"error": {"message": "no"}}'), b"no gzip at all", b""])
@on_both_servers
def test_any_other_compressed_error_comes_as_it_is(proxy, token_for, body):
    answer = head("500 No", "Content-Encoding: gzip", length=len(body)) + body
    with ScriptedUpstream(answering(answer)) as upstream:
        got = call(proxy.url, "GET", "/v1/x", token_for(upstream.url).bearer)

    assert (got.status, got["content-encoding"], got.body) == (500, "gzip", body)


def test_a_compressed_error_that_breaks_off_is_cut(proxy, token_for):
    answer = head("500 No", "Content-Encoding: gzip", length=1000) + gzip.compress(b"{}")
    with ScriptedUpstream(answering(answer)) as upstream:
        token = token_for(upstream.url)
        with HandClient(proxy.url) as client:
            client.send_request("GET", "/v1/x", token.bearer)
            assert client.read_head().status == 500
            assert client.sock.recv(100_000) is not None

    assert proxy.wait_for_records(1, token)[0]["outcome"] == "upstream_failed"


def test_nothing_that_is_kept_or_shown_holds_it(upstream, tmp_path, server_kind):
    told = {
        "model": KEY, "service_tier": KEY, "id": KEY, "object": "chat.completion", "created": 1,
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {KEY: 1}},
        "error": {"code": KEY, "type": KEY, "message": KEY},
    }  # fmt: skip
    good = json.dumps(told).encode()
    stream = b"".join(b"data: %s\n\n" % json.dumps(told | {"model": f"m-{KEY}"}).encode() for _ in range(2))
    # Each says that its connection ends: the next call must not go up on one that is just being closed.
    last = "Connection: close"
    answers = [
        head("200 OK", last, "Content-Type: application/json", f"x-request-id: {KEY}", length=len(good)) + good,
        head("429 No", last, "Content-Type: application/json", f"x-request-id: {KEY}", length=len(good)) + good,
        head("200 OK", last, "Content-Type: text/event-stream", length=len(stream)) + stream,
        head(f"200 {KEY}", f"Content-Length: {KEY}"),
        f"{KEY} {KEY}\r\n\r\n".encode(),
    ]
    with (
        ScriptedUpstream(*map(answering, answers)) as echoing,
        Server(server_kind, tmp_path / "data", UPSTREAM_URL=echoing.url) as server,
    ):
        token = server.issue_token()
        for _ in answers:
            call(server.url, "POST", "/v1/chat/completions", token.bearer, body=b'{"model": "gpt-4o"}')
        server.wait_for_records(len(answers), token)
        wait_for(lambda: server.manage("GET", "/usage")[1]["total"]["requests"] == len(answers))

        assert MASK in (server.data_dir / "api_logs.jsonl").read_text()
        assert total(server.metrics(), "llmproxy_usage_tokens_total") > 0
        assert KEY not in everything_kept(server)


def test_a_websocket_that_repeats_it_leaves_it_nowhere(proxy, token_for):
    def talk(peer):
        created = {"type": "session.created", "session": {"model": KEY}}
        peer.send(json.dumps(created))
        peer.send(json.dumps({"type": "response.done", "response": {"usage": {"total_tokens": 7}, "model": KEY}}))
        peer.recv()

    def with_header(_connection, _request, response: Response) -> None:
        response.headers["x-echo"] = KEY

    with WebSocketUpstream(talk, process_response=with_header) as upstream:
        token = token_for(upstream.url)
        url = f"{proxy.url.replace('http', 'ws')}/v1/realtime"
        with connect(url, additional_headers=dict([token.bearer])) as client:
            assert client.response.headers["x-echo"] == MASK
            client.recv()
            client.recv()
            client.send("bye")
        response, session = proxy.wait_for_records(2, token)

    assert response["part"] == 1 and response["metadata"]["model"] == session["metadata"]["model"] == MASK
    assert KEY not in everything_kept(proxy)


@pytest.mark.parametrize(("setting", "expected"), [("off", ["acme"]), ("on", [])])
def test_an_operator_may_hide_whose_account_it_is(server_kind, tmp_path, setting, expected):
    answer = head("200 OK", "OpenAI-Organization: acme", "openai-project: p", "openai-version: v", length=0)
    with (
        ScriptedUpstream(answering(answer)) as upstream,
        Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, HIDE_OPENAI_ACCOUNT=setting) as server,
    ):
        got = call(server.url, "GET", "/v1/models", server.issue_token().bearer)

        assert got.all("openai-organization") == expected
        assert len(got.all("openai-project")) == len(expected)
        assert got["openai-version"] == "v"
