"""The heads that open a WebSocket: what is refused, whose secret goes where, and what comes down."""

from typing import Any

import pytest

from llmproxy.errors import BadRequest, UpgradeRequired
from llmproxy.websocket.handshake import bearer_in_subprotocol, check_handshake, headers_down, headers_up, is_upgrade

KEY = "sk-the-projects-key"
TOKEN = "openai-insecure-api-key.the-token"


def environ(**changes: Any) -> dict[str, Any]:
    """A good handshake's, changed; None leaves one out."""
    good = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "keep-alive, Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


@pytest.mark.parametrize("endpoint", ["/v1/realtime", "/v1/responses", "/v1/live/sessions/x/attach", "/v1/models"])
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "h2c, websocket"])
def test_a_handshake_is_known_by_its_headers_whatever_its_path(endpoint, upgrade):
    assert is_upgrade(environ(HTTP_UPGRADE=upgrade), endpoint)


@pytest.mark.parametrize(
    ("endpoint", "changes"),
    [
        ("/v1/models", {"HTTP_SEC_WEBSOCKET_KEY": None}),
        ("/v1/models", {"HTTP_SEC_WEBSOCKET_VERSION": "8"}),
        ("/v1/models", {"CONTENT_LENGTH": "2"}),
        ("/v1/realtime/translations", {"HTTP_CONNECTION": "keep-alive"}),
        ("/v1/responses", {"REQUEST_METHOD": "POST"}),
        ("/v1/realtime", {"HTTP_UPGRADE": "h2c"}),
        ("/v1/realtime", {"SERVER_PROTOCOL": "HTTP/1.0"}),
    ],
)
def test_what_is_no_handshake_is_an_ordinary_call(endpoint, changes):
    assert not is_upgrade(environ(**changes), endpoint)


@pytest.mark.parametrize("endpoint", ["/v1/realtime", "/v1/responses"])
def test_a_faulty_handshake_where_there_are_websockets_for_certain_is_one(endpoint):
    assert is_upgrade(environ(HTTP_SEC_WEBSOCKET_KEY=None), endpoint)


def test_a_good_handshake_passes():
    check_handshake(environ())
    check_handshake(environ(CONTENT_LENGTH="0"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"HTTP_CONNECTION": "keep-alive"}, BadRequest),
        ({"HTTP_CONNECTION": None}, BadRequest),
        ({"CONTENT_LENGTH": "5"}, BadRequest),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": None}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "dG9vIHNob3J0"}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "no base64!"}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "\xe9" * 24}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==,dGhlIHNhbXBsZSBub25jZQ=="}, BadRequest),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, UpgradeRequired),
        ({"HTTP_SEC_WEBSOCKET_VERSION": None}, UpgradeRequired),
    ],
)
def test_a_bad_handshake_is_refused(changes, reason):
    with pytest.raises(reason):
        check_handshake(environ(**changes))


def test_a_subprotocol_may_stand_for_the_header():
    offered = f"realtime,{TOKEN} , x"

    assert bearer_in_subprotocol(environ(HTTP_SEC_WEBSOCKET_PROTOCOL=offered)) == "Bearer the-token"
    assert bearer_in_subprotocol(environ(HTTP_SEC_WEBSOCKET_PROTOCOL=offered.upper())) == "Bearer THE-TOKEN"
    assert bearer_in_subprotocol(environ(HTTP_SEC_WEBSOCKET_PROTOCOL="realtime")) is None
    assert bearer_in_subprotocol(environ()) is None


UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
AUTHORIZATION = ("Authorization", f"Bearer {KEY}")


def test_a_token_that_came_as_a_subprotocol_becomes_the_key_in_its_place():
    headers = [("Origin", "https://a.test"), ("Sec-WebSocket-Protocol", f"realtime, {TOKEN}, beta"), AUTHORIZATION]

    assert headers_up(headers, KEY, has_authorization=False) == [
        ("Origin", "https://a.test"),
        ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{KEY}, beta"),
        *UPGRADE,
    ]


def test_a_token_that_came_as_a_header_becomes_the_key_there():
    headers = [AUTHORIZATION, ("Sec-WebSocket-Protocol", "realtime")]

    assert headers_up(headers, KEY, has_authorization=True) == [*headers, *UPGRADE]


@pytest.mark.parametrize("name", ["sec-websocket-protocol", "Sec_WebSocket_Protocol"])
def test_no_token_goes_up_whichever_way_it_came(name):
    up = headers_up([AUTHORIZATION, (name, TOKEN), (name, f"x,{TOKEN}")], KEY, has_authorization=True)

    assert "the-token" not in str(up)


def test_a_key_that_cannot_be_a_subprotocol_goes_up_as_a_header():
    odd = ("Authorization", "Bearer odd/key=")
    up = headers_up([("Sec-WebSocket-Protocol", f"{TOKEN}, realtime"), odd], "odd/key=", has_authorization=False)

    assert up == [("Sec-WebSocket-Protocol", "realtime"), odd, *UPGRADE]
    assert headers_up([("Sec-WebSocket-Protocol", TOKEN), odd], "odd/key=", has_authorization=False) == [
        odd,
        *UPGRADE,
    ]


def test_subprotocols_that_name_whom_to_bill_stay_here():
    protocols = f"openai-organization.org-1, {TOKEN}, openai-project.proj-1"
    up = headers_up([("Sec-WebSocket-Protocol", protocols)], KEY, has_authorization=False)

    assert up[0] == ("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{KEY}")


def test_the_upstreams_yes_comes_down_with_its_choices():
    upstream = [
        ("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Accept", "x"), ("Set-Cookie", "a=b"),
        ("sec-websocket-protocol", "realtime"), ("openai-organization", "o"), ("Content-Length", "0"),
    ]  # fmt: skip

    assert headers_down(upstream, request_id="id") == [
        ("Sec-WebSocket-Accept", "x"), ("sec-websocket-protocol", "realtime"), ("openai-organization", "o"),
        ("x-proxy-request-id", "id"), *UPGRADE,
    ]  # fmt: skip


def test_a_key_that_an_upstream_echoes_does_not_come_down():
    down = headers_down([("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{KEY}")], request_id="id")

    assert KEY not in str(down)


def test_what_stays_here_stays_in_any_case():
    offered = "OpenAI-Insecure-API-Key.the-token, OPENAI-Organization.org-1, openai-PROJECT.p, Realtime"
    up = headers_up([AUTHORIZATION, ("Sec-WebSocket-Protocol", offered)], KEY, has_authorization=False)
    down = headers_down([("Sec-WebSocket-Protocol", f"OpenAI-Insecure-API-Key.{KEY}")], request_id="1")

    assert up == [("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{KEY}, Realtime"), *UPGRADE]
    assert KEY not in str(down)
