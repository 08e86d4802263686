"""What a failed call's record means, in a sentence, and the operator's way out. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, NamedTuple

from llmproxy.api_log.read_record import ReadRecord

Place = Literal["token", "project", "new_token", "health"]


class Advice(NamedTuple):
    """
    Attributes:
        what: Happened.
        remedy: What can be done about it, and by whom.
        place: The page where it is done, and `action`, what is done there; None where it is done elsewhere.
    """

    what: str
    remedy: str
    place: Place | None = None
    action: str = ""


# By the codes of the proxy's own errors; see `llmproxy.errors`.
_OURS = {
    "invalid_api_key": Advice(
        "The caller's secret belongs to no token.",
        "It was mistyped, or its token was deleted. Give the caller a new one.",
        "new_token",
        "Issue a token",
    ),
    "token_expired": Advice(
        "The token had expired.", "It does not come back: give its holder a new one.", "new_token", "Issue a token"
    ),
    "token_revoked": Advice(
        "The token was revoked.", "It does not come back: give its holder a new one.", "new_token", "Issue a token"
    ),
    "project_inactive": Advice(
        "The token's project was switched off.",
        "Its tokens work again when it is switched on.",
        "project",
        "Look at the project",
    ),
    "organization_refused": Advice(
        "The caller asked for the administration of the upstream's organization.",
        "No token is for that. Do it with the upstream's own keys.",
    ),
    "rate_limit_exceeded": Advice(
        "The token had made all the requests, or used all the LLM tokens, that it may for now.",
        "See whether the caller loops; if it needs more, raise the limit.",
        "token",
        "Raise the limit",
    ),
    "concurrency_limit_exceeded": Advice(
        "The token held so much of a worker that others would have got nothing.",
        "Have the caller end what it does not read, or give its parts tokens of their own.",
        "token",
        "Look at the token",
    ),
    "budget_exhausted": Advice(
        "What the token may spend was spent.",
        "Nothing passes until the budget's period ends, or its amount is raised.",
        "token",
        "Look at the token",
    ),
    "budget_reserved": Advice(
        "What was left of the budget was held by calls that ran.",
        "The caller's next try comes later, when they have ended; a larger budget holds more of them at once.",
        "token",
        "Look at the token",
    ),
    "budget_too_small": Advice(
        "The call alone might have cost more than was left of the budget.",
        "Have the caller ask for fewer output tokens, or raise the budget.",
        "token",
        "Look at the token",
    ),
    "model_not_allowed": Advice(
        "The token's rules, or its project's, do not name this model.",
        "Have the caller use another one, or allow it.",
        "token",
        "Look at the token",
    ),
    "endpoint_not_allowed": Advice(
        "The token's rules, or its project's, do not name this endpoint.",
        "See what the caller wants there, and allow it if that is well.",
        "token",
        "Look at the token",
    ),
    "address_not_allowed": Advice(
        "The call came from an address that the rules do not name.",
        "See whose address it is: the token may have leaked. If it is the caller's, allow its network.",
        "token",
        "Look at the token",
    ),
    "model_not_priced": Advice(
        "The model has no price, and the token a budget in dollars.",
        "Price the model in PRICES_FILE, or have the caller use one that has a price.",
        "token",
        "Look at the token",
    ),
    "model_undetermined": Advice(
        "The request named no model, and the token's limits depend on it.",
        "Have the caller name the model in the request.",
    ),
    "parameter_not_allowed": Advice(
        "The rules do not allow a parameter of the request, or its value.",
        "The response named it. Have the caller leave it out, or allow it.",
        "token",
        "Look at the token",
    ),
    "ambiguous_body": Advice(
        "Others might have read the request's body otherwise than the proxy did.",
        "Have the caller send one JSON object, with each name once.",
    ),
    "encoded_body": Advice(
        "The request's body was compressed, and the token's limits depend on what is in it.",
        "Have the caller send it without Content-Encoding.",
    ),
    "request_timeout": Advice(
        "The request's body came too slowly.",
        "The caller's network is slow or broke off; MIN_BODY_RATE says how slow is too slow.",
    ),
    "request_too_large": Advice(
        "The request's body was too large.", "Have the caller send less, or raise MAX_BODY_BYTES."
    ),
    "request_line_too_long": Advice(
        "The request line was too long.", "Have the caller send a shorter path or query."
    ),
    "expectation_failed": Advice(
        "The request expected something unknown.", "Have the caller send no `Expect`, or `100-continue`."
    ),
    "headers_too_large": Advice(
        "The request had too many or too long headers.",
        "Have the caller send fewer; large cookies are a usual cause.",
    ),
    "unknown_transfer_coding": Advice(
        "The request's body was coded in an unknown way.", "Have the caller send `chunked`, or a length."
    ),
    "upstream_auth_failed": Advice(
        "The upstream refused the project's API key.",
        "It was revoked there, or is of another organization. Enter a good one.",
        "project",
        "Replace the key",
    ),
    "upstream_echoed_key": Advice(
        "The upstream's error showed the project's API key, so it was not passed on.",
        "Find out which gateway repeats keys in its errors, and replace the key.",
        "project",
        "Replace the key",
    ),
    "upstream_unreachable": Advice(
        "The upstream could not be reached, or hung up before it answered.",
        "See whether it can be reached from here; look at its status page, base URL and certificate.",
        "health",
        "Try the upstream",
    ),
    "egress_refused": Advice(
        "A proxy on the way to the upstream let nobody through.",
        "Let it pass the upstream's host and port, or name the host in NO_PROXY.",
        "health",
        "Try the upstream",
    ),
    "upstream_timeout": Advice(
        "The upstream did not answer in time.",
        "CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT and IDLE_TIMEOUT bound the waiting; long thinking models need more.",
        "health",
        "Try the upstream",
    ),
    "auth_unavailable": Advice(
        "The proxy could not check the token, or not open the project's key.",
        "See whether the database answers, and whether all keys can be opened.",
        "health",
        "Look at the health",
    ),
    "proxy_draining": Advice("The process was about to stop.", "The caller's next try reaches another one."),
    "log_unavailable": Advice(
        "The call could not be recorded, and LOG_STRICT is on.",
        "Make room on the disk, or make it writable.",
        "health",
        "Look at the health",
    ),
    "spool_unavailable": Advice(
        "The body had to be read before it went up, and there was no room for it.",
        "Make room on the disk of DATA_DIR, or make it writable.",
        "health",
        "Look at the health",
    ),
}
_CLOSED = Advice(
    "The caller hung up before the end.",
    "A time-out of its own is the usual cause: compare it with how long this took.",
)
_REFUSED = Advice("The proxy could not forward the request.", "The caller must change it; its response said how.")
_BROKEN = Advice(
    "The response broke off on the way from the upstream.",
    "See whether it can be reached from here, and what stands between.",
    "health",
    "Try the upstream",
)
_INSIDE = Advice(
    "The upstream told of an error within its response.", "Its code says which. The caller got it as it came."
)
_LIMITED = Advice(
    "The upstream's own limit was reached.",
    "All callers of the project's key share it. Raise it at the upstream, or give projects keys of their own.",
    "project",
    "Look at the project",
)
_FAILED = Advice("The upstream failed.", "Look at its status page; the caller may try again.")
_TURNED_DOWN = Advice(
    "The upstream turned the request down.",
    "The caller must change it: the response, passed on as it came, says how.",
)


def own_codes() -> frozenset[str]:
    """The codes of the proxy's own that there is advice for."""
    return frozenset(_OURS)


def advice(record: ReadRecord) -> Advice | None:
    """What went wrong with a call, and what to do; None where nothing did."""
    if record.outcome == "client_closed" and not record.failed_inside:
        return _CLOSED
    if not record.has_failed:
        return None
    if record.outcome != "complete":
        return _OURS.get(record.error_code or "", _REFUSED if record.outcome == "refused" else _BROKEN)
    if record.failed_inside:
        return _INSIDE
    status = record.status_code or 0
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _LIMITED
    return _FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _TURNED_DOWN
