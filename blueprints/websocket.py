"""
The way through for a WebSocket: admitted as any call when it is opened, a tunnel after that, one record at its end.

handshake → admission → upstream → tunnel → record. An upstream that refuses is passed on as an ordinary response.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus

from blueprints.proxy import Environ, Response, StartResponse, asked_of, checked_request, relayed, respond, send_up
from llmproxy.admission import RuledToken, bearer_of, hash_token, without_prefix
from llmproxy.call import Call
from llmproxy.concealment import concealment_of
from llmproxy.endpoints import RESPONSES, TELLING_SESSIONS, plain_path
from llmproxy.errors import AmbiguousBody, AuthUnavailable, ProxyError
from llmproxy.headers import bearer_in_key_header, endpoint_of, origin_of, request_headers
from llmproxy.holding import Holding
from llmproxy.limits.body.reading import Reading
from llmproxy.limits.judge import NOTHING
from llmproxy.limits.reservations import part_id
from llmproxy.transport.request import UpstreamRequest
from llmproxy.websocket.handshake import bearer_in_subprotocol, check_handshake, headers_down, headers_up, is_upgrade
from llmproxy.websocket.messages import ClientMessages
from llmproxy.websocket.metering import Metering
from llmproxy.websocket.settings import Settings
from llmproxy.websocket.side import Side
from llmproxy.websocket.talk import Talk, Unread
from llmproxy.websocket.tunnel import Messages, Tunnel
from llmproxy.websocket.usage import observe_session
from services import Services


def serves(environ: Environ) -> bool:
    """Whether a request with an Upgrade header is one for a WebSocket."""
    return is_upgrade(environ, endpoint_of(environ["RAW_URI"]))


def forward(parts: Services, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Open one WebSocket and tunnel it; whatever happens, it leaves one record."""
    return respond(parts, environ, _open, asks_for_session=True).send(start_response)


def _open(parts: Services, call: Call, environ: Environ) -> Response:
    check_handshake(environ)
    target, body = checked_request(parts, call, environ)
    authorization = environ.get("HTTP_AUTHORIZATION") or bearer_in_key_header(environ)
    admit = partial(parts.admission.admit, authorization or bearer_in_subprotocol(environ))
    opened = asked_of(parts, call, environ, target)
    holding = token = None
    while isinstance(grant := admit(datetime.now(UTC), is_session=True), RuledToken):
        if admitted := parts.gate.admit_session(grant, opened):
            token, (grant, holding) = grant, admitted
            break
    call.admitted(grant, holding)
    origin = origin_of(grant.base_url or parts.settings.upstream_url)
    api_key = parts.admission.api_key(grant)
    headers = headers_up(
        request_headers(environ["llmproxy.headers"], host=origin.host_header, api_key=api_key),
        api_key,
        has_authorization=authorization is not None,
    )
    if token is not None:  # what is said is read, and what is compressed would have to be undone for it
        headers = [pair for pair in headers if pair[0].lower() != "sec-websocket-extensions"]
    body.hold_if_small()
    conceals = concealment_of(api_key, hides_account=parts.settings.hide_openai_account)
    request = UpstreamRequest(
        call.method, origin, target, call.traced(headers), body, call.guard.guard, conceals=conceals, may_upgrade=True
    )
    response = send_up(parts, call, request)
    if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
        return relayed(call, response, environ, conceals=conceals)
    call.guard.stop()
    if call.guard.ended_by is not None:
        response.raw.close()
        raise call.guard.ended_by

    def admit_response(number: int, said: Reading | None = None, *, is_over: bool = False) -> Holding | None:
        part = opened._replace(request_id=part_id(call.request_id, number))
        # What the upstream begins by itself, the session's settings hold for.
        said = (settings.held if settings else NOTHING) if said is None and talk is not None else said
        while isinstance(ruled := admit(datetime.now(UTC)), RuledToken):
            admitted = parts.gate.admit_response(ruled, part, said, is_over=is_over)
            if admitted is None:  # its last limit has just gone
                continue
            if is_over and talk is None:  # nobody has looked at what led to it
                try:
                    parts.gate.check_message(ruled, opened, None, 0)
                except ProxyError as exc:
                    exc.message = exc.code or exc.message
                    tunnel.refuse_response(exc.with_traceback(None))
            return admitted[1]
        return None

    def check(said: Reading | AmbiguousBody, size: int) -> None:
        assert token is not None and holding is not None  # noqa: S101
        if code := parts.gate.check_message(token, opened, said, size):
            holding.note(code)

    def check_unread() -> None:
        secret = without_prefix(bearer_of(authorization or bearer_in_subprotocol(environ)))
        with suppress(AuthUnavailable):  # an outage is no reason to end what was admitted
            parts.gate.check_unread(hash_token(secret), opened)

    metering = Metering(call, admit_response, lambda: tunnel, is_ruled=token is not None)
    # On Responses each has its own alone.
    settings = Settings() if token is not None and not opened.target.startswith(RESPONSES) else None
    talk = Talk(metering, check, settings) if token is not None else None
    messages: Messages | None = None
    if talk is not None:
        messages = ClientMessages(talk.judge, parts.gate.open_spool)
    elif plain_path(call.endpoint) not in TELLING_SESSIONS:
        messages = Unread(check_unread)
    observer = observe_session(
        response.headers.get("sec-websocket-extensions"), responses=metering, settings=settings
    )
    tunnel = Tunnel(
        call,
        Side(environ["gunicorn.socket"], _early_bytes(environ)),
        Side(*response.raw.take_over()),
        observer=observer,
        stall_s=parts.settings.idle_timeout_s,
        messages=messages,
    )
    call.head_went(response.status_code, observer, cut=tunnel.cut)
    down = headers_down(response.raw.headers, request_id=call.request_id)
    return Response(tunnel, "101 Switching Protocols", down, head_first=True)


def _early_bytes(environ: Environ) -> bytes:
    """What the server has read beyond the handshake: a client may speak before it is answered."""
    # The parser has it, where there is an Upgrade header.
    return bytes(environ["wsgi.input"].reader.unreader.take_buffered())
