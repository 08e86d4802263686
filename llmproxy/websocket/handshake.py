"""
The two heads that open a WebSocket (RFC 6455 section 4): what the client's must hold, and how both are passed on.

Key and accept are the client's and the upstream's own business and pass as they are. A browser cannot set headers, so
OpenAI's clients may send the key as a subprotocol, `openai-insecure-api-key.<key>`. What comes that way goes up that
way, the token swapped for the key, and never comes down.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from llmproxy.errors import BadRequest, CallerError, UpgradeRequired
from llmproxy.headers import Headers, is_token, response_headers

PATHS = frozenset({"/v1/realtime", "/v1/responses"})
VERSION = "13"
NONCE_BYTES = 16
KEY_PROTOCOL = "openai-insecure-api-key."
# As the headers of these names: they would bill somebody else's account.
_REMOVED_PROTOCOLS = ("openai-organization.", "openai-project.")
_PROTOCOL = "sec-websocket-protocol"


def is_upgrade(environ: Mapping[str, Any], endpoint: str) -> bool:
    """
    True for a request to open a WebSocket.

    A faulty one is refused where there are WebSockets for certain; elsewhere its Upgrade is passed over (RFC 9110).
    """
    return (
        environ["REQUEST_METHOD"] == "GET"
        and environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        and "websocket" in _listed(environ, "HTTP_UPGRADE")
        and (endpoint in PATHS or _is_valid(environ))
    )


def _is_valid(environ: Mapping[str, Any]) -> bool:
    try:
        check_handshake(environ)
    except CallerError:
        return False
    return True


def check_handshake(environ: Mapping[str, Any]) -> None:
    """Raise BadRequest or UpgradeRequired for a handshake that is none."""
    if "upgrade" not in _listed(environ, "HTTP_CONNECTION"):
        raise BadRequest("A WebSocket's handshake must have the header `Connection: Upgrade`.")
    if environ.get("HTTP_TRANSFER_ENCODING") or (environ.get("CONTENT_LENGTH") or "0").strip("0"):
        raise BadRequest("A WebSocket's handshake must not have a body.")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != VERSION:
        raise UpgradeRequired
    if not _is_nonce(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64.")


def _listed(environ: Mapping[str, Any], key: str) -> list[str]:
    return [part.strip().lower() for part in environ.get(key, "").split(",")]


def _is_nonce(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == NONCE_BYTES
    except (binascii.Error, ValueError):
        return False


def bearer_in_subprotocol(environ: Mapping[str, Any]) -> str | None:
    """The Authorization that the subprotocol stands for; None without one."""
    for protocol in environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(","):
        if _begins(protocol.strip(), KEY_PROTOCOL):
            return f"Bearer {protocol.strip()[len(KEY_PROTOCOL) :]}"
    return None


def _begins(protocol: str, *prefixes: str) -> bool:
    # A server that takes them in any case must not be told what another case hides.
    return protocol.lower().startswith(prefixes)


def headers_up(headers: Headers, api_key: str, *, has_authorization: bool) -> Headers:
    """
    The client's head as it goes up.

    Args:
        headers: As for any call: the key in Authorization, hop-by-hop headers removed.
        has_authorization: The client sent its token in a header, and not as the subprotocol.
    """
    # A key that cannot stand in a subprotocol goes up in the header.
    protocol = KEY_PROTOCOL + api_key if is_token(api_key) else None
    up: Headers = []
    for name, value in headers:
        if name.lower().replace("_", "-") == _PROTOCOL:
            up += [(name, kept)] if (kept := _swapped(value, protocol)) else []
        elif name.lower() != "authorization" or has_authorization or protocol is None:
            up.append((name, value))
    return [*up, ("Upgrade", "websocket"), ("Connection", "Upgrade")]


def _swapped(value: str, key_protocol: str | None) -> str:
    """A list of subprotocols with `key_protocol` in place of the client's own; without it when that is None."""
    kept = []
    for protocol in map(str.strip, value.split(",")):
        if not _begins(protocol, KEY_PROTOCOL):
            kept += [] if _begins(protocol, *_REMOVED_PROTOCOLS) else [protocol]
        elif key_protocol is not None:
            kept.append(key_protocol)
    return ", ".join(kept)


def headers_down(upstream: Headers, *, request_id: str) -> Headers:
    """The upstream's 101 as it comes down: as any response, and without a key that it should have chosen to speak."""
    down = [
        (name, value)
        for name, value in response_headers(upstream, request_id=request_id)
        if name.lower() != "content-length" and not (name.lower() == _PROTOCOL and KEY_PROTOCOL in value.lower())
    ]
    return [*down, ("Upgrade", "websocket"), ("Connection", "Upgrade")]
