"""WebSockets through the running proxy, by the `websockets` library at both ends, or by hand where it matters."""

import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection

from tests.http_by_hand import Answer, HandClient
from tests.servers import DEPLOYED, UPSTREAM_KEY, WAIT_S, Server, Token, fetch, on_both_servers, wait_for
from tests.websocket_upstream import WebSocketUpstream

PATH = "/v1/realtime?model=gpt-realtime"
HANDSHAKE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)
USAGE = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10}
Open = Callable[..., ClientConnection]


def done(**usage: int) -> str:
    return json.dumps({"type": "response.done", "response": {"id": "resp_1", "usage": USAGE | usage}})


SESSION = json.dumps({"type": "session.created", "session": {"model": "gpt-realtime-2025"}})


@pytest.fixture
def token_for(proxy: Server) -> Callable[[WebSocketUpstream], Token]:
    """A token of a project with this upstream."""
    return lambda upstream: proxy.issue_token(proxy.create_project(base_url=upstream.url))


@pytest.fixture
def opens(proxy: Server) -> Callable[..., Any]:
    """Connects with the token in the header; as a subprotocol where others are given."""
    return lambda token, **options: connected(proxy, token, **options)


@contextmanager
def connected(
    server: Server, token: Token | None, *, path: str = PATH, subprotocols: list[str] | None = None, **options: Any
) -> Iterator[ClientConnection]:
    options = {
        "compression": None,
        "proxy": None,
        "ping_interval": None,
        "open_timeout": WAIT_S,
        "close_timeout": WAIT_S,
    } | options
    if subprotocols is not None:
        options["subprotocols"] = subprotocols
    elif token is not None and "additional_headers" not in options:
        options["additional_headers"] = dict([token.bearer])
    with connect(server.url.replace("http", "ws") + path, **options) as client:
        yield client


def by_hand(client: HandClient, token: Token, *more: tuple[str, str], path: str = PATH) -> None:
    client.send_request("GET", path, token.bearer, *HANDSHAKE, *more)


def frame(message: str | bytes = b"", *, opcode: Opcode = Opcode.TEXT, fin: bool = True, mask: bool = True) -> bytes:
    data = message.encode() if isinstance(message, str) else message
    return Frame(opcode, data, fin=fin).serialize(mask=mask)


def record_of(proxy: Server, token: Token) -> dict[str, Any]:
    (record,) = proxy.wait_for_records(1, token)
    return record


# Opening


@on_both_servers
@pytest.mark.parametrize("path", ["/v1/realtime?model=a%2Fb&x", "/v1/responses", "/v1/live/sessions/a%2Fb/attach?x"])
def test_messages_pass_both_ways(proxy, token_for, opens, path):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
        with opens(token, path=path) as client:
            for message in ("hello", "", "ü" * 70_000, b"\x00\xff" * 40_000):
                client.send(message)
                assert client.recv(timeout=WAIT_S) == message
        assert isinstance(upstream.wait_for_end(), type(None))

        record = record_of(proxy, token)
        assert upstream.paths == [path]
        assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("complete", 101, 101)
        assert (record["endpoint"], record["method"], record["stream"]) == (path.partition("?")[0], "GET", True)
        assert record["bytes_in"] > 220_000 and record["bytes_out"] > 220_000
        assert record["ttft_ms"] is not None and record["error"] is None


def test_the_header_becomes_the_key_and_others_stay(proxy, token_for, opens):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
        headers = {"OpenAI-Beta": "realtime=v1", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "OpenAI-Project": "p"}
        with opens(token, additional_headers=dict([token.bearer]) | headers, origin="https://page.test") as client:
            assert client.response.headers["x-proxy-request-id"] == record_id(proxy, token, client)
    (sent,) = upstream.handshakes

    assert sent.get_all("Authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert (sent["OpenAI-Beta"], sent["Origin"]) == ("realtime=v1", "https://page.test")
    assert not {"cookie", "x-forwarded-for", "openai-project"} & {name.lower() for name, _ in sent.raw_items()}


def record_id(proxy: Server, token: Token, client: ClientConnection) -> str:
    client.close()
    return record_of(proxy, token)["request_id"]


@pytest.mark.parametrize("prefix", ["openai-insecure-api-key.", "OpenAI-Insecure-API-Key."])
def test_the_subprotocol_becomes_the_key_and_is_never_seen_again(proxy, token_for, opens, prefix):
    with WebSocketUpstream(subprotocols=["realtime"]) as upstream:
        token = token_for(upstream)
        offered = ["realtime", f"{prefix}{token.secret}", "openai-organization.org-1", "OpenAI-Project.p"]
        with opens(None, subprotocols=offered) as client:
            assert client.subprotocol == "realtime"
            answered = str(list(client.response.headers.raw_items()))
    (sent,) = upstream.handshakes

    assert sent.get_all("Sec-WebSocket-Protocol") == [f"realtime, openai-insecure-api-key.{UPSTREAM_KEY}"]
    assert "authorization" not in sent
    assert UPSTREAM_KEY not in answered and token.secret not in answered
    assert record_of(proxy, token)["token"] == token.id
    assert token.secret not in proxy.output()


@pytest.mark.parametrize("name", ["api-key", "x-api-key"])
def test_the_header_of_a_key_becomes_the_authorization(proxy, token_for, opens, name):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
        with opens(None, additional_headers={name: token.secret}):
            pass
    (sent,) = upstream.handshakes

    assert sent.get_all("Authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert name not in sent


def test_an_upstream_that_echoes_the_key_does_not_give_it_away(proxy, token_for):
    key = f"openai-insecure-api-key.{UPSTREAM_KEY}"
    with WebSocketUpstream(select_subprotocol=lambda peer, offered: key) as upstream, HandClient(proxy.url) as client:
        token = token_for(upstream)
        offer = ("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{token.secret}")
        client.send_request("GET", PATH, *HANDSHAKE, offer)
        answer = client.read_head()

    assert answer.status == 101
    assert UPSTREAM_KEY not in str(answer.headers) and token.secret not in str(answer.headers)


def test_what_the_client_says_with_its_handshake_is_kept(proxy, token_for):
    with WebSocketUpstream() as upstream, HandClient(proxy.url) as client:
        lines = [f"GET {PATH} HTTP/1.1", f"Host: {client.host}", ": ".join(token_for(upstream).bearer)]
        head = "\r\n".join([*lines, *(": ".join(pair) for pair in HANDSHAKE), "", ""]).encode()
        second = frame("second")
        client.send(head + frame("first") + second[:3])
        assert client.read_head().status == 101
        client.send(second[3:])
        echoed = frame("first", mask=False) + frame("second", mask=False)

        assert client._reader.read(len(echoed)) == echoed


def test_what_the_upstream_says_with_its_yes_is_kept(proxy, recorder):
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    recorder.answers(head + b"Server: a\r\nDate: b\r\n\r\n" + frame("hi", mask=False), closes=True)
    token = proxy.issue_token(proxy.create_project(base_url=recorder.url))
    with HandClient(proxy.url) as client:
        by_hand(client, token)
        answer = client.read_head()
        assert (answer["connection"].lower(), answer["upgrade"]) == ("upgrade", "websocket")
        assert (answer["server"], answer["date"]) == ("a", "b")

        assert client._reader.read() == frame("hi", mask=False)
    assert record_of(proxy, token)["outcome"] == "upstream_failed"


# Refusals


def refused(server: Server, *headers: tuple[str, str], path: str = PATH) -> Answer:
    with HandClient(server.url) as client:
        return client.call("GET", path, *headers)


@on_both_servers
def test_refusals_come_in_openais_form(proxy, token_for, opens):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
        proxy.manage("DELETE", "/tokens", {"id": token.id})
        with pytest.raises(InvalidStatus) as raised, opens(token):
            pass
    response = raised.value.response

    assert (response.status_code, response.headers["x-should-retry"]) == (401, "false")
    assert json.loads(response.body)["error"]["code"] == "token_revoked"
    assert upstream.handshakes == []
    assert (record_of(proxy, token)["outcome"], record_of(proxy, token)["status_code"]) == ("refused", 401)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        (HANDSHAKE, 401, None),
        ((*HANDSHAKE, ("Authorization", "Bearer x")), 401, "invalid_api_key"),
        ((*HANDSHAKE, ("Sec-WebSocket-Protocol", "openai-insecure-api-key.x")), 401, "invalid_api_key"),
        (HANDSHAKE[1:], 400, None),
        (HANDSHAKE[:3], 400, None),
        ((*HANDSHAKE, ("Content-Length", "3")), 400, None),
    ],
)
def test_a_handshake_that_cannot_be_accepted_is_refused(proxy, headers, status, code):
    answer = refused(proxy, *headers)

    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    proxy.wait_for_refusals()


def test_another_version_is_told_which_one_is_spoken(proxy):
    answer = refused(proxy, *HANDSHAKE[:2], ("Sec-WebSocket-Version", "8"), HANDSHAKE[3])

    assert (answer.status, answer["sec-websocket-version"]) == (426, "13")


def test_the_limit_counts_one_for_a_connection(proxy, token_for, opens):
    with WebSocketUpstream() as upstream:
        token = proxy.issue_token(proxy.create_project(base_url=upstream.url), rate_limit=1)
        with opens(token) as client:
            for _ in range(5):
                client.send("more")
                client.recv(timeout=WAIT_S)
        answer = refused(proxy, *HANDSHAKE, token.bearer)

    assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer["retry-after"]) > 0


def test_a_project_that_is_switched_off_and_an_upstream_that_is_not_there(proxy, token_for):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
    answer = refused(proxy, *HANDSHAKE, token.bearer)
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_unreachable")
    proxy.manage("PATCH", f"/projects/{token.project_id}", {"is_active": False})
    answer = refused(proxy, *HANDSHAKE, token.bearer)
    assert (answer.status, answer.json["error"]["code"]) == (403, "project_inactive")


@pytest.mark.parametrize("status", [400, 403, 426, 200])
def test_an_upstream_that_refuses_is_passed_on(proxy, recorder, status):
    body = b'{"error": {"code": "invalid_model", "type": "invalid_request_error"}}'
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nX-Request-Id: req_1\r\n"
    recorder.answers(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    token = proxy.issue_token(proxy.create_project(base_url=recorder.url))
    answer = refused(proxy, *HANDSHAKE, token.bearer)

    assert (answer.status, answer.reason, answer.body, answer["x-request-id"]) == (status, "No", body, "req_1")
    record = record_of(proxy, token)
    assert (record["outcome"], record["status_code"], record["stream"]) == ("complete", status, False)


def test_an_upstream_that_refuses_our_key_does_not_cost_the_caller_its_token(proxy, recorder):
    recorder.answers(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
    token = proxy.issue_token(proxy.create_project(base_url=recorder.url))
    answer = refused(proxy, *HANDSHAKE, token.bearer)

    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_auth_failed")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/responses"), ("GET", "/v1/models")])
def test_an_upgrade_that_nobody_offers_is_an_ordinary_call(proxy, upstream, token, method, path):
    with HandClient(proxy.url) as client:
        answer = client.call(method, path, token.bearer, *HANDSHAKE, ("Content-Type", "application/json"), body=b"{}")

    assert answer.status in (200, 400)
    assert not {"upgrade", "connection"} & {name.lower() for name, _ in upstream.last_request()["headers"]}


# The end


@on_both_servers
def test_a_client_that_vanishes_ends_the_upstream_connection(proxy, token_for):
    with WebSocketUpstream() as upstream:
        token = token_for(upstream)
        with HandClient(proxy.url) as client:
            by_hand(client, token)
            client.read_head()
        assert isinstance(upstream.wait_for_end(), ConnectionClosedError)

    record = record_of(proxy, token)
    assert (record["outcome"], record["status_code"], record["upstream_status"]) == ("client_closed", 499, 101)


def test_a_client_that_vanishes_while_the_upstream_does_not_read_ends_it_too(proxy, token_for):
    go_on = threading.Event()
    with WebSocketUpstream(lambda peer: (go_on.wait(WAIT_S), list(peer))) as upstream:
        token = token_for(upstream)
        client = HandClient(proxy.url)
        by_hand(client, token)
        client.read_head()
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            send_without_end(client)
        client.close(reset=True)

        assert record_of(proxy, token)["outcome"] == "client_closed"
        go_on.set()
        assert isinstance(upstream.wait_for_end(), ConnectionClosedError)


def send_without_end(client: HandClient) -> None:
    while True:
        client.send(frame(b"x" * 100_000, opcode=Opcode.BINARY))


def read_to_the_end(client: ClientConnection) -> None:
    """Raises ConnectionClosed."""
    while True:
        client.recv(timeout=WAIT_S)


def test_an_upstream_that_vanishes_ends_the_clients_connection(proxy, token_for, opens):
    with WebSocketUpstream(lambda peer: peer.socket.shutdown(2)) as upstream:
        token = token_for(upstream)
        with opens(token) as client, pytest.raises(ConnectionClosedError):
            client.recv(timeout=WAIT_S)

    record = record_of(proxy, token)
    assert (record["outcome"], record["status_code"]) == ("upstream_failed", 101)


def test_the_upstreams_close_frame_comes_through(proxy, token_for, opens):
    with WebSocketUpstream(lambda peer: peer.close(4001, "enough")) as upstream:
        token = token_for(upstream)
        with opens(token) as client, pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=WAIT_S)
        assert upstream.wait_for_end() is None

    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
    assert record_of(proxy, token)["outcome"] == "complete"


def test_a_server_goes_on_after_a_tunnel(proxy, token_for, opens, upstream, token):
    with WebSocketUpstream() as other, opens(token_for(other)) as client:
        client.send("x")
        client.recv(timeout=WAIT_S)

    with HandClient(proxy.url) as next_client:
        assert next_client.call("GET", "/v1/models", token.bearer).status == 200


def test_silence_is_no_fault_but_not_reading_is(impatient_proxy):
    """Its idle time is short."""
    with WebSocketUpstream() as quiet, WebSocketUpstream(flood) as flooding:
        project = impatient_proxy.create_project
        silent = impatient_proxy.issue_token(project(base_url=quiet.url))
        token = impatient_proxy.issue_token(project(base_url=flooding.url))
        with connected(impatient_proxy, silent) as client:
            with HandClient(impatient_proxy.url, receive_buffer=8192) as sleeping:
                by_hand(sleeping, token)
                assert record_of(impatient_proxy, token)["outcome"] == "client_closed"
            client.send("still there")
            assert client.recv(timeout=WAIT_S) == "still there"


def test_an_upstream_that_does_not_read_is_given_up(impatient_proxy):
    go_on = threading.Event()
    with WebSocketUpstream(lambda peer: go_on.wait(WAIT_S)) as upstream:
        token = impatient_proxy.issue_token(impatient_proxy.create_project(base_url=upstream.url))
        with HandClient(impatient_proxy.url) as client:
            by_hand(client, token)
            client.read_head()
            with pytest.raises(ConnectionError):
                send_without_end(client)
        go_on.set()

    assert record_of(impatient_proxy, token)["outcome"] == "upstream_timeout"


# Cuts


def take_back(proxy: Server, token: Token, how: str) -> None:
    if how == "token_revoked":
        assert proxy.manage("DELETE", "/tokens", {"id": token.id})[0] == 204
    elif how == "project_inactive":
        assert proxy.manage("PATCH", f"/projects/{token.project_id}", {"is_active": False})[0] == 200
    else:
        soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        assert proxy.manage("PATCH", f"/tokens/{token.id}", {"expires_at": soon})[0] == 200


@on_both_servers
def test_who_loses_their_permission_is_told_so_by_a_close_frame(proxy, token_for, opens):
    with WebSocketUpstream() as upstream, ExitStack() as stack:
        tokens = {how: token_for(upstream) for how in ("token_revoked", "project_inactive", "token_expired")}
        clients = {how: stack.enter_context(opens(token)) for how, token in tokens.items()}
        for how, token in tokens.items():
            take_back(proxy, token, how)
        for how, client in clients.items():
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(timeout=WAIT_S)
            assert closed.value.rcvd.code == 1008
            record = record_of(proxy, tokens[how])
            told = (record["outcome"], record["status_code"], record["error"]["code"], record["cut"])
            assert told == ("refused", 101, how, True)
        assert all(isinstance(upstream.wait_for_end(), ConnectionClosedError) for _ in tokens)


def flood(peer: ServerConnection) -> None:
    while True:
        peer.send(b"x" * 300_000)


def test_a_cut_never_comes_within_a_frame(proxy, token_for, opens):
    with WebSocketUpstream(flood) as upstream:
        token = token_for(upstream)
        with opens(token) as client:
            client.recv(timeout=WAIT_S)
            take_back(proxy, token, "token_revoked")
            with pytest.raises(ConnectionClosedError) as closed:
                read_to_the_end(client)

    assert closed.value.rcvd.code == 1008


def test_a_frame_that_never_ends_does_not_hold_the_cut_up(proxy, token_for):
    def begin_a_frame(peer: ServerConnection) -> None:
        peer.socket.sendall(frame(b"x" * 1000, opcode=Opcode.BINARY, mask=False)[:500])
        list(peer)

    with WebSocketUpstream(begin_a_frame) as upstream, HandClient(proxy.url) as client:
        token = token_for(upstream)
        by_hand(client, token)
        client.read_head()
        assert len(client._reader.read(500)) == 500
        take_back(proxy, token, "token_revoked")

        assert client._reader.read() == b""
    assert record_of(proxy, token)["error"]["code"] == "token_revoked"


def test_a_client_that_does_not_read_does_not_hold_the_cut_up(proxy, token_for):
    with WebSocketUpstream(flood) as upstream, HandClient(proxy.url, receive_buffer=8192) as client:
        token = token_for(upstream)
        by_hand(client, token)
        client.read_head()
        take_back(proxy, token, "token_revoked")

        assert isinstance(upstream.wait_for_end(), ConnectionClosedError)
        assert record_of(proxy, token)["error"]["code"] == "token_revoked"


@on_both_servers
def test_a_stop_closes_what_is_open_when_balancers_have_looked_away(server_kind, tmp_path):
    with (
        WebSocketUpstream() as upstream,
        Server(server_kind, tmp_path / "data", UPSTREAM_URL=upstream.url, DRAIN_OVERLAP="4") as server,
    ):
        token = server.issue_token()
        with connected(server, token) as before:
            server.terminate()
            wait_for(lambda: fetch(server.url, "GET", "/readyz")[0] == 503)
            with connected(server, token) as late:
                for client in (before, late):
                    client.send("hello")
                    assert client.recv(timeout=WAIT_S) == "hello"
                for client in (before, late):
                    with pytest.raises(ConnectionClosedError) as closed:
                        client.recv(timeout=WAIT_S)
                    assert closed.value.rcvd.code == 1012
        assert server.wait() == 0
        records = server.records(token)

    assert [(record["outcome"], record["error"]["code"]) for record in records] == [("refused", "proxy_draining")] * 2


# TLS


def test_an_upstream_over_tls_takes_and_gives_at_once(tmp_path):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(trusted := tmp_path / "ca.pem")
    with (
        WebSocketUpstream(tls=context) as upstream,
        Server(DEPLOYED, tmp_path / "data", UPSTREAM_URL=upstream.url, SSL_CERT_FILE=str(trusted)) as server,
    ):
        token = server.issue_token()
        with connected(server, token) as client:
            sender = threading.Thread(target=lambda: [client.send(bytes([n]) * 300_000) for n in range(40)])
            sender.start()
            assert [client.recv(timeout=WAIT_S) for _ in range(40)] == [bytes([n]) * 300_000 for n in range(40)]
            sender.join()
            take_back(server, token, "token_revoked")
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(timeout=WAIT_S)
        assert isinstance(upstream.wait_for_end(), ConnectionClosedError)

    assert closed.value.rcvd.code == 1008


# Usage


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_each_response_leaves_a_record_when_it_ends_and_the_session_another(proxy, token_for, opens, compression):
    leaves = threading.Event()

    def talk(peer: ServerConnection) -> None:
        peer.send(SESSION)
        for _ in range(3):
            peer.recv()
            peer.send(json.dumps({"type": "response.output_audio.delta", "delta": os.urandom(30_000).hex()}))
            peer.send(iter([done()[:20], done()[20:]]))
        leaves.wait(WAIT_S)

    with WebSocketUpstream(talk, compression=compression) as upstream:
        token = token_for(upstream)
        with opens(token, compression=compression) as client:
            for _ in range(3):
                client.send("{}")
            assert len(proxy.wait_for_records(3, token)) == 3  # while it is open
            leaves.set()
            with pytest.raises(ConnectionClosedOK):
                read_to_the_end(client)

    *responses, session = proxy.wait_for_records(4, token)
    assert [one["metadata"] for one in responses] == [
        {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30, "model": "gpt-realtime-2025"}
    ] * 3
    assert [one["request_id"] for one in responses] == [f"{session['request_id']}-{part}" for part in (1, 2, 3)]
    assert [(one["part"], one["usage_source"], one["outcome"]) for one in responses] == [
        (part, "reported", "complete") for part in (1, 2, 3)
    ]
    assert session["metadata"] == {"model": "gpt-realtime-2025"} and "part" not in session
    assert (session["usage_source"], session["cost_usd"], session["outcome"]) == ("absent", 0, "complete")


def test_an_observer_that_is_lost_harms_nobody(proxy, token_for, opens):
    nonsense = b"\x83\x05hello"  # a reserved opcode

    def talk(peer: ServerConnection) -> None:
        peer.send(done())
        peer.socket.sendall(nonsense)
        list(peer)

    with WebSocketUpstream(talk) as upstream, HandClient(proxy.url) as client:
        token = token_for(upstream)
        by_hand(client, token)
        client.read_head()
        size = len(frame(done(), mask=False)) + len(nonsense)
        assert client._reader.read(size).endswith(nonsense)

    record = proxy.wait_for_records(2, token)[0]
    assert (record["part"], record["metadata"]["total_tokens"]) == (1, 30)


@pytest.mark.parametrize(
    "odd",
    [
        '{"usage": no json}',
        '{"type": ["response.done"], "usage": {}}',
        '{"usage": NaN, "text": "\\ud83d"}',
        '["usage"]',
    ],
)
def test_one_odd_message_takes_no_usage_along(proxy, token_for, opens, odd):
    def talk(peer: ServerConnection) -> None:
        for message in (SESSION, done(), odd, done()):
            peer.send(message)

    with WebSocketUpstream(talk) as upstream:
        token = token_for(upstream)
        with opens(token) as client:
            assert [client.recv(timeout=WAIT_S) for _ in range(4)][2] == odd

    *responses, _ = proxy.wait_for_records(3, token)
    one = json.loads(done())["response"]["usage"]["total_tokens"]
    assert [record["metadata"]["total_tokens"] for record in responses] == [one, one]
