"""The listening socket."""

from __future__ import annotations

import socket

REQUEST_QUEUE = 1024


def listener(host: str, port: int) -> socket.socket:
    """
    A listening socket whose connections send at once.

    Without TCP_NODELAY a response's head and body, two sends, wait 40 ms for the client's delayed ACK.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=REQUEST_QUEUE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
