"""What a failed call's record means, in a sentence, and the operator's way out. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal, NamedTuple

from llmproxy.api_log.read_record import ReadRecord

Place = Literal["token", "project", "rules", "new_token", "alike", "health"]


class Advice(NamedTuple):
    """
    Attributes:
        what: Happened.
        remedy: What can be done about it, and by whom.
        place: The page where it is done, and `action`, what is done there; None where it is done elsewhere. "alike"
            is the list of the token's requests that ended in the same way.
        at: The id of the control on that page; "" for its top.
    """

    what: str
    remedy: str
    place: Place | None = None
    action: str = ""
    at: str = ""


# By the codes of the proxy's own errors; see `llmproxy.errors`.
_OURS = {
    "invalid_api_key": Advice(
        "The caller's secret belongs to no token.",
        "It was mistyped, its token was deleted, or it was replaced and the time for changing over has passed. "
        "Give the caller the secret that holds now: a token's page makes a new one.",
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
        "Switch it on",
        "switch",
    ),
    "organization_refused": Advice(
        "The caller asked for the administration of the upstream's organization.",
        "No token is for that. Do it with the upstream's own keys.",
    ),
    "rate_limit_exceeded": Advice(
        "The token had made all the requests that it may for now.",
        "See whether the caller loops; if it needs more, raise the limit.",
        "token",
        "Raise the limit",
        "rate_limit",
    ),
    "concurrency_limit_exceeded": Advice(
        "As many of the token's calls ran as may at a time, or others would have got nothing of a worker.",
        "Have the caller end what it does not read, or give its parts tokens of their own.",
        "rules",
        "Look at the rules",
        "concurrency",
    ),
    "budget_exhausted": Advice(
        "What the token may spend, or its project, was spent.",
        "Nothing passes until the budget's period ends, or its amount is raised.",
        "token",
        "Look at the limits",
        "limits",
    ),
    "budget_reserved": Advice(
        "What was left of the budget was held by calls that ran.",
        "The caller's next try comes later, when they have ended; a larger budget holds more of them at once.",
        "token",
        "Look at the limits",
        "limits",
    ),
    "budget_too_small": Advice(
        "The call alone might have cost more than was left of the budget.",
        "Have the caller ask for fewer output tokens, or raise the budget.",
        "token",
        "Look at the limits",
        "limits",
    ),
    "model_not_allowed": Advice(
        "The token's rules, or its project's, do not name this model.",
        "Have the caller use another one, or allow it.",
        "rules",
        "Look at the rules",
        "models",
    ),
    "endpoint_not_allowed": Advice(
        "The token's rules, or its project's, do not name this endpoint.",
        "See what the caller wants there, and allow it if that is well.",
        "rules",
        "Look at the rules",
        "endpoints",
    ),
    "address_not_allowed": Advice(
        "The call came from an address that the rules do not name.",
        "See whose address it is: the token may have leaked. If it is the caller's, allow its network.",
        "rules",
        "Look at the rules",
        "addresses",
    ),
    "model_not_priced": Advice(
        "The model has no price, and the token a budget in dollars.",
        "Price the model in PRICES_FILE, have the caller use one that has a price, or let it pass without one.",
        "rules",
        "Look at the rules",
        "unpriced",
    ),
    "model_undetermined": Advice(
        "The request named no model, and the token's limits depend on it.",
        "Have the caller name the model in the request.",
    ),
    "parameter_not_allowed": Advice(
        "The rules do not allow a parameter of the request, or its value.",
        "The response named it. Have the caller leave it out, or allow it.",
        "rules",
        "Look at the rules",
        "parameters",
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
        "new_api_key",
    ),
    "upstream_echoed_key": Advice(
        "The upstream's error showed the project's API key, so it was not passed on.",
        "Find out which gateway repeats keys in its errors, and replace the key.",
        "project",
        "Replace the key",
        "new_api_key",
    ),
    "upstream_unreachable": Advice(
        "The upstream could not be reached, or hung up before it answered.",
        "See whether it can be reached from here; look at its status page, base URL and certificate.",
        "health",
        "Try the upstream",
        "upstreams",
    ),
    "egress_refused": Advice(
        "A proxy on the way to the upstream let nobody through.",
        "Let it pass the upstream's host and port, or name the host in NO_PROXY.",
        "health",
        "Try the upstream",
        "upstreams",
    ),
    "upstream_timeout": Advice(
        "The upstream did not answer in time.",
        "CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT and IDLE_TIMEOUT bound the waiting; long thinking models need more.",
        "health",
        "Try the upstream",
        "upstreams",
    ),
    "auth_unavailable": Advice(
        "The proxy could not check the token, or not open the project's key.",
        "See whether the database answers, and whether all keys can be opened.",
        "health",
        "Look at the health",
        "database",
    ),
    "proxy_draining": Advice("The process was about to stop.", "The caller's next try reaches another one."),
    "log_unavailable": Advice(
        "The call could not be recorded, and LOG_STRICT is on.",
        "Make room on the disk, or make it writable.",
        "health",
        "Look at the disk",
        "disk",
    ),
    "spool_unavailable": Advice(
        "The body had to be read before it went up, and there was no room for it.",
        "Make room on the disk of DATA_DIR, or make it writable.",
        "health",
        "Look at the disk",
        "disk",
    ),
}
_USED_UP = Advice(
    "The token had used all the LLM tokens that it may for now.",
    "See whether the caller loops; if it needs more, raise the limit.",
    "token",
    "Look at the limits",
    "limits",
)
# Refusals that have no code, by their status.
_REFUSED_WITH = {
    401: Advice(
        "The call came without a token.",
        "Have the caller send it as `Authorization: Bearer <token>`; OpenAI's clients take it as `api_key`.",
        "new_token",
        "Issue a token",
    ),
    405: Advice("The call had a method that is not forwarded.", "Have the caller use another one, such as POST."),
    426: Advice(
        "The call asked for a WebSocket of a version that nobody speaks.",
        "Have the caller's library speak version 13, as all current ones do.",
    ),
}
_REFUSED = Advice(
    "The proxy could not forward the request.",
    "It was no proper HTTP, led out of /v1/, or its body ended early. Its response said what the caller must change.",
)
_NEVER_BEGAN = Advice(
    "The caller hung up before anything came.",
    "A time-out of its own is the usual cause: compare it with how long this took. A stream begins sooner.",
    "alike",
    "See all hang-ups",
)
_BROKE_OFF = Advice(
    "The caller hung up in the middle of the response.",
    "It had read enough, or a time-out of its own or of a proxy between ended it: compare it with how long it took.",
    "alike",
    "See all hang-ups",
)
_BROKEN = Advice(
    "The response broke off on the way from the upstream.",
    "See whether it can be reached from here, and what stands between.",
    "health",
    "Try the upstream",
    "upstreams",
)
_WENT_SILENT = Advice(
    "The upstream fell silent in the middle of the response.",
    "IDLE_TIMEOUT bounds the waiting for more of it; long thinking models need more.",
    "health",
    "Try the upstream",
    "upstreams",
)
_MIDWAY = {"upstream_failed": _BROKEN, "upstream_timeout": _WENT_SILENT}
_LIMITED = Advice(
    "The upstream's own limit was reached.",
    "All callers of the project's key share it. Raise it at the upstream, or give projects keys of their own.",
    "project",
    "Look at the key",
    "new_api_key",
)
_UNKNOWN_MODEL = Advice(
    "The upstream does not know the model, or the project's key may not use it.",
    "Have the caller name another one, or let the key use it at the upstream.",
    "project",
    "Look at the key",
    "new_api_key",
)
_NO_CREDIT = Advice(
    "The upstream's account has no credit left, or has spent what it may.",
    "Pay or raise its limit at the upstream, or replace the key by one of another account.",
    "project",
    "Replace the key",
    "new_api_key",
)
_TOO_LONG = Advice(
    "The request was longer than the model takes.", "Have the caller send less, or use a model that takes more."
)
# By the upstream's codes, whether in an error or within a good response.
_THEIRS = {
    "rate_limit_exceeded": _LIMITED,
    "insufficient_quota": _NO_CREDIT,
    "billing_hard_limit_reached": _NO_CREDIT,
    "model_not_found": _UNKNOWN_MODEL,
    "context_length_exceeded": _TOO_LONG,
    "string_above_max_length": _TOO_LONG,
}
_THEIR_STATUSES = {
    401: Advice(
        "The upstream did not take the project's key, or not for the organization that the caller named.",
        "Have the caller name no organization, or replace the key by one of it.",
        "project",
        "Look at the key",
        "new_api_key",
    ),
    403: Advice(
        "The upstream does not let the project's key do this.",
        "Its account, its permissions or its region may not be for it: see there, or replace the key.",
        "project",
        "Look at the key",
        "new_api_key",
    ),
    404: Advice(
        "The upstream has no such thing, or the project's key may not see it.",
        "It was deleted, is another key's, or the path is wrong. Compare the base URL, too.",
        "project",
        "Look at the base URL",
        "base_url",
    ),
    413: _TOO_LONG,
    429: _LIMITED,
    503: Advice(
        "The upstream was overloaded, or down.",
        "The caller may try again later; its status page tells more.",
        "health",
        "Try the upstream",
        "upstreams",
    ),
}
_INSIDE = Advice(
    "The upstream told of an error within its response.",
    "Its code says which. The caller got it as it came, and may try again.",
    "alike",
    "See whether others failed",
)
_FAILED = Advice(
    "The upstream failed.",
    "Look at its status page; the caller may try again.",
    "health",
    "Try the upstream",
    "upstreams",
)
_TURNED_DOWN = Advice(
    "The upstream turned the request down.",
    "The caller must change it: the response, passed on as it came, says how.",
)
_OLD_SECRET = Advice(
    "The caller used a secret that has been replaced.",
    "It still works, and ends soon: give its holder the new one.",
    "token",
    "See when it ends",
    "secret",
)


def advice(record: ReadRecord) -> Advice | None:
    """What went wrong with a call, or soon will, and what to do; None where nothing does."""
    if record.outcome == "client_closed" and not record.failed_inside:
        return _NEVER_BEGAN if record.ttft_ms is None else _BROKE_OFF
    if not record.has_failed:
        return _OLD_SECRET if record.secret else None
    if record.outcome == "complete":
        return _of_upstream(record)
    # A good status is the upstream's: its response had begun.
    if record.outcome in _MIDWAY and (record.status_code or 0) < HTTPStatus.BAD_REQUEST:
        return _MIDWAY[record.outcome]
    if record.error_code == "rate_limit_exceeded" and record.error_type == "tokens":
        return _USED_UP
    return _OURS.get(record.error_code or "") or _without_code(record)


def _of_upstream(record: ReadRecord) -> Advice:
    """What an error means that the upstream told itself."""
    status = record.status_code or 0
    if told := _THEIRS.get(record.error_code or "") or _THEIR_STATUSES.get(status):
        return told
    if record.failed_inside:
        return _INSIDE
    return _FAILED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _TURNED_DOWN


def _without_code(record: ReadRecord) -> Advice:
    if record.outcome == "upstream_timeout":
        return _OURS["upstream_timeout"]
    return _REFUSED_WITH.get(record.status_code or 0, _REFUSED) if record.outcome == "refused" else _BROKEN
