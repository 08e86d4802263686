"""Ports for servers that have to be told theirs before they listen, or that listen again on the one they had."""

import itertools
import os
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 1024
# Runs that are side by side pick from ranges of their own: between a pick and its use nobody holds the port.
_RUNS, _PORTS_OF_A_RUN = 20, 1000
_picks = itertools.count()


def free_port() -> int:
    """
    A port of loopback that nobody listens on, and another one each time.

    It lies below those that the system hands out, where there is room: one of them may be the next connection's,
    whoever opens it, before the server listens.
    """
    end = int(_RANGE.read_text().split()[0])
    first = max(_LOWEST, end - _RUNS * _PORTS_OF_A_RUN) + os.getpid() % _RUNS * _PORTS_OF_A_RUN
    while True:
        port = first + next(_picks) % _PORTS_OF_A_RUN
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
