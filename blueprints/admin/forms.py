"""
The forms, as fields to show. What a value must be is said by the schemas of the management API alone, so a form
and a JSON body get the same answer; their messages are put beside the fields.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from flask_wtf import FlaskForm
from marshmallow import Schema, ValidationError
from wtforms import HiddenField, PasswordField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from blueprints import schemas
from blueprints.admin import zones
from blueprints.admin.display import for_input
from blueprints.admin.forgery import StaleForm
from blueprints.errors import first_problem
from control.errors import Conflict, KeyNeeded, NotFound
from models import Token

STREAM_USAGE = (
    SelectChoice("as-sent", "Only when the caller asks for it"),
    SelectChoice("ask", "Always: ask the upstream for it in every stream"),
)
UNITS = (SelectChoice("usd", "Dollars"), SelectChoice("tokens", "LLM tokens"), SelectChoice("requests", "Requests"))
BUDGET_PERIODS = (
    SelectChoice("day", "Per day"),
    SelectChoice("week", "Per week"),
    SelectChoice("month", "Per month"),
    SelectChoice("total", "In total"),
)
LIMIT_PERIODS = (SelectChoice("minute", "Per minute"), SelectChoice("hour", "Per hour"), *BUDGET_PERIODS)
PRESETS = (
    SelectChoice("", "Whatever its project may"),
    SelectChoice("inference", "Inference alone: nothing stored is read, listed or deleted"),
    SelectChoice("stateful", "Inference, files, vector stores, conversations and the like"),
)
RESERVES = (SelectChoice("likely", "What it is likely to cost"), SelectChoice("bound", "The most that it can cost"))
STALE_FORM = "This form was open for too long, so nothing was changed. Look it over and send it again."
# The field comes back empty: an answer never holds a key.
ENTER_AGAIN = "Enter it again: nothing was saved, and no page holds a key."

Refusal = ValidationError | Conflict | KeyNeeded | NotFound | StaleForm


class Form(FlaskForm):  # type: ignore[misc]
    """
    Base of the forms.

    Attributes:
        problem: What is wrong with the form as a whole; shown above it.
    """

    class Meta:
        """The CSRF token is checked for every form at once, before any view runs."""

        csrf = False

    problem: str | None = None

    def load(self, schema: Schema, *, apart: Container[str] = (), **more: Any) -> dict[str, Any]:
        """
        What was entered, as a JSON body would say it: an empty field is null where it may be. ValidationError.

        Args:
            apart: Names of fields that the schema has not; `more` is what they say.
        """
        entered: dict[str, Any] = dict(more)
        for field in self:
            if field.name in apart:
                continue
            text = (field.data or "").strip()
            if text and isinstance(field, NumberField | TimeField):
                entered[field.name] = field.typed(text)
            elif not isinstance(field, HiddenField):
                entered[field.name] = text or (None if schema.fields[field.name].allow_none else "")
        checked: dict[str, Any] = schema.load(entered)
        return checked

    def show(self, messages: Mapping[str, Any]) -> None:
        """Put messages beside their fields, and above the form where there is no such field."""
        inner = messages.get("rules")
        if isinstance(inner, Mapping):
            # `rules.limits.n` stands beside the field `n`.
            inner = {name.removeprefix("rules.").removeprefix("limits."): words for name, words in inner.items()}
            messages = {name: words for name, words in messages.items() if name != "rules"} | inner
        for name, words in messages.items():
            text = first_problem(words)[1]
            if name in self and not isinstance(self[name], HiddenField):
                self[name].errors = [_sentence(text)]
            else:
                self.problem = _sentence(text)

    def refuse(self, exc: Refusal) -> int:
        """Show why it was not taken, and what has to be entered again; the status of the answer."""
        status = self._refuse(exc)
        for field in self:
            if isinstance(field, PasswordField) and field.data and not field.errors:
                field.errors = [ENTER_AGAIN]
        return status

    def _refuse(self, exc: Refusal) -> int:
        if isinstance(exc, StaleForm):
            self.problem = STALE_FORM
            return 400
        if isinstance(exc, ValidationError):
            self.show(exc.normalized_messages())  # type: ignore[no-untyped-call]
            return 400
        if isinstance(exc, KeyNeeded):
            self.show({exc.field: str(exc)})
            return 400
        if exc.field == "nonce":
            # Used up. What is sent next time is another form.
            self["nonce"].data = None
        self.show({exc.field: str(exc)})
        return 404 if isinstance(exc, NotFound) else 409


class NumberField(StringField):  # type: ignore[misc]
    """A whole number. Other text stays, for the schema to refuse."""

    def typed(self, text: str) -> int | str:
        digits = text.removeprefix("-")
        return int(text) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else text


class TimeField(StringField):  # type: ignore[misc]
    """A time in the pages' zone to the minute, as `<input type="datetime-local">` holds it."""

    def __init__(self, label: str, **more: Any) -> None:
        super().__init__(f"{label} ({zones.of_pages()})", **more)

    def typed(self, text: str) -> str:
        with suppress(ValueError):
            if (moment := datetime.fromisoformat(text)).tzinfo is None:
                # Of the two that an hour has when clocks are put back, the first.
                return moment.replace(tzinfo=zones.of_pages()).isoformat()
        return f"{text}Z"


class NewProjectForm(Form):
    """Create a project."""

    nonce = HiddenField()
    name = StringField("Name")
    openai_api_key = PasswordField("API key")
    base_url = StringField("Base URL")
    stream_usage = SelectField(
        "LLM tokens of streams", choices=STREAM_USAGE, default="as-sent", validate_choice=False
    )


class ProjectForm(Form):
    """Change a project."""

    seen = HiddenField()
    name = StringField("Name")
    base_url = StringField("Base URL")
    openai_api_key = PasswordField("API key for another host", id="api_key_for_base_url")
    stream_usage = SelectField("LLM tokens of streams", choices=STREAM_USAGE, validate_choice=False)

    def changes(self) -> dict[str, Any]:
        """The checked values for schemas.ProjectChange; the key where one was entered. Raises ValidationError."""
        if not self.openai_api_key.data:
            del self.openai_api_key
        return self.load(schemas.ProjectChange())


class KeyForm(Form):
    """Replace a project's API key."""

    openai_api_key = PasswordField("New API key", id="new_api_key")


class DeleteProjectForm(Form):
    """Delete a project, having read how many tokens go with it."""

    live_tokens = NumberField("Live tokens that will stop working")

    def number(self) -> int:
        """The number entered. Raises ValidationError."""
        number = self.live_tokens.typed((self.live_tokens.data or "").strip())
        if not isinstance(number, int):
            raise ValidationError({"live_tokens": ["Enter the number of tokens that will stop working."]})
        return number


class NewTokenForm(Form):
    """Issue a token."""

    nonce = HiddenField()
    project_id = SelectField("Project", validate_choice=False)
    duration_hours = NumberField("Lifetime in hours", default="24")
    label = StringField("Label")
    rate_limit = NumberField("Requests per hour")
    preset = SelectField("May use", choices=PRESETS, default="", validate_choice=False)
    models = StringField("Models")
    budget = StringField("Budget in USD")
    budget_per = SelectField("Counted", choices=BUDGET_PERIODS, default="day", validate_choice=False)

    def values(self) -> dict[str, Any]:
        """The checked values for schemas.NewToken. Raises ValidationError."""
        amount = (self.budget.data or "").strip()
        zone = zones.configured().key
        more: dict[str, Any] = {}
        if amount:
            more["budget"] = {"usd": amount, "per": self.budget_per.data or "", "zone": zone}
        rules: dict[str, Any] = {"preset": self.preset.data} if self.preset.data else {}
        if models := names_in(self.models.data):
            rules["models"] = models
        if rules:
            more["rules"] = rules
        return self.load(schemas.NewToken(), apart=("preset", "models", "budget", "budget_per"), **more)


class NewLimitForm(Form):
    """Add a limit to a token or a project."""

    token_id = HiddenField()
    project_id = HiddenField()
    unit = SelectField("What is limited", choices=UNITS, default="usd", validate_choice=False)
    amount = StringField("Amount")
    period = SelectField("Counted", choices=LIMIT_PERIODS, default="day", validate_choice=False)
    zone = StringField("Time zone", default="UTC")
    reserve = SelectField("What a running call holds", choices=RESERVES, default="likely", validate_choice=False)
    models = StringField("Models")
    name = StringField("Name")

    def values(self) -> dict[str, Any]:
        """The checked values for schemas.OwnedMeter. Raises ValidationError."""
        owner = "token_id" if self.token_id.data else "project_id"
        more = {owner: self[owner].data or "", "amount": _amount(self.unit.data, self.amount.data)}
        if models := names_in(self.models.data):
            more["models"] = models
        if name := (self.name.data or "").strip():
            more["name"] = name
        return self.load(schemas.OwnedMeter(), apart=("amount", "models", "name"), **more)


class LimitForm(Form):
    """Change a limit."""

    amount = StringField("Amount")
    reserve = SelectField("What a running call holds", choices=RESERVES, validate_choice=False)
    name = StringField("Name")

    def changes(self, unit: str) -> dict[str, Any]:
        """The checked values for schemas.MeterChange, of a meter in this unit. Raises ValidationError."""
        amount = _amount(unit, self.amount.data)
        return self.load(schemas.MeterChange(unit=unit), apart=("amount",), amount=amount)


class RotateForm(Form):
    """Give a token a new secret."""

    nonce = HiddenField()
    grace_hours = NumberField("Hours that the old secret still works", default="24")


class ExtendForm(Form):
    """Let tokens live longer."""

    expires_at = TimeField("Until")


class TokenForm(Form):
    """Change a token."""

    seen = HiddenField()
    label = StringField("Label")
    rate_limit = NumberField("Requests per hour")
    expires_at = TimeField("Expires at")

    def changes(self, token: Token) -> dict[str, Any]:
        """The checked values for schemas.TokenChange. Raises ValidationError."""
        checked = self.load(schemas.TokenChange())
        # The field holds no seconds: an expiry that nobody touched must not lose its own.
        if self.expires_at.data == for_input(token.expires_at, zones.of_pages()):
            del checked["expires_at"]
        return checked


def _amount(unit: str | None, text: str | None) -> str | int:
    """An amount as a JSON body would say it. What is no number stays, for the schema to refuse."""
    text = (text or "").strip().removeprefix("$")
    if unit == "usd":
        return text
    digits = text.replace(",", "")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else text


def names_in(text: str | None) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
