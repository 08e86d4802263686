"""What a list of requests can be narrowed by: what an address or a form says, and the filter that it means."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast, get_args

from accounting import index
from blueprints.admin import queries, searches, time_range, zones
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter, Lack
from llmproxy.api_log.read_record import ReadRecord
from llmproxy.errors import Outcome
from llmproxy.times import iso_utc

# Of a project, a token, a billed model or an error's code: calls that name none.
NONE = "(none)"
# Beside the outcomes: all that has gone wrong in any way, and the same without refusals, as usage counts errors.
FAILED, ERROR = "failed", "error"
SLOWEST = "slowest"
ORDERS = {"": "Latest first", SLOWEST: "Slowest first"}
SECRETS = {"retired": "Replaced ones"}
LACKS: dict[Lack, str] = {"price": "A price", "usage": "A stream's usage"}
SPANS = {
    "15m": ("Last 15 minutes", timedelta(minutes=15)),
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}
# Those that a page shows only when they are asked for.
_RARE_TEXTS = (
    *("status", "model", "billed_model", "code", "would_refuse", "secret", "lacks", "address", "request_id"),
    "websocket",
)
RARE = (*time_range.NAMES, *_RARE_TEXTS)
NAMES = ("project_id", "token", "outcome", "span", "order", *RARE)
# What is chosen among a few.
_CHOICES = {
    "outcome": (FAILED, ERROR, *get_args(Outcome)),
    "span": SPANS,
    "order": ORDERS,
    "secret": SECRETS,
    "lacks": LACKS,
}
_STATUS = re.compile(r"[1-5](xx|[0-9]{2})", re.IGNORECASE)
_ID_LENGTH = 36
# Of a request's id its moment is told to the millisecond, of its record perhaps the next one.
_AROUND = timedelta(milliseconds=2)
_A_SECOND = timedelta(seconds=1)
_TIMED_UUID = 7
_UUID_CHARS = 36

# By NAMES; '' is what is not asked for.
Sent = dict[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a filter: its field, and a sentence."""

    field: str
    words: str


def in_use(sent: Sent) -> Sent:
    """What is asked for, for an address."""
    return {name: value for name, value in sent.items() if value}


def needs_index(sent: Sent, wanted: Filter) -> bool:
    """Whether the index is asked, and not the log itself, which is faster where every record has to be read."""
    if sent["order"] == SLOWEST or wanted.billed_model is not None:
        return True
    return bool(wanted.begin or wanted.end) and index.tells(wanted)


def by_id(request_id: str) -> Filter:
    """A filter for one request. Its id tells when it arrived, unless an older version made it."""
    at = _told_by(request_id[:_UUID_CHARS])
    if at is None:
        return Filter(request_id=request_id)
    # A WebSocket's response may begin long after the opening, of which the id tells.
    is_part = len(request_id) > _UUID_CHARS
    return Filter(request_id=request_id, begin=at - _AROUND, end=None if is_part else at + _AROUND)


def responses_of(websocket_id: str, record: ReadRecord | None) -> Sent:
    """What an address says for the responses that were made in a WebSocket; `record` is its own, if it has ended."""
    sent = {"websocket": websocket_id}
    if record is None or record.arrived_at is None:
        return sent
    ended = record.arrived_at + timedelta(milliseconds=record.duration_ms or 0)
    return sent | {"to": iso_utc(ended + _A_SECOND)}


def _told_by(request_id: str) -> datetime | None:
    try:
        known = uuid.UUID(request_id)
    except ValueError:
        return None
    return datetime.fromtimestamp((known.int >> 80) / 1000, UTC) if known.version == _TIMED_UUID else None


def read(said: Mapping[str, str], zone: str = "UTC") -> tuple[Sent, Filter, Problem | None]:
    """What an address says, the filter that it means, and what is wrong; `zone` is that of the times in its form."""
    sent = {name: said.get(name, "").strip() for name in NAMES}
    for name, known in _CHOICES.items():
        if sent[name] and sent[name] not in known:
            told = f"{name.capitalize()} must be one of: {', '.join(filter(None, known))}."
            return sent, Filter(), Problem(name, told)
    status = sent["status"].lower()
    if status and not _STATUS.fullmatch(status):
        return sent, Filter(), Problem("status", "Status must be a number like 429, or a class like 4xx.")
    token_id, words = _token_id(sent["token"])
    if words:
        return sent, Filter(), Problem("token", words)
    begin, end, wrong = time_range.moments(sent)
    if wrong:
        return sent, Filter(), Problem(wrong, time_range.words(zone))
    if sent["span"] and begin is None and end is None:
        begin = utc_now() - SPANS[sent["span"]][1]
    timed = by_id(sent["request_id"]) if sent["request_id"] else Filter(begin=_told_by(sent["websocket"]))
    wanted = Filter(
        project_id=_named(sent["project_id"]),
        token_id=token_id,
        status=status.removesuffix("xx") or None,
        outcome=sent["outcome"] if sent["outcome"] not in ("", FAILED, ERROR) else None,
        failed=sent["outcome"] == FAILED,
        errors=sent["outcome"] == ERROR,
        code=_named(sent["code"]),
        would_refuse=sent["would_refuse"] or None,
        secret=sent["secret"] or None,
        lacks=cast(Lack, sent["lacks"]) if sent["lacks"] else None,
        model=sent["model"] or None,
        billed_model=_named(sent["billed_model"]),
        client_address=sent["address"] or None,
        request_id=sent["request_id"] or None,
        websocket=sent["websocket"] or None,
        begin=begin or timed.begin,
        end=end or timed.end,
    )
    return sent, wanted, None


def resolve(form: Mapping[str, str]) -> tuple[Sent, Problem | None]:
    """
    What a filled-in form says, as an address does: with a token's id in place of a secret, and times of UTC.

    Of a span and *From* or *To* the one holds that was changed: `span_was` says which span the form came with.
    What might be a secret and belongs to no token is not repeated.
    """
    said = {**form} | time_range.for_address(form)
    sent, _, problem = read({**_one_time(said), "token": ""}, str(zones.of_pages()))
    token = form.get("token", "").strip()
    if queries.several_in(token):
        return sent | {"token": ""}, Problem("token", "One token at a time: Tokens takes several.")
    found = queries.token_id_of(token) if queries.may_be_secret(token) else token
    sent["token"] = found or ""
    if found is None:
        return sent, problem or Problem("token", searches.UNKNOWN)
    return sent, problem


def for_form(sent: Sent) -> Sent:
    """What an address says, with times as a form has them."""
    shown = _without_span(sent) | time_range.for_form(sent)
    return shown | {"span_was": shown["span"]}


def _one_time(form: Mapping[str, str]) -> Mapping[str, str]:
    if form.get("span", "") not in ("", form.get("span_was", "")):
        return {name: value for name, value in form.items() if name not in time_range.NAMES}
    return _without_span(form)


def _without_span(said: Mapping[str, str]) -> Sent:
    """The same without a span where it has times, which go before."""
    return {**said} | ({"span": ""} if any(said.get(name) for name in time_range.NAMES) else {})


def _named(text: str) -> str | None:
    """What a filter takes for it: '' for NONE, and None where nothing is asked for."""
    return "" if text == NONE else text or None


def _token_id(text: str) -> tuple[str | None, str | None]:
    """The token meant by an id, by how it begins, or by a label; what is wrong where that is none, or several."""
    # The log may name tokens that are no more.
    if text in ("", NONE) or len(text) == _ID_LENGTH:
        return _named(text), None
    found = queries.tokens_called(text, 2)
    if len(found) == 1:
        return found[0], None
    if found:
        return None, f"Several tokens are called “{text}”. Follow the link on the page of the one that is meant."
    return None, f"No token has the label “{text}”, or an id that begins so."
