"""
What can go wrong, as one tree. Each class says whose fault it is, its status, its type and its stable code.

    ProxyError
    ├── CallerError                  the caller must change something
    │   ├── MissingBearer            401
    │   ├── UnknownToken             401  invalid_api_key
    │   ├── TokenExpired             401  token_expired
    │   ├── TokenRevoked             401  token_revoked
    │   ├── ProjectInactive          403  project_inactive
    │   ├── OrganizationRefused      403  organization_refused
    │   ├── RateLimited              429  rate_limit_exceeded
    │   ├── ConcurrencyLimited       429  concurrency_limit_exceeded
    │   ├── MethodRefused            405
    │   ├── BodyTooSlow              408  request_timeout
    │   ├── BodyTooLarge             413  request_too_large
    │   ├── RequestLineTooLong       414  request_line_too_long
    │   ├── ExpectationFailed        417  expectation_failed
    │   ├── UpgradeRequired          426  a WebSocket of another version
    │   ├── HeadersTooLarge          431  headers_too_large
    │   ├── UnknownTransferCoding    501  unknown_transfer_coding
    │   └── BadRequest               400  no HTTP, unroutable, or a body that cannot be read
    ├── UpstreamError                the upstream, or the way to it
    │   ├── UpstreamAuthFailed       502  upstream_auth_failed
    │   ├── UpstreamEchoedKey        502  upstream_echoed_key
    │   ├── UpstreamUnreachable      502  upstream_unreachable
    │   ├── EgressRefused            502  egress_refused
    │   └── UpstreamTimeout          504  upstream_timeout
    ├── Unavailable                  this proxy, for now
    │   ├── AuthUnavailable          503  auth_unavailable
    │   │   ├── KeyUnreadable        503  auth_unavailable
    │   │   └── UpstreamNotAllowed   503  auth_unavailable
    │   ├── ProxyDraining            503  proxy_draining
    │   └── LogUnavailable           503  log_unavailable
    └── ClientGone                   499  nobody is left to answer; only a record says so

A message tells the caller what to do. It never holds a token, a key or a text from elsewhere.
"""

from __future__ import annotations

import math
import random
from http import HTTPStatus
from typing import Literal

import orjson

Outcome = Literal["complete", "refused", "client_closed", "upstream_failed", "upstream_timeout"]

# The official SDKs repeat 401, 429 and 5xx responses unless this header tells them not to.
DO_NOT_RETRY = ("x-should-retry", "false")


class ProxyError(Exception):
    """
    A response of the proxy's own. Never raised itself.

    Attributes:
        token_id, project_id: Whose call it refuses, where admission recognised a token and did not admit it.
        remedy: What the operator can do, where that is to be told in the process's log.
        detail: What happened, for the same log; no caller is told.
    """

    remedy = ""
    detail = ""
    token_id: str | None = None
    project_id: str | None = None
    status = 500
    type = "server_error"
    code: str | None = None
    message = "The proxy failed."
    outcome: Outcome = "refused"
    extra_headers: tuple[tuple[str, str], ...] = ()

    def __init__(self, message: str | None = None, *, param: str | None = None) -> None:
        if message is not None:
            self.message = message
        self.param = param
        super().__init__(self.message)

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The response's body as OpenAI's clients know it."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self, request_id: str) -> tuple[str, list[tuple[str, str]], bytes]:
        """The status line behind the version, the headers and the body; `request_id` is the call's."""
        phrase = "Client Closed Request" if self.status == ClientGone.status else HTTPStatus(self.status).phrase
        body = orjson.dumps(self.body)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-request-id", request_id),
            ("x-proxy-request-id", request_id),
            *self.extra_headers,
        ]
        return f"{self.status} {phrase}", headers, body


class CallerError(ProxyError):
    """The caller must change something before asking again."""

    status = 400
    type = "invalid_request_error"


class MissingBearer(CallerError):
    """No `Authorization: Bearer …`, or not in that form."""

    status = 401
    message = "Send your proxy token in the header `Authorization: Bearer <token>`."
    extra_headers = (("www-authenticate", "Bearer"),)


class UnknownToken(CallerError):
    """The token was never given out, or was deleted."""

    status, code = 401, "invalid_api_key"
    message = "This token is not known to the proxy. Check it, or ask your operator for a new one."
    extra_headers = (DO_NOT_RETRY,)


class TokenExpired(CallerError):
    """The end date has passed."""

    status, code = 401, "token_expired"
    message = "This token has expired. Ask your operator for a new one."
    extra_headers = (DO_NOT_RETRY,)


class TokenRevoked(CallerError):
    """An operator took the token back."""

    status, code = 401, "token_revoked"
    message = "This token was revoked. Ask your operator for a new one."
    extra_headers = (DO_NOT_RETRY,)


class ProjectInactive(CallerError):
    """The token's project is switched off."""

    status, type, code = 403, "permission_error", "project_inactive"
    message = "The project of this token is switched off. Ask your operator to switch it on."
    extra_headers = (DO_NOT_RETRY,)


class OrganizationRefused(CallerError):
    """Administration of the upstream's organization, which no withering token is for."""

    status, type, code = 403, "permission_error", "organization_refused"
    message = "This proxy does not forward /v1/organization."
    extra_headers = (DO_NOT_RETRY,)


class RateLimited(CallerError):
    """
    The token has used up its window.

    Args:
        limit: Requests allowed per window.
        reset_in_s: Seconds until the next window may begin.
    """

    status, type, code = 429, "requests", "rate_limit_exceeded"

    def __init__(self, *, limit: int, reset_in_s: float) -> None:
        wait_s = max(1, math.ceil(reset_in_s))
        super().__init__(f"This token may make {limit} requests an hour. Try again in {wait_s} s.")
        self.extra_headers = (
            ("retry-after", str(wait_s)),
            ("retry-after-ms", str(max(1, math.ceil(reset_in_s * 1000)))),
            ("x-ratelimit-limit-requests", str(limit)),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", f"{wait_s}s"),
        )


class ConcurrencyLimited(CallerError):
    """
    The token holds so much of this process that others would get none.

    Args:
        message: Of what it holds too much.
        token_id, project_id: Whose call it refuses.
    """

    status, type, code = 429, "requests", "concurrency_limit_exceeded"

    def __init__(self, message: str, token_id: str, project_id: str) -> None:
        # Drawn, so that those who were refused together do not come back together.
        wait_s = random.uniform(1, 3)  # noqa: S311
        super().__init__(f"{message} Try again in {math.ceil(wait_s)} s.")
        self.token_id, self.project_id = token_id, project_id
        self.extra_headers = (
            ("retry-after", str(math.ceil(wait_s))),
            ("retry-after-ms", str(math.ceil(wait_s * 1000))),
        )


class MethodRefused(CallerError):
    """CONNECT, which asks for a tunnel, or TRACE and its like, whose response would show the project's key."""

    status = 405
    message = "This method is not forwarded."
    extra_headers = (("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)


class BodyTooSlow(CallerError):
    """The request body came more slowly than MIN_BODY_RATE allows."""

    status, code = 408, "request_timeout"
    message = "The request body came too slowly. Try again."


class BodyTooLarge(CallerError):
    """The request body is over MAX_BODY_BYTES."""

    status, code = 413, "request_too_large"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"The request body is over the limit of {limit} bytes.")


class RequestLineTooLong(CallerError):
    """The request line is longer than the server reads."""

    status, code = 414, "request_line_too_long"
    message = "The request line is too long. Send a shorter path or query."


class ExpectationFailed(CallerError):
    """An `Expect` of something but `100-continue` (RFC 9110 section 10.1.1)."""

    status, code = 417, "expectation_failed"
    message = "Of `Expect`, only `100-continue` is known."


class HeadersTooLarge(CallerError):
    """More or longer headers than the server reads."""

    status, code = 431, "headers_too_large"
    message = "There are too many headers, or one of them is too long."


class UnknownTransferCoding(CallerError):
    """A body in a transfer coding that nobody knows (RFC 9112 section 6.1)."""

    status, code = 501, "unknown_transfer_coding"
    message = "Of `Transfer-Encoding`, only `chunked` is known."
    extra_headers = (DO_NOT_RETRY,)


class BadRequest(CallerError):
    """A head that is no HTTP, a target that leads out of `/v1/`, or a body that does not keep to its framing."""

    message = "The request cannot be forwarded."


class UpgradeRequired(CallerError):
    """A WebSocket's handshake of a version that nobody speaks (RFC 6455 section 4.2.2)."""

    status = 426
    message = "WebSockets are spoken in version 13: send `Sec-WebSocket-Version: 13`."
    extra_headers = (("sec-websocket-version", "13"),)


class UpstreamError(ProxyError):
    """The upstream, or the way to it, failed."""

    status = 502
    outcome: Outcome = "upstream_failed"


class UpstreamAuthFailed(UpstreamError):
    """The upstream refused the project's key with a 401."""

    code = "upstream_auth_failed"
    message = "The upstream refused the project's API key. Your operator must replace it."
    remedy = "Enter a good key for the project, on /admin/ or by PATCH /manage/projects/<id>."
    extra_headers = (DO_NOT_RETRY,)


class UpstreamEchoedKey(UpstreamError):
    """The upstream's error holds the project's key where it cannot be masked: it is compressed."""

    code = "upstream_echoed_key"
    message = "The upstream's error is not passed on, because it shows the project's API key. Tell your operator."
    remedy = "Find out why the upstream, or a gateway before it, repeats the key in its errors; replace the key."
    extra_headers = (DO_NOT_RETRY,)


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke before a response."""

    code = "upstream_unreachable"
    message = "The upstream could not be reached, or hung up before it answered. Try again."
    remedy = "Try it on /admin/health; look at its status page, the base_url, name servers, certificates."


class EgressRefused(UpstreamError):
    """An egress proxy lets nobody through to the upstream, or not with its credentials."""

    code = "egress_refused"
    message = "A proxy on the way to the upstream refused to connect there. Your operator must allow it."
    remedy = "Let that proxy pass the upstream's host and port, or name the host in NO_PROXY."
    extra_headers = (DO_NOT_RETRY,)


class UpstreamTimeout(UpstreamError):
    """No connection, no first byte or no further byte in time."""

    status, code = 504, "upstream_timeout"
    outcome: Outcome = "upstream_timeout"
    message = "The upstream did not answer in time. Try again."
    remedy = "Try it on /admin/health; CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT and IDLE_TIMEOUT bound the waiting."


class Unavailable(ProxyError):
    """This proxy cannot decide or serve for now; the token may well be good."""

    status, type = 503, "service_unavailable_error"
    extra_headers: tuple[tuple[str, str], ...] = (("retry-after", "1"),)


class AuthUnavailable(Unavailable):
    """The database does not answer, so nobody can be admitted."""

    code = "auth_unavailable"
    message = "The proxy cannot check tokens at the moment. Keep yours and try again."
    remedy = "Is the database up, reachable, out of connections, its disk full? docs/operations.md has more."


class KeyUnreadable(AuthUnavailable):
    """Nothing on the key ring opens the project's upstream key."""

    message = "The proxy cannot open this project's API key. Tell your operator."
    remedy = "Put the encryption key that sealed it on ENCRYPTION_KEY, or enter the project's upstream key again."


class UpstreamNotAllowed(AuthUnavailable):
    """The project's upstream is none of those that its key may be sent to."""

    message = "The upstream of this project is not allowed. Tell your operator."
    remedy = "List the host of the project's base_url in UPSTREAM_ALLOWED_HOSTS, or give it another."


class ProxyDraining(Unavailable):
    """This process is about to stop."""

    code = "proxy_draining"
    message = "This proxy is shutting down. Try again."


class LogUnavailable(Unavailable):
    """LOG_STRICT is on and a record could not be written."""

    code = "log_unavailable"
    message = "The proxy cannot record calls at the moment, and is set to refuse them then. Try again."
    remedy = "Make room on the disk of DATA_DIR, or make it writable; LOG_STRICT=off lets calls go unrecorded."


class ClientGone(ProxyError):
    """The caller hung up. The status is for the record; nobody reads a response."""

    status = 499
    outcome: Outcome = "client_closed"
    message = "The caller hung up."


def all_codes() -> frozenset[str]:
    """Every code that a response of the proxy's own can have."""
    kinds = [ProxyError]
    for kind in kinds:  # grows while it is walked
        kinds += kind.__subclasses__()
    return frozenset(kind.code for kind in kinds if kind.code)
