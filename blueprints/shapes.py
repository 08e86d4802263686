"""
The shapes of the management API's answers, as its description tells them: all of their fields, and no others. What
makes them stands in `wire`; a fuzzer holds the two together.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from marshmallow import Schema, fields, validate

from accounting import report
from blueprints.schemas import STREAM_USAGE, USAGE_GROUPS, Amount
from llmproxy.limits.meters import Reserve, Unit
from llmproxy.limits.periods import PERIODS


def _text(*, null: bool = False) -> fields.String:
    return fields.String(required=True, allow_none=null)


def _number(*, null: bool = False) -> fields.Integer:
    return fields.Integer(required=True, allow_none=null)


def _time(*, null: bool = False) -> fields.AwareDateTime:
    return fields.AwareDateTime(required=True, allow_none=null)


class Project(Schema):
    """A project; of its key, the hint alone."""

    id = _text()
    name = _text()
    is_active = fields.Boolean(required=True)
    base_url = _text(null=True)
    stream_usage = fields.String(required=True, validate=validate.OneOf(STREAM_USAGE))
    key_hint = _text()
    created_at = _time()
    default_tier = _text(null=True)
    rules = fields.Dict(required=True, allow_none=True)


class Token(Schema):
    """A token, without its secret."""

    id = _text()
    project_id = _text()
    label = _text(null=True)
    is_active = fields.Boolean(required=True)
    expires_at = _time()
    request_count = _number()
    window_started_at = _time(null=True)
    created_at = _time()
    last_used_at = _time(null=True)
    rate_limit = _number()
    rules = fields.Dict(required=True, allow_none=True)


class HeldLimit(Schema):
    """A limit of a token or its project, as the token's holder may know it."""

    name = _text()
    unit = fields.String(required=True, validate=validate.OneOf(get_args(Unit)))
    period = fields.String(required=True, validate=validate.OneOf(PERIODS))
    models = fields.List(fields.String(), required=True, allow_none=True)
    amount = Amount(required=True)
    spent = Amount(required=True)
    reserved = Amount(required=True)
    remaining = Amount(required=True)
    resets_at = _time(null=True)


class Meter(HeldLimit):
    """A meter and how it stands; amounts are dollars in text, or whole numbers of tokens or requests."""

    id = _text()
    project_id = _text()
    token_id = _text(null=True)
    zone = _text()
    reserve = fields.String(required=True, validate=validate.OneOf(get_args(Reserve)))


class LimitedProject(Project):
    """A project with its own meters."""

    meters = fields.List(fields.Nested(Meter), required=True)


class CreatedProject(LimitedProject):
    """A project that was just made; names of those that have the same upstream key."""

    shares_key_with = fields.List(fields.String(), required=True)


class LimitedToken(Token):
    """A token with its own meters."""

    meters = fields.List(fields.Nested(Meter), required=True)


class IssuedToken(Schema):
    """A token that was just issued, with its secret."""

    token = _text()
    id = _text()
    project_id = _text()
    expires_at = _time()


class NumberedToken(IssuedToken):
    """One of several tokens that were just issued."""

    label = _text(null=True)


class IssuedTokens(Schema):
    """A token that was just issued; several are in `data`, where `count` was sent."""

    token = fields.String()
    id = fields.String()
    project_id = fields.String()
    expires_at = fields.AwareDateTime()
    data = fields.List(fields.Nested(NumberedToken))


class RotatedToken(IssuedToken):
    """A token with a new secret, and until when the old one works."""

    old_token_until = _time()


class Projects(Schema):
    """A page of projects."""

    data = fields.List(fields.Nested(Project), required=True)
    has_more = fields.Boolean(required=True)
    next = _text(null=True)


class Tokens(Schema):
    """A page of tokens."""

    data = fields.List(fields.Nested(Token), required=True)
    has_more = fields.Boolean(required=True)
    next = _text(null=True)


class Meters(Schema):
    """A page of meters."""

    data = fields.List(fields.Nested(Meter), required=True)
    has_more = fields.Boolean(required=True)
    next = _text(null=True)


class Revoked(Schema):
    """How many tokens were revoked."""

    revoked = _number()


class Percentiles(Schema):
    """Milliseconds; null where nothing was measured."""

    p50 = fields.Float(required=True, allow_none=True)
    p95 = fields.Float(required=True, allow_none=True)


def _of_sum(name: str) -> fields.Field[Any]:
    if name in ("duration_ms", "ttft_ms"):
        return fields.Nested(Percentiles, required=True)
    return fields.Float(required=True) if name == "audio_seconds" else _number()


class Sums(Schema):
    """Sums of usage."""

    cost_usd = fields.Float(required=True)
    cost_assumed_usd = fields.Float(required=True)

    class Meta:
        include = {
            one.name: _of_sum(one.name) for one in dataclasses.fields(report.Usage) if not one.name.startswith("cost")
        }


class UsageRow(Sums):
    """Sums of usage, and of when or whom."""

    hour = fields.AwareDateTime()
    day = fields.AwareDateTime()
    project_id = fields.String(allow_none=True)
    token_id = fields.String(allow_none=True)
    model = fields.String(allow_none=True)
    name = fields.String(allow_none=True)


class UsageReport(Schema):
    """Sums by group, and of all."""

    begin = fields.AwareDateTime(required=True, data_key="from")
    end = fields.AwareDateTime(required=True, data_key="to")
    group_by = fields.String(required=True, validate=validate.OneOf(USAGE_GROUPS))
    data = fields.List(fields.Nested(UsageRow), required=True)
    total = fields.Nested(Sums, required=True)
    has_more = fields.Boolean()
    next = fields.String(allow_none=True)


class Prices(Schema):
    """The date of the price sheet, and a model's prices or the models that have none."""

    date = _text(null=True)
    price = fields.Dict(allow_none=True)
    unpriced = fields.List(fields.Dict())
    advice = fields.String()


class HoldersSums(Schema):
    """Sums of a token's usage."""

    requests = _number()
    refusals = _number()
    errors = _number()
    prompt_tokens = _number()
    completion_tokens = _number()
    total_tokens = _number()
    cost_usd = fields.Float(required=True)


class HoldersModel(HoldersSums):
    """Sums of a token's usage of one model."""

    model = _text(null=True)


class HoldersUsage(Schema):
    """A token's usage, by days and months of UTC."""

    today = fields.Nested(HoldersSums, required=True)
    this_month = fields.Nested(HoldersSums, required=True)
    by_model = fields.List(fields.Nested(HoldersModel), required=True)


class HoldersRefusal(Schema):
    """A call that was refused."""

    at = _time()
    request_id = _text(null=True)
    status = _number(null=True)
    code = _text(null=True)


class Holder(Schema):
    """What a token's holder may know of it."""

    id = _text()
    label = _text(null=True)
    project = _text()
    base_url = _text()
    is_expired = fields.Boolean(required=True)
    expires_at = _time()
    limits = fields.List(fields.Nested(HeldLimit), required=True)
    rules = fields.Dict(required=True, allow_none=True)
    project_rules = fields.Dict(required=True, allow_none=True)
    usage = fields.Nested(HoldersUsage, required=True)
    last_refusals = fields.List(fields.Nested(HoldersRefusal), required=True)
    contact = _text(null=True)


class _Problem(Schema):
    message = _text()
    type = _text()
    param = _text(null=True)
    code = _text(null=True)


class Error(Schema):
    """An error in OpenAI's form."""

    error = fields.Nested(_Problem, required=True)
