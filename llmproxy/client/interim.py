"""Responses before the one that counts (1xx, RFC 9110 section 15.2), on their way to the client."""

from __future__ import annotations

import socket
from contextlib import suppress
from http import HTTPStatus

from llmproxy.headers import Headers, bare_fields, field_lines

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def send_interim(client: socket.socket, status: int, headers: Headers) -> None:
    """
    Write one past the server, which knows one response to a request. A client that is gone is noticed later.

    Args:
        client: The socket of the connection, of HTTP/1.1, with nothing of the response that counts sent yet.
    """
    head = f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    with suppress(OSError):
        client.sendall(head + field_lines(bare_fields(headers)) + b"\r\n")
