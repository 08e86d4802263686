"""What a list of requests can be narrowed by: what an address or a form says, and the filter that it means."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import get_args

from accounting import index
from blueprints.admin import queries, zones
from llmproxy.admission import utc_now
from llmproxy.api_log.latest import Filter
from llmproxy.errors import Outcome

# Of a project, a token or a billed model: calls that name none.
NONE = "(none)"
# Beside the outcomes: all that has gone wrong in any way, and the same without refusals, as usage counts errors.
FAILED, ERROR = "failed", "error"
SLOWEST = "slowest"
ORDERS = {"": "Latest first", SLOWEST: "Slowest first"}
SECRETS = {"retired": "Replaced ones"}
SPANS = {
    "15m": ("Last 15 minutes", timedelta(minutes=15)),
    "1h": ("Last hour", timedelta(hours=1)),
    "24h": ("Last 24 hours", timedelta(hours=24)),
    "7d": ("Last 7 days", timedelta(days=7)),
    "30d": ("Last 30 days", timedelta(days=30)),
}
# Those that a page shows only when they are asked for.
_TIMES = ("from", "to")
RARE = ("from", "to", "status", "model", "billed_model", "code", "would_refuse", "secret", "address", "request_id")
NAMES = ("project_id", "token", "outcome", "span", "order", *RARE)
# What is chosen among a few.
_CHOICES = {"outcome": (FAILED, ERROR, *get_args(Outcome)), "span": SPANS, "order": ORDERS, "secret": SECRETS}
_STATUS = re.compile(r"[1-5](xx|[0-9]{2})", re.IGNORECASE)
_ID_LENGTH = 36
# Of a request's id its moment is told to the millisecond, of its record perhaps the next one.
_AROUND = timedelta(milliseconds=2)
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
    session_id, part = request_id[:_UUID_CHARS], request_id[_UUID_CHARS:]
    try:
        known = uuid.UUID(session_id)
    except ValueError:
        return Filter(request_id=request_id)
    if known.version != _TIMED_UUID:
        return Filter(request_id=request_id)
    at = datetime.fromtimestamp((known.int >> 80) / 1000, UTC)
    # A WebSocket's response may begin long after the opening, of which the id tells.
    return Filter(request_id=request_id, begin=at - _AROUND, end=None if part else at + _AROUND)


def read(said: Mapping[str, str], zone: tzinfo = UTC) -> tuple[Sent, Filter, Problem | None]:
    """What an address says, or a form with times of `zone`; the filter that it means, and what is wrong with it."""
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
    begin, end = (_moment(sent[name], zone) for name in _TIMES)
    for name, moment in zip(_TIMES, (begin, end), strict=True):
        if sent[name] and moment is None:
            return sent, Filter(), Problem(name, f"A time must be like 2026-11-23T18:30, in {zone}.")
    if sent["span"] and begin is None and end is None:
        begin = utc_now() - SPANS[sent["span"]][1]
    timed = by_id(sent["request_id"]) if sent["request_id"] else Filter()
    wanted = Filter(
        project_id=_named(sent["project_id"]),
        token_id=token_id,
        status=status.removesuffix("xx") or None,
        outcome=sent["outcome"] if sent["outcome"] not in ("", FAILED, ERROR) else None,
        failed=sent["outcome"] == FAILED,
        errors=sent["outcome"] == ERROR,
        code=sent["code"] or None,
        would_refuse=sent["would_refuse"] or None,
        secret=sent["secret"] or None,
        model=sent["model"] or None,
        billed_model=_named(sent["billed_model"]),
        client_address=sent["address"] or None,
        request_id=sent["request_id"] or None,
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
    zone = zones.of_pages()
    sent, _, problem = read({name: value for name, value in _one_time(form).items() if name != "token"}, zone)
    sent = _in_zone(sent, zone, UTC)
    token = form.get("token", "").strip()
    found = queries.token_id_of(token) if queries.may_be_secret(token) else token
    sent["token"] = found or ""
    if found is None:
        return sent, problem or Problem("token", "No token has this id, or this secret.")
    return sent, problem


def for_form(sent: Sent) -> Sent:
    """What an address says, with times of the pages' zone, as `<input type="datetime-local">` holds them."""
    return _in_zone(_without_span(sent), UTC, zones.of_pages())


def _one_time(form: Mapping[str, str]) -> Mapping[str, str]:
    if form.get("span", "") not in ("", form.get("span_was", "")):
        return {name: value for name, value in form.items() if name not in _TIMES}
    return _without_span(form)


def _without_span(said: Mapping[str, str]) -> Sent:
    """The same without a span where it has times, which go before."""
    return {**said} | ({"span": ""} if any(said.get(name) for name in _TIMES) else {})


def _in_zone(sent: Sent, written_in: tzinfo, wanted: tzinfo) -> Sent:
    """The same with its times of another zone; what is no time stays as it was sent."""
    moments = {name: _moment(sent[name], written_in) for name in _TIMES}
    return sent | {name: _written(moment, wanted) for name, moment in moments.items() if moment}


def _written(moment: datetime, zone: tzinfo) -> str:
    return moment.astimezone(zone).replace(tzinfo=None).isoformat().removesuffix(":00")


def _moment(text: str, zone: tzinfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    # The first and the last times that there are have none in another zone.
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)) if 2000 <= moment.year <= 2200 else None


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
