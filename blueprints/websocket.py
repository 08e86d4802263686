"""
The way through for a WebSocket: admitted as any call when it is opened, a tunnel after that, one record at its end.

handshake → admission → upstream → tunnel → record. An upstream that refuses is passed on as an ordinary answer.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, cast

import requests

from blueprints.proxy import (
    Answer,
    Environ,
    StartResponse,
    admit_caller,
    admit_request,
    answer,
    note_answer,
    relayed,
)
from llmproxy.call import Call
from llmproxy.client.guard import HangupWatch
from llmproxy.client.request_body import RequestBody
from llmproxy.errors import ProxyDraining
from llmproxy.headers import endpoint_of, origin_of, request_headers
from llmproxy.observe.usage import UsageObserver
from llmproxy.relay import StreamCut
from llmproxy.transport.answer import UpstreamAnswer
from llmproxy.transport.request import UpstreamRequest
from llmproxy.websocket.handshake import authorization_of, check_handshake, headers_down, headers_up, is_upgrade
from llmproxy.websocket.side import Side
from llmproxy.websocket.tunnel import Tunnel
from llmproxy.websocket.usage import observe_session
from services import Services


def serves(environ: Environ) -> bool:
    """Whether a request with an Upgrade header is one for a WebSocket."""
    return is_upgrade(environ, endpoint_of(environ["RAW_URI"]))


def forward(parts: Services, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Open one WebSocket and tunnel it; whatever happens, it leaves one record."""
    return answer(parts, environ, _open).send(start_response)


def _open(parts: Services, call: Call, watch: HangupWatch, environ: Environ) -> Answer:
    call.is_session = True
    check_handshake(environ)
    target = admit_request(parts, call, watch, environ)
    grant = admit_caller(parts, call, authorization_of(environ))
    if parts.refusing.is_set():  # asked again, for the database takes time, and the others have been closed meanwhile
        raise ProxyDraining
    origin = origin_of(grant.base_url or parts.settings.upstream_url)
    headers = headers_up(
        request_headers(environ["llmproxy.headers"], host=origin.host_header, api_key=grant.api_key),
        grant.api_key,
        has_authorization="HTTP_AUTHORIZATION" in environ,
    )
    if call.span:
        headers = call.span.pass_on(headers)
    body = cast(RequestBody, call.body)
    body.hold_if_small()
    call.asks()
    request = UpstreamRequest(call.method, origin, target, headers, body, watch.guard, may_upgrade=True)
    response = parts.upstream.open(request)
    note_answer(call, watch, response)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        call.is_session = False
        return relayed(call, watch, response, environ)
    watch.stop()
    if watch.ended_by is not None:
        response.raw.close()
        raise watch.ended_by
    return _tunnelled(parts, call, environ, response)


def _tunnelled(parts: Services, call: Call, environ: Environ, response: requests.Response) -> Answer:
    upstream = cast(UpstreamAnswer, response.raw)
    observer = observe_session(response.headers.get("sec-websocket-extensions"))
    tunnel = Tunnel(
        call,
        Side(environ["gunicorn.socket"], _early_bytes(environ)),
        Side(*upstream.take_over()),
        observer=observer,
        stall_s=parts.settings.idle_timeout_s,
    )
    call.cut = tunnel.cut
    down = headers_down(upstream.headers, request_id=call.request_id)
    return Answer(_Session(call, tunnel, observer), "101 Switching Protocols", down, head_first=True)


class _Session:
    """The body of an answer that has none: running it is the tunnel."""

    def __init__(self, call: Call, tunnel: Tunnel, observer: UsageObserver) -> None:
        self._call = call
        self._tunnel = tunnel
        self._observer = observer

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._tunnel.run()
        # So that the server does not look for a next request among what the client sent.
        raise StreamCut

    def close(self) -> None:
        """Write the record."""
        tunnel, call = self._tunnel, self._call
        tunnel.close()
        call.bytes_in, call.bytes_out = tunnel.bytes_in, tunnel.bytes_out
        call.end(tunnel.outcome, status=HTTPStatus.SWITCHING_PROTOCOLS.value, observer=self._observer)


def _early_bytes(environ: Mapping[str, Any]) -> bytes:
    """What the server has read beyond the handshake: a client may speak before it is answered."""
    source = environ["wsgi.input"]
    if unreader := getattr(getattr(source, "reader", None), "unreader", None):  # gunicorn's
        return bytes(unreader.take_buffered())
    if not isinstance(source, io.BufferedReader):
        return b""
    # gevent's, where there is an Upgrade header. A look into its buffer reads when that is empty; it must not wait.
    client = environ["gunicorn.socket"]
    timeout_s = client.gettimeout()
    client.settimeout(0)
    early = source.read1(len(source.peek()))
    client.settimeout(timeout_s)
    return early
