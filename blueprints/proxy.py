"""
The way through: any method on `/v1/*`, forwarded with the project's key in place of the token.

bearer → admission → headers → upstream → relay → record. A refusal at any of these is told in OpenAI's form, and
recorded like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from typing import Any, Protocol

from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from gevent import GreenletExit
from werkzeug.routing import Rule

from llmproxy.admission import Grant, RuledToken
from llmproxy.call import Call
from llmproxy.client.guard import CallGuard
from llmproxy.client.interim import send_interim
from llmproxy.client.request_body import HELD_BYTES, RequestBody
from llmproxy.client.upload_pace import PacedStream
from llmproxy.concealment import BodyMask, Concealment, concealment_of
from llmproxy.endpoints import CHAT, COMPLETIONS, MODELS, plain_path
from llmproxy.errors import (
    BadRequest,
    LogUnavailable,
    MethodRefused,
    ProxyDraining,
    ProxyError,
    UpstreamAuthFailed,
    UpstreamEchoedKey,
)
from llmproxy.gate import Asked
from llmproxy.headers import (
    Headers,
    bearer_in_key_header,
    endpoint_of,
    origin_of,
    permitted_target,
    request_headers,
    response_headers,
    with_header,
)
from llmproxy.holding import Holding
from llmproxy.limits.choosing_headers import choosing_header
from llmproxy.limits.model_list import ModelListFilter
from llmproxy.observe.asked_usage import UsageChunkFilter, ask_for_usage
from llmproxy.observe.decoding import decoded, is_identity
from llmproxy.observe.usage import observe
from llmproxy.relay import Filter, RawResponse, Relay
from llmproxy.statuses import BAD_REQUEST, UNAUTHORIZED
from llmproxy.telemetry import outages, tracing
from llmproxy.transport.request import UpstreamRequest
from llmproxy.transport.response import UpstreamResponse
from services import Services

# To ask for usage the body must be read as a whole; a larger one goes up as it is, and its usage stays unknown.
MAX_ASKING_BODY_BYTES = 4 * 1024 * 1024

# What is looked into of a compressed error: more than any has, and little to hold.
HELD_ERROR_BYTES = 64 * 1024

MAX_USER_AGENT_CHARS = 200

# Asking for less than a response that is made anew.
_FOR_SOME_OF_IT = frozenset({"range", "if-range", "if-none-match", "if-modified-since"})

# More than any body has; Python refuses to read thousands of them.
MAX_LENGTH_DIGITS = 20

# The response to TRACE shows the request, which bears the project's key, as some servers' to TRACK and DEBUG does;
# CONNECT asks for a tunnel.
REFUSED_METHODS = frozenset({"CONNECT", "DEBUG", "TRACE", "TRACK"})

# What proxies in front tell of the way a request came.
FROM_A_PROXY = ("HTTP_VIA", "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
# nginx gathers a response until its buffers are full, unless it is told not to; events are for at once.
UNBUFFERED = ("X-Accel-Buffering", "no")

bp = Blueprint("proxy", __name__)

Environ = Mapping[str, Any]
# PEP 3333's start_response, which returns a function that writes.
StartResponse = Callable[[str, Headers], Callable[[bytes], object]]
ForwardCall = Callable[[Services, Call, Environ], "Response"]


@bp.record
def _list_the_route(state: BlueprintSetupState) -> None:
    # For whoever asks which routes there are: `serves` decides, before Flask looks at any.
    state.app.url_map.add(Rule("/v1/<path:rest>", endpoint=f"{bp.name}.forward", methods=None))


def serves(path: str) -> bool:
    """Whether a WSGI path is forwarded. Leading slashes count as one, as they do for every other route."""
    return path.startswith("/v1/") or path.lstrip("/").startswith("v1/")


class Body(Protocol):
    """What a server iterates over, and closes whatever happened. Its end is the call's end."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None:
        """End the call. Further calls do nothing."""


@dataclass(slots=True)
class Response:
    """
    A status line, headers and a body, given to the server as they are.

    Attributes:
        head_first: Send the head now, though the body's first bytes are still to come.
    """

    body: Body
    status: str
    headers: Headers
    head_first: bool = False

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Send the head; the body is left to the server."""
        try:
            write = start_response(self.status, self.headers)
            if self.head_first:
                write(b"")
        except BaseException:
            # The server has not seen the body yet, so nobody else would end the call.
            self.body.close()
            raise
        return self.body


def forward(parts: Services, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """
    Forward one request; whatever happens, it leaves one record.

    A WSGI application of its own: nothing that Flask wraps around a request is for calls that are passed on as
    they are, and it costs as much as the claim.
    """
    return respond(parts, environ, _forward).send(start_response)


def respond(
    parts: Services, environ: Environ, forward_call: ForwardCall, *, asks_for_session: bool = False
) -> Response:
    """The response to a call that `forward_call` forwards, or why it does not."""
    tells_caller = parts.settings.log_client_address
    call = Call(
        environ["REQUEST_METHOD"],
        endpoint_of(environ["RAW_URI"]),
        log=parts.log,
        live=parts.live,
        guard=CallGuard(environ.get("gunicorn.socket")),
        prices=parts.prices,
        span=tracing.begin(environ),
        asks_for_session=asks_for_session,
        client_address=parts.client_address(environ) if tells_caller else None,
        user_agent=environ.get("HTTP_USER_AGENT", "")[:MAX_USER_AGENT_CHARS] or None if tells_caller else None,
    )
    try:
        return forward_call(parts, call, environ)
    except ProxyError as exc:
        # This frame is in its traceback: left so, all of the call would lie about until the collector comes.
        reason = exc.with_traceback(None)
    except GreenletExit:
        # The process ends, and this has outlasted every cut. There is still time for words, and for the record.
        reason = ProxyDraining()
    except Exception as exc:
        # A fault of ours must not cost the caller its response, nor the operator the record.
        outages.broke("forwarding failed", exc, request_id=call.request_id)
        reason = ProxyError()
    call.guard.stop()
    return _refuse(call, call.guard.ended_by or reason)


def _forward(parts: Services, call: Call, environ: Environ) -> Response:
    target, body = checked_request(parts, call, environ)
    grant, holding = _admitted(parts, call, environ, target, body)
    call.admitted(grant, holding)
    origin = origin_of(grant.base_url or parts.settings.upstream_url)
    api_key = parts.admission.api_key(grant)
    headers = call.traced(request_headers(environ["llmproxy.headers"], host=origin.host_header, api_key=api_key))
    wants_usage = grant.stream_usage == "ask" or (holding is not None and holding.asks_for_usage)
    asked = wants_usage and _may_be_asked(call.endpoint) and _ask_for_usage(parts, grant, body)
    lists_models = _lists_models(call, holding)
    if asked or lists_models:  # what is compressed cannot be taken apart
        headers = with_header(headers, "Accept-Encoding", "identity")
    if lists_models:  # nor can a piece; and what a client kept may be of other rules
        headers = [pair for pair in headers if pair[0].lower() not in _FOR_SOME_OF_IT]
    body.hold_if_small()
    if not body.has_arrived:
        call.guard.watch_sending_client()
    client = None if _is_1_0(environ) else environ.get("gunicorn.socket")
    on_interim = partial(send_interim, client) if client else None
    conceals = concealment_of(api_key, hides_account=parts.settings.hide_openai_account)
    request = UpstreamRequest(
        call.method, origin, target, headers, body, call.guard.guard, on_interim, conceals=conceals
    )
    response = send_up(parts, call, request)
    body.let_go()
    return relayed(call, response, environ, conceals=conceals, asked=asked, holding=holding)


def _admitted(
    parts: Services, call: Call, environ: Environ, target: str, body: RequestBody
) -> tuple[Grant, Holding | None]:
    authorization = environ.get("HTTP_AUTHORIZATION") or bearer_in_key_header(environ)
    # What is certain of a token refuses its call before a body is asked for, or read that takes its time.
    is_small = body.length is not None and body.length <= HELD_BYTES and "HTTP_EXPECT" not in environ
    token = parts.admission.admit(authorization, datetime.now(UTC), remembers=is_small)
    # Again, where what was remembered admits it not, and where its last limit has gone while it was judged.
    while isinstance(token, RuledToken):
        admit = parts.gate.admit_again if token.is_remembered else parts.gate.admit
        if (admitted := admit(token, asked_of(parts, call, environ, target), body)) is not None:
            return admitted
        token = parts.admission.admit(authorization, datetime.now(UTC))
    return token, None


def asked_of(parts: Services, call: Call, environ: Environ, target: str) -> Asked:
    """A call's head, for the gate."""
    return Asked(
        call.request_id,
        call.method,
        target,
        parts.client_address(environ),
        environ.get("CONTENT_TYPE", ""),
        environ.get("HTTP_CONTENT_ENCODING", ""),
        choosing_header(environ["llmproxy.headers"]),
    )


def checked_request(parts: Services, call: Call, environ: Environ) -> tuple[str, RequestBody]:
    """
    The target to forward to, and the body, of which nothing has been read.

    Raises:
        MethodRefused, BadRequest, OrganizationRefused, BodyTooLarge: it may not be forwarded, whoever asks.
        ProxyDraining, LogUnavailable: this process takes no calls.
    """
    if call.method in REFUSED_METHODS:
        raise MethodRefused
    if "HTTP_HOST" not in environ and environ["SERVER_PROTOCOL"] == "HTTP/1.1":
        raise BadRequest("A request of HTTP/1.1 must have a Host header.")  # RFC 9112 section 3.2
    target = permitted_target(
        environ["RAW_URI"],
        environ.get("HTTP_HOST"),
        allows_organization=parts.settings.allow_organization_routes,
    )
    if parts.refusing.is_set():
        raise ProxyDraining
    stream = environ["wsgi.input"]
    if not isinstance(stream, BytesIO):  # else all of it came with the head, and nobody waits for it
        stream = PacedStream(stream, parts.upload_pace, call.guard)
    body = RequestBody(
        stream,
        length=_body_length(environ),
        max_bytes=parts.settings.max_body_bytes,
        is_announced="CONTENT_LENGTH" in environ,
        client_is_gone=call.guard.client_is_gone,
        on_end=call.guard.watch_client,
    )
    call.reads(body)
    if parts.settings.log_strict and not parts.log.can_write():
        raise LogUnavailable
    return target, body


def _body_length(environ: Environ) -> int | None:
    """The request body's length: None when it is chunked, 0 when there is none. Raises BadRequest."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    raw = environ.get("CONTENT_LENGTH") or "0"
    if not (raw.isascii() and raw.isdigit()) or len(raw) > MAX_LENGTH_DIGITS:
        raise BadRequest("Content-Length must be a whole number.")
    return int(raw)


def _is_1_0(environ: Environ) -> bool:
    return bool(environ["SERVER_PROTOCOL"] == "HTTP/1.0")


def _may_be_asked(endpoint: str) -> bool:
    """Whether streams of an endpoint tell their usage when they are asked to."""
    return plain_path(endpoint) in (CHAT, COMPLETIONS)


def _ask_for_usage(parts: Services, grant: Grant, body: RequestBody) -> bool:
    """Ask for a stream's usage where its caller did not; True when it is to be taken out again."""
    size = MAX_ASKING_BODY_BYTES if body.length is None else body.length
    if body.length is None and body.gather(HELD_BYTES):
        pass  # chunked, and small
    elif size <= HELD_BYTES:
        body.hold_if_small()
    elif size <= MAX_ASKING_BODY_BYTES and (room := parts.held_bodies.lend(grant.token_id, size)):
        body.hold_in(room, MAX_ASKING_BODY_BYTES)
    changed = ask_for_usage(body.held) if body.held else None
    if changed is None:
        return False
    body.held = changed
    return True


def send_up(parts: Services, call: Call, request: UpstreamRequest) -> UpstreamResponse:
    """
    The upstream's response, its body unread.

    Raises:
        UpstreamAuthFailed, UpstreamEchoedKey: it speaks of the operator's key.
        ProxyError: what `Upstream.open` does.
    """
    call.sent_up(request.conceals)
    try:
        response = parts.upstream.open(request)
    except ProxyError:
        if not call.guard.has_upstream:
            call.never_left()
        raise
    call.head_came(response.status_code, response.headers.get("x-request-id"))
    if response.status_code == UNAUTHORIZED:
        # It speaks of the operator's key; told to the caller it would cost a good token.
        call.guard.stop()
        response.raw.close()
        raise UpstreamAuthFailed
    if response.status_code >= BAD_REQUEST and _shows_key_compressed(response, request.conceals):
        call.guard.stop()
        response.raw.close()
        raise UpstreamEchoedKey
    return response


def _shows_key_compressed(response: UpstreamResponse, conceals: Concealment) -> bool:
    """Whether an error holds the key where that cannot be masked."""
    encoding = response.headers.get("content-encoding")
    if not conceals.has_key or encoding is None or is_identity(encoding):
        return False
    return conceals.is_in_pieces(decoded(encoding, response.raw.hold(HELD_ERROR_BYTES)))


def relayed(
    call: Call,
    response: UpstreamResponse,
    environ: Environ,
    *,
    conceals: Concealment,
    asked: bool = False,
    holding: Holding | None = None,
) -> Response:
    """
    The upstream's response as the client gets it.

    Args:
        asked: It holds usage that the client did not ask for.
        holding: What the call holds of budgets, of which the client is told.
    """
    raw: RawResponse = response.raw
    headers = response.headers
    observer = observe(
        call.endpoint,
        method=call.method,
        status=response.status_code,
        content_type=headers.get("content-type"),
        content_encoding=headers.get("content-encoding"),
        seen=holding.events if holding else None,
    )
    # What is called otherwise may be a stream all the same, unless it has a length.
    may_stream = observer.is_stream or "content-length" not in headers
    is_error = response.status_code >= BAD_REQUEST
    hides_usage = asked and may_stream and not is_error and "content-encoding" not in headers
    body_filter: Filter | None = None
    if is_error:
        body_filter = _key_mask(response, conceals)
    elif hides_usage:
        body_filter = UsageChunkFilter()
    elif holding and _lists_models(call, holding):
        body_filter = ModelListFilter(holding.allows)
    is_changed = body_filter is not None and not is_error
    relay = Relay(
        call,
        raw,
        observer=observer,
        on_cut=call.guard.reset_client if _is_1_0(environ) else None,
        body_filter=body_filter,
        trailers=None if is_changed else environ["llmproxy.trailers"],  # a checksum would not fit
        sender=environ["llmproxy.sender"],
    )
    down = response_headers(raw.headers, request_id=call.request_id)
    if is_changed:
        # A list comes down as plain JSON whatever came; what hides usage has no encoding.
        down = [pair for pair in down if pair[0].lower() not in ("content-length", "content-encoding")]
    if observer.is_stream and "x-accel-buffering" not in headers and any(name in environ for name in FROM_A_PROXY):
        down.append(UNBUFFERED)
    if holding:
        down += holding.headers()
    status = f"{response.status_code} {response.reason or ''}"
    call.head_went(response.status_code, observer)
    # A client of a stream wants the head at once; a small response had better leave in one packet.
    head_first = not raw.has_body_bytes()
    if head_first:
        raw.let_go_of_head()
    return Response(relay, status, down, head_first=head_first)


def _lists_models(call: Call, holding: Holding | None) -> bool:
    """Whether it asks for the list of models, and may not use all of them."""
    if holding is None or not holding.restricts_models:
        return False
    return call.method == "GET" and plain_path(call.endpoint) == MODELS


def _key_mask(response: UpstreamResponse, conceals: Concealment) -> BodyMask | None:
    """For an error that is not compressed: where upstreams and gateways repeat what they were sent."""
    is_plain = is_identity(response.headers.get("content-encoding"))
    return conceals.body_mask() if conceals.has_key and is_plain else None


class _Refusal:
    """The body of a refusal."""

    def __init__(self, call: Call, reason: ProxyError, body: bytes) -> None:
        self._call: Call | None = call
        self._reason = reason
        self._pieces = iter((body,) if body else ())
        self._bytes_out = 0

    def __iter__(self) -> _Refusal:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self._bytes_out += len(piece)
        return piece

    def close(self) -> None:
        """End the call. Further calls do nothing."""
        call, self._call = self._call, None
        if call is not None:
            call.end(self._reason, bytes_out=self._bytes_out)


def _refuse(call: Call, reason: ProxyError) -> Response:
    """The response to a call that gets none from the upstream."""
    status, headers, body = reason.response(call.request_id)
    return Response(_Refusal(call, reason, b"" if call.method == "HEAD" else body), status, headers)
