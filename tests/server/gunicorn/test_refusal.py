"""What is recorded of a request that gunicorn's parser refuses. What its client is told is in `tests/security`."""

import socket
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from gunicorn.http.errors import ParseException

from llmproxy.api_log.record import CallRecord
from llmproxy.client.address import ClientAddress
from server.gunicorn import refusal
from server.gunicorn.exchange import next_request, parser_of

PEER = ("192.0.2.1", 50000)
SECRET = "ff007f3f-a9cc-4c71-8f68-9b8bd909368a"


def record_of(sent: bytes, *, logs_addresses: bool = True) -> CallRecord:
    """The record of these bytes, which are no request."""
    log, (client, ours) = Mock(), socket.socketpair()
    settings = SimpleNamespace(log_client_address=logs_addresses)
    parts: Any = SimpleNamespace(log=log, live=Mock(), settings=settings, client_address=ClientAddress())
    with client, ours:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ParseException) as error:
            next_request(parser_of(ours, PEER))
        refusal.tell(parts, ours, PEER, error.value)
    (record,) = log.write_refusal.call_args.args
    return record


@pytest.mark.parametrize(
    ("sent", "method", "endpoint"),
    [
        (b"POST /v1/files?a=b HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", "POST", "/v1/files"),
        (b"GET http://u:p@x/v1/files HTTP/1.1\r\nX: a\rb\r\n\r\n", "GET", "/v1/files"),
        (b"GET /v1/models HTTP/1.1\r\nX: " + 9000 * b"a" + b"\r\n\r\n", "GET", "/v1/models"),
        (b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: x, chunked\r\n\r\n", "POST", "/v1/x"),
        (b"POST /v1/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "POST", "/v1/x"),
    ],
)
def test_method_and_path_are_those_of_the_request_line(sent: bytes, method: str, endpoint: str) -> None:
    record = record_of(sent)

    assert (record.method, record.endpoint, record.client_address) == (method, endpoint, PEER[0])


@pytest.mark.parametrize("line", ["%s", "GET %s HTTP/9.9", "%s /v1/models HTTP/1.1", "GET /v1/models %s", "GET %s"])
def test_nothing_is_recorded_of_a_request_line_that_is_none(line: str) -> None:
    record = record_of((line % SECRET).encode() + b"\r\nHost: x\r\n\r\n")

    assert (record.method, record.endpoint) == ("", "")
    assert SECRET not in record.to_line().decode()


def test_no_address_is_recorded_where_none_is_wanted() -> None:
    assert record_of(b"GET\r\n\r\n", logs_addresses=False).client_address is None
