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
    │   ├── EncodedBody              415  encoded_body
    │   ├── ExpectationFailed        417  expectation_failed
    │   ├── UpgradeRequired          426  a WebSocket of another version
    │   ├── HeadersTooLarge          431  headers_too_large
    │   ├── UnknownTransferCoding    501  unknown_transfer_coding
    │   ├── BudgetExhausted          429  budget_exhausted
    │   ├── BudgetReserved           429  budget_reserved
    │   ├── BudgetTooSmall           429  budget_too_small
    │   ├── TokensLimited            429  rate_limit_exceeded
    │   ├── NotAllowed               403  what the rules do not allow
    │   │   ├── ModelNotAllowed           model_not_allowed
    │   │   ├── EndpointNotAllowed        endpoint_not_allowed
    │   │   ├── AddressNotAllowed         address_not_allowed
    │   │   ├── ModelNotPriced            model_not_priced
    │   │   └── ModelUndetermined         model_undetermined
    │   ├── ParameterNotAllowed      400  parameter_not_allowed
    │   ├── AmbiguousBody            400  ambiguous_body
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
    │   ├── LogUnavailable           503  log_unavailable
    │   └── SpoolUnavailable         503  spool_unavailable
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
Cause = Literal["dns", "refused", "network", "tls", "timeout", "egress", "hung_up", "other"]

_A = {"minute": "a minute", "hour": "an hour"}

# The official SDKs repeat 401, 429 and 5xx responses unless this header tells them not to.
DO_NOT_RETRY = ("x-should-retry", "false")


class ProxyError(Exception):
    """
    A response of the proxy's own. Never raised itself.

    Attributes:
        token_id, project_id: Whose call it refuses, where admission recognised a token and did not admit it.
        remedy: What the operator can do, where that is to be told in the process's log.
        detail: What happened, for the same log; no caller is told.
        can_be_lifted: Whether an operator's decision would let the call pass, whom its caller may want to ask then.
    """

    remedy = ""
    detail = ""
    can_be_lifted = False
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

    def add_contact(self, contact: str) -> None:
        """Tell the caller whom to ask, where that could help; "" tells nothing."""
        if contact and self.can_be_lifted:
            self.message = f"{self.message} Contact: {contact}"

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
    message = "This proxy forwards neither /v1/organization nor /v1/projects."
    extra_headers = (DO_NOT_RETRY,)


class RateLimited(CallerError):
    """
    The token has used up its window.

    Args:
        limit: Requests allowed per window.
        reset_in_s: Seconds until the next window may begin.
        per: What a window is.
    """

    status, type, code = 429, "requests", "rate_limit_exceeded"

    def __init__(self, *, limit: int, reset_in_s: float, per: str = "hour") -> None:
        wait_s = _whole_seconds(reset_in_s)
        super().__init__(f"This token may make {limit} requests {_A[per]}. Try again in {wait_s} s.")
        self.extra_headers = (
            *_retry_after(reset_in_s),
            ("x-ratelimit-limit-requests", str(limit)),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", f"{wait_s}s"),
        )


class ConcurrencyLimited(CallerError):
    """
    As many of the token's calls run as may at a time, or it holds so much of this process that others would get none.

    Args:
        message: Of what it holds too much.
        token_id, project_id: Whose call it refuses.
    """

    status, type, code = 429, "requests", "concurrency_limit_exceeded"

    def __init__(self, message: str, token_id: str | None = None, project_id: str | None = None) -> None:
        # Drawn, so that those who were refused together do not come back together.
        wait_s = random.uniform(1, 3)  # noqa: S311
        super().__init__(f"{message} Try again in {_whole_seconds(wait_s)} s.")
        self.token_id, self.project_id = token_id, project_id
        self.extra_headers = _retry_after(wait_s)


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


class EncodedBody(CallerError):
    """A compressed body, which must be read."""

    status, code = 415, "encoded_body"
    message = "Send the request body without Content-Encoding: this token's limits depend on what is in it."
    extra_headers = (DO_NOT_RETRY,)


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


class BudgetExhausted(CallerError):
    """What was spent has reached the amount. Nothing passes until the period ends or the amount is raised."""

    status, type, code = 429, "insufficient_quota", "budget_exhausted"
    message = "This token's budget is used up. Wait for its next period, or ask your operator for more."
    can_be_lifted = True
    extra_headers = (DO_NOT_RETRY,)


class BudgetReserved(CallerError):
    """What is left is held by calls that run."""

    status, type, code = 429, "insufficient_quota", "budget_reserved"

    def __init__(self) -> None:
        super().__init__("What is left of this token's budget is held by calls that run. Try again when they end.")
        # Drawn, and long: calls last seconds, and the official SDKs add no jitter to what they are told.
        self.extra_headers = _retry_after(random.uniform(10, 30))  # noqa: S311


class BudgetTooSmall(CallerError):
    """This call alone may cost more than is left, and the budget admits none that may."""

    status, type, code = 429, "insufficient_quota", "budget_too_small"
    message = "This call may cost more than is left of this token's budget. Ask for fewer output tokens."
    can_be_lifted = True
    extra_headers = (DO_NOT_RETRY,)


class TokensLimited(CallerError):
    """
    The tokens of this minute or hour are used up.

    Args:
        limit: Tokens allowed.
        reset_in_s: Seconds until the next one begins.
        per: Minute or hour.
    """

    status, type, code = 429, "tokens", "rate_limit_exceeded"

    def __init__(self, *, limit: int, reset_in_s: float, per: str = "minute") -> None:
        super().__init__(f"This token may use {limit} tokens {_A[per]}. Try again in {_whole_seconds(reset_in_s)} s.")
        self.extra_headers = (
            *_retry_after(reset_in_s),
            ("x-ratelimit-limit-tokens", str(limit)),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", f"{_whole_seconds(reset_in_s)}s"),
        )


class NotAllowed(CallerError):
    """The token's rules, or its project's, do not allow it. Never raised itself; the message says what is allowed."""

    status, type = 403, "permission_error"
    can_be_lifted = True
    extra_headers = (DO_NOT_RETRY,)


class ModelNotAllowed(NotAllowed):
    """A model that the rules do not name."""

    code = "model_not_allowed"
    message = "This token may not use this model."


class EndpointNotAllowed(NotAllowed):
    """An endpoint that the rules do not name, or that nobody knows."""

    code = "endpoint_not_allowed"
    message = "This token may not use this endpoint."


class AddressNotAllowed(NotAllowed):
    """The caller's address is in none of the networks that the rules name."""

    code = "address_not_allowed"
    message = "This token may not be used from this address."


class ModelNotPriced(NotAllowed):
    """Under a budget in dollars: what the call would cost is not known, now or ever."""

    code = "model_not_priced"
    message = "This model has no price, and the token has a budget in dollars. Ask your operator to price it."


class ModelUndetermined(NotAllowed):
    """The model stands nowhere in the request, so nobody can tell whether it is allowed, or what it costs."""

    code = "model_undetermined"
    message = "Name the model in the request: this token's limits depend on it."


class ParameterNotAllowed(CallerError):
    """A parameter that the rules do not allow, or a value of it; `param` names it."""

    code = "parameter_not_allowed"
    message = "This token may not use this parameter."
    can_be_lifted = True
    extra_headers = (DO_NOT_RETRY,)


class AmbiguousBody(CallerError):
    """Another reader might see something else in the body than this proxy does."""

    code = "ambiguous_body"
    message = "The request body must be one JSON object, with each name once."
    extra_headers = (DO_NOT_RETRY,)


class UpstreamError(ProxyError):
    """
    The upstream, or the way to it, failed.

    Attributes:
        upstream: Which, as scheme, host and port; "" where nobody knows.
        cause: Why it could not be reached, or went away.
    """

    status = 502
    outcome: Outcome = "upstream_failed"
    upstream = ""
    cause: Cause = "other"


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


class SpoolUnavailable(Unavailable):
    """A body that must be read before it goes up found no room."""

    code = "spool_unavailable"
    message = "The proxy has no room for this request at the moment. Try again."
    remedy = "Make room on the disk of DATA_DIR, or make it writable: large bodies of tokens with limits wait there."


class ClientGone(ProxyError):
    """The caller hung up. The status is for the record; nobody reads a response."""

    status = 499
    outcome: Outcome = "client_closed"
    message = "The caller hung up."


def _whole_seconds(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))


def _retry_after(wait_s: float) -> tuple[tuple[str, str], ...]:
    return ("retry-after", str(_whole_seconds(wait_s))), ("retry-after-ms", str(max(1, math.ceil(wait_s * 1000))))


def all_codes() -> frozenset[str]:
    """Every code that a response of the proxy's own can have."""
    kinds = [ProxyError]
    for kind in kinds:  # grows while it is walked
        kinds += kind.__subclasses__()
    return frozenset(kind.code for kind in kinds if kind.code)
