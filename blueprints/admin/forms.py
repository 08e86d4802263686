"""
The forms, as fields to show. What a value must be is said by the schemas of the management API alone, so a form
and a JSON body get the same answer; their messages are put beside the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_wtf import FlaskForm
from marshmallow import Schema, ValidationError
from wtforms import HiddenField, PasswordField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from blueprints import schemas
from blueprints.admin.display import for_input, from_input
from blueprints.admin.forgery import StaleForm
from control.audit import version_of
from control.errors import Conflict, NotFound
from models import Project, Token

STREAM_USAGE = (
    SelectChoice("as-sent", "Only when the caller asks for it"),
    SelectChoice("ask", "Always: ask the upstream for it in every stream"),
)
STALE_FORM = "This form was open for too long, so nothing was changed. Look it over and send it again."


Refusal = ValidationError | Conflict | NotFound | StaleForm


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

    def values(self) -> dict[str, Any]:
        """What was entered, typed as a JSON body would be."""
        raise NotImplementedError

    def load(self, schema: Schema) -> dict[str, Any]:
        """The checked values. Raises ValidationError."""
        checked: dict[str, Any] = schema.load(self.values())
        return checked

    def show(self, messages: Mapping[str, Any]) -> None:
        """Put messages beside their fields, and above the form where there is no such field."""
        for name, words in messages.items():
            text = words[0] if isinstance(words, list) else str(words)
            if name in self and not isinstance(self[name], HiddenField):
                self[name].errors = [_sentence(text)]
            else:
                self.problem = _sentence(text)

    def refuse(self, exc: Refusal) -> int:
        """Show why it was not taken; the status of the answer."""
        if isinstance(exc, StaleForm):
            self.problem = STALE_FORM
            return 400
        if isinstance(exc, ValidationError):
            self.show(exc.normalized_messages())  # type: ignore[no-untyped-call]
            return 400
        if exc.field == "nonce":
            # Used up. What is sent next time is another form.
            self["nonce"].data = None
        self.show({exc.field: str(exc)})
        return 404 if isinstance(exc, NotFound) else 409


class NewProjectForm(Form):
    """Create a project."""

    nonce = HiddenField()
    name = StringField("Name")
    openai_api_key = PasswordField("API key")
    base_url = StringField("Base URL")
    stream_usage = SelectField(
        "Token usage of streams", choices=STREAM_USAGE, default="as-sent", validate_choice=False
    )

    def values(self) -> dict[str, Any]:
        """For schemas.NewProject."""
        sent = {"name": _text(self.name), "openai_api_key": _text(self.openai_api_key)}
        return sent | _optional(self.base_url) | {"stream_usage": self.stream_usage.data or "as-sent"}


class ProjectForm(Form):
    """Change a project."""

    seen = HiddenField()
    name = StringField("Name")
    base_url = StringField("Base URL")
    stream_usage = SelectField("Token usage of streams", choices=STREAM_USAGE, validate_choice=False)

    @classmethod
    def of(cls, project: Project) -> ProjectForm:
        """Filled in with what is."""
        data = {
            "seen": version_of(project),
            "name": project.name,
            "base_url": project.base_url,
            "stream_usage": project.stream_usage,
        }
        form: ProjectForm = cls(formdata=None, data=data)
        return form

    def values(self) -> dict[str, Any]:
        """For schemas.ProjectChange."""
        return {
            "name": _text(self.name),
            "base_url": _text(self.base_url) or None,
            "stream_usage": self.stream_usage.data,
        }


class KeyForm(Form):
    """Replace a project's API key."""

    openai_api_key = PasswordField("New API key", id="new_api_key")

    def values(self) -> dict[str, Any]:
        """For schemas.ProjectChange."""
        return {"openai_api_key": _text(self.openai_api_key)}


class DeleteProjectForm(Form):
    """Delete a project, having read how many tokens go with it."""

    live_tokens = StringField("Live tokens that will stop working")

    def number(self) -> int:
        """The number entered. Raises ValidationError."""
        number = _number(_text(self.live_tokens))
        if not isinstance(number, int):
            raise ValidationError({"live_tokens": ["Enter the number of tokens that will stop working."]})
        return number


class NewTokenForm(Form):
    """Issue a token."""

    nonce = HiddenField()
    project_id = SelectField("Project", validate_choice=False)
    duration_hours = StringField("Lifetime in hours", default="24")
    label = StringField("Label")
    rate_limit = StringField("Requests per hour")

    def values(self) -> dict[str, Any]:
        """For schemas.NewToken."""
        sent = {"project_id": self.project_id.data or ""} | _optional(self.label)
        hours, limit = _text(self.duration_hours), _text(self.rate_limit)
        if hours:
            sent["duration_hours"] = _number(hours)
        if limit:
            sent["rate_limit"] = _number(limit)
        return sent


class TokenForm(Form):
    """Change a token."""

    seen = HiddenField()
    label = StringField("Label")
    rate_limit = StringField("Requests per hour")
    expires_at = StringField("Expires at (UTC)")

    @classmethod
    def of(cls, token: Token) -> TokenForm:
        """Filled in with what is."""
        data = {
            "seen": version_of(token),
            "label": token.label,
            "rate_limit": token.rate_limit,
            "expires_at": for_input(token.expires_at),
        }
        form: TokenForm = cls(formdata=None, data=data)
        return form

    def changes(self, token: Token) -> dict[str, Any]:
        """The checked values for schemas.TokenChange. Raises ValidationError."""
        checked = self.load(schemas.TokenChange())
        # The field holds no seconds: an expiry that nobody touched must not lose its own.
        if self.expires_at.data == for_input(token.expires_at):
            del checked["expires_at"]
        return checked

    def values(self) -> dict[str, Any]:
        """For schemas.TokenChange."""
        limit = _text(self.rate_limit)
        return {
            "label": _text(self.label) or None,
            "rate_limit": _number(limit) if limit else None,
            "expires_at": from_input(_text(self.expires_at)),
        }


def _text(field: Any) -> str:
    return (field.data or "").strip()


def _optional(field: Any) -> dict[str, str]:
    text = _text(field)
    return {field.name: text} if text else {}


def _number(text: str) -> int | str:
    """The whole number that was typed; other text stays, for the schema to refuse."""
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else text


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
