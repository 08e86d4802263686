"""
Whether what the product changes in other libraries, or uses of them without their promise, is still as it was read.

Each library's stands in one module, which names the version it was read in and has a `lost()`: None, or what an
upgrade took away, in words that follow the library's name. A loss would often be silent, so it ends the start.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from importlib.metadata import version

import gevent

from llmproxy import sockets
from llmproxy.telemetry import shared_values
from llmproxy.transport import response
from llmproxy.websocket import usage
from server.boot import CANNOT_BOOT

EXCHANGE_S = 5.0

Check = Callable[[], str | None]


def require(database_url: str, **of_the_server: Check) -> None:
    """
    End the process with one line where an override is lost; before it forks, where it does.

    Args:
        database_url: Of the settings: psycopg is not asked where it is not used.
        of_the_server: What to ask besides, by the library's name.
    """
    checks: dict[str, Check] = {
        "gevent": sockets.lost,
        "prometheus_client": shared_values.lost,
        "requests": response.lost,
        "wsproto": usage.lost,
    }
    if not database_url.startswith("sqlite"):
        from database import postgres

        checks["psycopg"] = postgres.lost
    ask(*checks.items(), *of_the_server.items())


def ask(*checks: tuple[str, Check]) -> None:
    """End the process likewise where one of these tells of a loss in the library that is named beside it."""
    for library, lost in checks:
        if what := _ask(lost):
            print(
                f"not starting: {library} {version(library)} {what}. Install the versions in requirements.txt",
                file=sys.stderr,
            )
            sys.exit(CANNOT_BOOT)


def _ask(lost: Check) -> str | None:
    try:
        return lost()
    except Exception as exc:  # whatever a library makes of being used in a way that it did not promise
        return " ".join(f"fails where it is used beyond its promises ({type(exc).__name__}: {exc})".split())


def exchange(sent: bytes, serve: Callable[[socket.socket], object]) -> bytes:
    """What `serve` answers on a connection that brings these bytes and then ends."""
    client, server = socket.socketpair()
    with client, server:
        client.settimeout(EXCHANGE_S)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        gevent.spawn(serve, server).join(EXCHANGE_S)
        server.close()
        return b"".join(iter(lambda: client.recv(65536), b""))
