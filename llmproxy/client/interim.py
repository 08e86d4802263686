"""Answers before the one that counts (1xx, RFC 9110 section 15.2), on their way to the client."""

from __future__ import annotations

import socket
from contextlib import suppress
from http import HTTPStatus

from llmproxy.headers import Headers, bare_fields, field_lines


class InterimSender:
    """
    Writes interim answers to a client of HTTP/1.1, past the server, which knows one answer to a request.

    Args:
        client: The socket of the client's connection, with nothing of the answer sent yet.
    """

    __slots__ = ("_client",)

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def __call__(self, status: int, headers: Headers) -> None:
        """Send one. A client that is gone is noticed by whoever sends it the answer."""
        phrase = HTTPStatus(status).phrase if status in _KNOWN else ""
        with suppress(OSError):
            self._client.sendall(
                f"HTTP/1.1 {status} {phrase}\r\n".encode() + field_lines(bare_fields(headers)) + b"\r\n"
            )


_KNOWN = frozenset(HTTPStatus)
