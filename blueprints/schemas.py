"""
The bodies and queries that operators send, checked: types without coercion, ranges, lengths, no unknown fields.

The management API and the JSON side of the admin pages share them, so a bad value gets one answer everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

from flask import current_app
from marshmallow import RAISE, Schema, ValidationError, post_load, pre_load, validate, validates, validates_schema
from marshmallow import fields as typed

from config import zone_of
from control import limits
from llmproxy.destinations import require_allowed, require_private_if_plain
from llmproxy.limits import amounts
from llmproxy.limits.meters import Reserve, Unit
from llmproxy.limits.model_names import PATTERN, checked_name
from llmproxy.limits.periods import PERIODS, RATES, checked_zone
from llmproxy.limits.rules_json import BadRules, read_rules, rules_schema
from llmproxy.urls import checked_upstream_url
from models import NAME_LENGTH
from services import Services

MAX_DURATION_HOURS = 8760
MAX_GRACE_HOURS = 168
MAX_RATE_LIMIT = 2**31 - 1
MAX_KEY_LENGTH = 1024
STREAM_USAGE = ("as-sent", "ask")
# What an upstream may serve where a request asks for no tier.
DEFAULT_TIERS = ("default", "flex", "priority", "scale")
MAX_PAGE = 1000
MAX_TOKENS_AT_ONCE = 1000
MAX_METER_MODELS = 20
MODELS_LENGTH = 400
METER_NAME_LENGTH = 64
MAX_USAGE_STEPS = 2400
USAGE_GROUPS = ("hour", "day", "project", "token", "model")
_COUNT_DIGITS = 18
LATEST_EXPIRY = datetime(2200, 1, 1, tzinfo=UTC)


# What the API's document can tell of the checks below.
_NAME = {"minLength": 1, "maxLength": NAME_LENGTH, "pattern": r"\S"}
_METER_NAME = _NAME | {"maxLength": METER_NAME_LENGTH}
_KEY = {"minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": "^[!-~]+$"}


def _choice(choices: Iterable[str], **kwargs: Any) -> typed.String:
    return typed.String(validate=validate.OneOf(tuple(choices), error="must be one of {choices}."), **kwargs)


class WholeNumber(typed.Integer):
    """An integer and nothing that could be read as one: no bool, no float, no string."""

    def __init__(self, low: int, high: int, **kwargs: Any) -> None:
        self._message = f"must be a whole number from {low} to {high}."
        super().__init__(strict=True, validate=validate.Range(low, high, error=self._message), **kwargs)
        self.error_messages |= {"invalid": self._message, "too_large": self._message, "null": self._message}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if type(value) is not int:
            raise self.make_error("invalid")
        number: int = super()._deserialize(value, attr, data, **kwargs)
        return number


class Flag(typed.Field[bool]):
    """true or false."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError("must be true or false.")
        return value


def check_name(value: str) -> None:
    """Raise ValidationError for a text that is blank, too long, or holds control characters."""
    if not value.strip():
        raise ValidationError("must not be empty.")
    if len(value) > NAME_LENGTH:
        raise ValidationError(f"must not be longer than {NAME_LENGTH} characters.")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value):
        raise ValidationError("must not hold control characters.")


def check_key(value: str) -> None:
    """Raise ValidationError for what cannot stand in an Authorization header. The value is never repeated."""
    if not value or len(value) > MAX_KEY_LENGTH:
        raise ValidationError(f"must have 1 to {MAX_KEY_LENGTH} characters.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValidationError("must be printable ASCII without spaces.")
    if value.lower().startswith("sk-admin-"):
        raise ValidationError("must not be an admin key, which opens the whole organization: send a project's.")


def check_base_url(value: str) -> None:
    """Raise ValidationError for what can be no upstream's base URL, or may not."""
    try:
        checked_upstream_url(value)
        require_allowed(value, Services.of(current_app).settings.upstream_allowed_hosts)
        require_private_if_plain(value)
    except ValueError as exc:
        raise ValidationError(f"{exc}.") from exc


class Time(typed.AwareDateTime):
    """An ISO 8601 time with its zone."""

    def __init__(self, **kwargs: Any) -> None:
        words = "must be an ISO 8601 time with its zone."
        messages: dict[str, Any] = {"invalid": words, "invalid_awareness": words}
        super().__init__(format="iso", error_messages=messages, **{"validate": _check_date} | kwargs)


def _check_date(value: datetime) -> None:
    if not datetime(2000, 1, 1, tzinfo=UTC) <= value <= LATEST_EXPIRY:
        raise ValidationError("must be a date from 2000 to 2200.")


def _check_expiry(value: datetime) -> None:
    now = datetime.now(UTC)
    if not now < value <= now + timedelta(hours=MAX_DURATION_HOURS):
        raise ValidationError(f"must lie ahead, within {MAX_DURATION_HOURS} hours from now.")


class _Body(Schema):
    """Base of every body: unknown fields are errors, and every message reads after its field's name."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "is not a field of this request."}

    @pre_load
    def _must_be_object(self, data: Any, **_: Any) -> Any:
        if not isinstance(data, dict):
            raise ValidationError("The body must be a JSON object.")
        return data

    def on_bind_field(self, field_name: str, field_obj: typed.Field[Any]) -> None:
        """Word the library's own messages like ours."""
        field_obj.error_messages = {
            **field_obj.error_messages,
            "required": "is required.",
            "null": field_obj.error_messages.get("null", "")
            if isinstance(field_obj, WholeNumber)
            else "must not be null.",
        }
        if isinstance(field_obj, typed.String):
            field_obj.error_messages["invalid"] = "must be a string."
        if isinstance(field_obj, typed.List):
            field_obj.error_messages["invalid"] = "must be a list."


class Object(typed.Nested):
    """An object within a body; what is none gets these words."""

    def __init__(self, kind: type[Schema], words: str = "must be a JSON object.") -> None:
        self._words = words
        super().__init__(kind)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(self._words)
        return super()._deserialize(value, *args, **kwargs)


class Amount(typed.Field[str | int]):
    """Of a meter: dollars in decimal text such as "12.50", or a whole number of tokens or requests."""

    def __init__(self, unit: str | None = None, **kwargs: Any) -> None:
        self.unit = unit
        either = {"anyOf": [amounts.schema("usd"), amounts.schema("requests")]}
        super().__init__(metadata=amounts.schema(unit) if unit else either, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Any:
        unit = self.unit or data.get("unit")
        if unit not in get_args(Unit):  # of a meter that is changed, or none
            unit = "usd" if isinstance(value, str) else "requests"
        try:
            amounts.read(unit, value)
        except ValueError as exc:
            raise ValidationError(f"{exc}.") from exc
        return value


class Rules(typed.Field[dict[str, Any]]):
    """What a token may do, as docs/rules.md has it."""

    def __init__(self) -> None:
        super().__init__(allow_none=True, metadata=rules_schema())

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        try:
            read_rules(value)
        except BadRules as exc:
            told = {f"rules.{name}".removesuffix(".rules"): [f"{words}."] for name, words in exc.problems.items()}
            raise ValidationError(told) from exc
        return value


class Models(typed.List[str]):
    """Names and globs of models; handed on as a meter's column has them."""

    def __init__(self, **kwargs: Any) -> None:
        words: dict[str, Any] = {"invalid": "must be a list of models' names."}
        names = typed.String(error_messages=words, metadata={"pattern": f"^{PATTERN}$"})
        most = validate.Length(1, MAX_METER_MODELS, error=f"must be a list of 1 to {MAX_METER_MODELS} names.")
        super().__init__(names, validate=most, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            names = ",".join(map(checked_name, super()._deserialize(value, *args, **kwargs)))
        except ValueError as exc:
            raise ValidationError(f"{exc}.") from exc
        if len(names) > MODELS_LENGTH:
            raise ValidationError(f"must have {MODELS_LENGTH} characters at most, all together.")
        return names


def check_meter_name(value: str) -> None:
    """Raise ValidationError for what is no name of a meter."""
    check_name(value)
    if len(value) > METER_NAME_LENGTH:
        raise ValidationError(f"must not be longer than {METER_NAME_LENGTH} characters.")


def _check_zone(value: str) -> None:
    try:
        checked_zone(value)
    except ValueError as exc:
        raise ValidationError(f"{exc}.") from exc


class MeterChange(_Body):
    """
    PATCH of a meter: any of the fields.

    Args:
        unit: The meter's, where that is known; what is no amount of it is told so.
    """

    def __init__(self, *, unit: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if unit is not None:
            cast(Amount, self.fields["amount"]).unit = unit

    name = typed.String(validate=check_meter_name, metadata=_METER_NAME)
    amount = Amount()
    reserve = _choice(get_args(Reserve))


class Budget(_Body):
    """A new meter in short: one amount, and per which period."""

    usd = Amount("usd")
    tokens = Amount("tokens")
    requests = Amount("requests")
    per = _choice(PERIODS, required=True)
    name = typed.String(validate=check_meter_name, metadata=_METER_NAME)
    zone = typed.String(validate=_check_zone)
    models = Models(allow_none=True)
    reserve = _choice(get_args(Reserve))

    @validates_schema(skip_on_field_errors=True)
    def _one_amount(self, data: dict[str, Any], **_: Any) -> None:
        if len(data.keys() & set(get_args(Unit))) != 1:
            raise ValidationError("must have one of usd, tokens and requests.", field_name="budget")
        _check_period(data["per"], is_money="usd" in data, zone=data.get("zone"), field="per")

    @post_load
    def _meter(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        [unit] = data.keys() & set(get_args(Unit))
        return data | {"unit": unit, "amount": data.pop(unit), "period": data.pop("per")}


class NewMeter(MeterChange):
    """A meter of a token or project that is made with it."""

    amount = Amount(required=True)
    unit = _choice(get_args(Unit), required=True)
    period = _choice(PERIODS, required=True)
    zone = typed.String(validate=_check_zone)
    models = Models(allow_none=True)

    @validates_schema(skip_on_field_errors=True)
    def _goes_together(self, data: dict[str, Any], **_: Any) -> None:
        if not {"unit", "period"} <= data.keys():
            return
        _check_period(data["period"], is_money=data["unit"] == "usd", zone=data.get("zone"), field="period")


class OwnedMeter(NewMeter):
    """POST of a meter: of a token, or of a project where no token is named."""

    project_id = typed.String()
    token_id = typed.String()

    @validates_schema(skip_on_field_errors=True)
    def _has_one_owner(self, data: dict[str, Any], **_: Any) -> None:
        if len(data.keys() & {"project_id", "token_id"}) != 1:
            raise ValidationError("must be sent, or token_id, and not both.", field_name="project_id")


class KeptMeter(NewMeter):
    """A meter that a token or project is to have: one that is there, by its id, or a new one."""

    meter_id = typed.String(data_key="id")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(partial=True, **kwargs)

    @validates_schema(skip_on_field_errors=True)
    def _whole_if_new(self, data: dict[str, Any], **_: Any) -> None:
        missing = [name for name in ("unit", "period", "amount") if name not in data]
        if missing and "meter_id" not in data:
            raise ValidationError("is required.", field_name=missing[0])

    @post_load
    def _as_column(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return data | ({"id": data.pop("meter_id")} if "meter_id" in data else {})


def _check_period(period: str, *, is_money: bool, zone: str | None, field: str) -> None:
    if period in RATES and is_money:
        raise ValidationError("must be day, week, month or total for dollars.", field_name=field)
    if period in RATES and zone not in (None, "UTC"):
        raise ValidationError("must be UTC for minutes and hours.", field_name="zone")


def _meters(kind: type[Schema]) -> typed.List[Any]:
    words = f"must be {limits.MOST} at most."
    return typed.List(
        Object(kind, "must be a list of JSON objects."), validate=validate.Length(max=limits.MOST, error=words)
    )


class NewProject(_Body):
    """POST of a project."""

    name = typed.String(required=True, validate=check_name, metadata=_NAME)
    openai_api_key = typed.String(required=True, validate=check_key, metadata=_KEY)
    base_url = typed.String(allow_none=True, validate=check_base_url)
    stream_usage = _choice(STREAM_USAGE)
    default_tier = _choice(DEFAULT_TIERS, allow_none=True)
    rules = Rules()
    meters = _meters(NewMeter)


class ProjectChange(NewProject):
    """PATCH of a project: any of the fields."""

    is_active = Flag()
    meters = _meters(KeptMeter)

    def __init__(self) -> None:
        super().__init__(partial=True)


class NewToken(_Body):
    """POST of a token."""

    project_id = typed.String(required=True)
    duration_hours = WholeNumber(1, MAX_DURATION_HOURS)
    expires_at = Time(validate=[_check_date, _check_expiry])
    label = typed.String(allow_none=True, validate=check_name, metadata=_NAME)
    rate_limit = WholeNumber(1, MAX_RATE_LIMIT, allow_none=True)
    count = WholeNumber(1, MAX_TOKENS_AT_ONCE)
    budget = Object(Budget)
    rules = Rules()
    meters = _meters(NewMeter)

    @validates_schema(skip_on_field_errors=True)
    def _ends_once(self, data: dict[str, Any], **_: Any) -> None:
        ends = data.keys() & {"duration_hours", "expires_at"}
        if not ends:
            raise ValidationError("is required.", field_name="duration_hours")
        if len(ends) > 1:
            raise ValidationError("must be sent, or expires_at, and not both.", field_name="duration_hours")

    @post_load
    def _lifetime(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if "budget" in data:
            data["meters"] = [data.pop("budget"), *data.get("meters", ())]
        hours = data.pop("duration_hours", 0)
        return data | {"lifetime": data.pop("expires_at", timedelta(hours=hours))}


class Rotation(_Body):
    """POST of a new secret for a token."""

    grace_hours = WholeNumber(0, MAX_GRACE_HOURS, required=True)

    @post_load
    def _grace(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"grace": timedelta(hours=data["grace_hours"])}


class Extension(_Body):
    """A form's new expiry of several tokens."""

    expires_at = Time(required=True)


class TokenChange(_Body):
    """PATCH of a token: any of the fields."""

    label = typed.String(allow_none=True, validate=check_name, metadata=_NAME)
    rate_limit = WholeNumber(1, MAX_RATE_LIMIT, allow_none=True)
    expires_at = Time()
    rules = Rules()
    meters = _meters(KeptMeter)

    @validates("expires_at")
    def _as_long_as_a_new_one(self, value: datetime, **_: Any) -> None:
        if value > datetime.now(UTC) + timedelta(hours=MAX_DURATION_HOURS):
            raise ValidationError(f"must be within {MAX_DURATION_HOURS} hours from now.")


class TokenName(_Body):
    """DELETE of a token: by its secret, or by its public id."""

    secret = typed.String(data_key="token")
    token_id = typed.String(data_key="id")

    @validates_schema(skip_on_field_errors=True)
    def _one_of_two(self, data: dict[str, Any], **_: Any) -> None:
        if len(data) != 1:
            raise ValidationError("must be sent, or id, and not both.", field_name="token")


class ProjectName(_Body):
    """DELETE of a project by a body."""

    project_id = typed.String(required=True, data_key="id")
    force = Flag(load_default=False)


class _Query(Schema):
    """Base of every query: text comes in, unknown parameters are errors."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "is not a parameter of this request."}


_STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
_page_limit = f"must be a whole number from 1 to {MAX_PAGE}."
_BOOLEAN: dict[str, Any] = {"invalid": "must be true or false."}


class _Limited(_Query):
    limit = typed.Integer(
        load_default=100,
        validate=validate.Range(1, MAX_PAGE, error=_page_limit),
        error_messages={"invalid": _page_limit},
    )


class PageQuery(_Limited):
    """Which page of a list."""

    after = typed.String()


class MeterQuery(_Limited):
    """Whose meters."""

    project_id = typed.String()
    token_id = typed.String()
    after = typed.String()


class TokenQuery(PageQuery):
    """Which tokens."""

    project_id = typed.String()
    active = typed.Boolean(error_messages=_BOOLEAN)


class ProjectQuery(PageQuery):
    """Which projects."""

    active = typed.Boolean(error_messages=_BOOLEAN)


class ForceQuery(_Query):
    """Whether to delete what is in use."""

    force = typed.Boolean(load_default=False, error_messages=_BOOLEAN)


class _When(Time):
    """A `+` that nobody escaped arrives as a blank."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value.replace(" ", "+"), *args, **kwargs)


class Zone(typed.String):
    """The name of a zone, such as Europe/Berlin."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        name = super()._deserialize(value, attr, data, **kwargs)
        try:
            # No name leads out of the directory of zones, but one may name a directory in it.
            return zone_of(name)
        except ValueError as exc:
            raise ValidationError(f"{exc}.") from exc


class Rank(typed.String):
    """Where a row stands among the busiest: its number of requests and its key, as `rank_text` writes them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        count, is_place, key = super()._deserialize(value, attr, data, **kwargs).partition(".")
        # Nothing has been asked for more often than a database's integer can tell.
        if not is_place or not count.isascii() or not count.isdigit() or len(count) > _COUNT_DIGITS:
            raise ValidationError("must be the `next` of a page of this report.")
        return int(count), key


def rank_text(count: int, key: str) -> str:
    """What `Rank` reads."""
    return f"{count}.{key}"


class PriceQuery(_Limited):
    """Whose price, if it is not about those that are missing."""

    model = typed.String()
    project = typed.String()


class UsageQuery(_Limited):
    """Whose usage, over what time, summed by what."""

    project_id = typed.String()
    token_id = typed.String()
    model = typed.String()
    begin = _When(data_key="from")
    end = _When(data_key="to")
    group_by = typed.String(
        load_default="hour", validate=validate.OneOf(USAGE_GROUPS, error="must be one of {choices}.")
    )

    zone = Zone(data_key="tz")
    after = Rank()

    @validates_schema
    def _days_alone(self, data: dict[str, Any], **_: Any) -> None:
        if "zone" in data and data.get("group_by") != "day":
            raise ValidationError("is for group_by=day.", field_name="tz")

    @validates_schema
    def _whose_usage_alone(self, data: dict[str, Any], **_: Any) -> None:
        if "after" in data and data.get("group_by") in _STEPS:
            raise ValidationError("is for group_by=project, token or model.", field_name="after")

    @post_load
    def _span(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        end = data.setdefault("end", datetime.now(UTC))
        begin = data.setdefault("begin", end - timedelta(days=1))
        if begin >= end:
            raise ValidationError("must be before to.", field_name="from")
        longest = MAX_USAGE_STEPS * _STEPS.get(data["group_by"], timedelta(0))
        if longest and end - begin > longest:
            raise ValidationError(f"must not be more than {longest.days} days before to.", field_name="from")
        return data
