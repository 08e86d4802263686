"""One connection of the first run's server, by a socket pair. What it does for callers is tried in `tests/e2e`."""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from server.pywsgi.handler import Handler

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The client's end and the server's."""
    client, ours = socket.socketpair()
    with client, ours:
        yield client, ours


def handle(sock: socket.socket, application: Callable[..., Iterable[bytes]]) -> None:
    address = ("127.0.0.1", 0)
    server: Any = SimpleNamespace(
        application=application, address=address, closed=False, is_leaving=False, parts=None
    )
    Handler(sock, address, server).handle()


def test_a_client_that_leaves_before_its_100_continue_is_nobodys_fault(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    client, ours = pair
    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    client.close()

    handle(ours, lambda *_: pytest.fail("nobody is left to ask"))

    assert caplog.records == []
    assert ours.fileno() < 0


def test_a_failing_disk_is_told_in_the_log_and_ends_the_connection(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    def application(*_: object) -> Iterable[bytes]:
        raise OSError(28, "No space left on device")

    client, ours = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    handle(ours, application)

    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert client.recv(1) == b""


def test_a_fault_before_the_head_is_a_500_in_openais_form(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    client, ours = pair
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    handle(ours, lambda *_: 1 / 0)  # type: ignore[arg-type, return-value]

    answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 500 ") and b'"type":"server_error"' in answer
    (record,) = caplog.records
    assert record.getMessage().split()[1].encode() in answer
