"""Ports for servers that have to be told theirs before they listen, or that listen again on the one they had."""

import random
import socket
from pathlib import Path

_given: set[int] = set()
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """
    A port of loopback that nobody listens on, and that nobody else of this process was given.

    It lies below those that the system hands out: one of them may be the next connection's, whoever opens it, before
    the server listens.
    """
    lowest = int(_RANGE.read_text().split()[0])
    while True:
        port = random.randrange(lowest - 20_000, lowest)
        if port in _given:
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        _given.add(port)
        return port
