"""The form for rules: their JSON as fields, and a call to try them on. What they must be the management API says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wtforms import HiddenField, SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from blueprints import schemas
from blueprints.admin.forms import Form, NumberField, names_in
from llmproxy.limits.routes import PRESETS

MODES = (SelectChoice("enforce", "Is refused"), SelectChoice("report", "Goes up, and is noted"))
ENDPOINTS = (
    SelectChoice("", "The usual ones, or those named below"),
    SelectChoice("inference", "Inference: nothing stored is read, listed or deleted"),
    SelectChoice("stateful", "Stateful: the usual ones, files, vector stores, conversations and the like"),
)
UNPRICED = (
    SelectChoice("", "Refused, unless other rules allow it"),
    SelectChoice("refuse", "Refused"),
    SelectChoice("allow", "Allowed"),
)
ALLOWED = (SelectChoice("true", "Allowed"), SelectChoice("false", "Refused"))
WANTED = (SelectChoice("false", "May be left out"), SelectChoice("true", "Must be asked for"))
# A GET, to whoever looks at its line alone.
WEBSOCKET = "WebSocket"
METHODS = tuple(SelectChoice(method, method) for method in ("POST", "GET", "DELETE", WEBSOCKET))
# In the field of tools: not any at all.
NO_TOOLS = "none"
_LISTS = ("service_tier", "tools", "reasoning_effort")
_NUMBERS = ("max_output_tokens", "n", "max_body_bytes")
# Of what a rule says where it is left out.
_FLAGS = {"require_max_output": False, "background": True, "store": True}


def _choice(label: str, choices: tuple[SelectChoice, ...]) -> SelectField:
    return SelectField(label, choices=choices, validate_choice=False)


class RulesForm(Form):
    """Set the rules of a token, or of a project where none is named."""

    token_id = HiddenField()
    project_id = HiddenField()
    seen = HiddenField()
    mode = _choice("What breaks them", MODES)
    models = StringField("Models")
    preset = _choice("Endpoints", ENDPOINTS)
    endpoints = StringField("Endpoints by name")
    addresses = StringField("Addresses")
    concurrency = NumberField("Calls at a time")
    unpriced = _choice("Models without a price", UNPRICED)
    max_output_tokens = NumberField("Output tokens at most")
    require_max_output = _choice("A limit of output tokens", WANTED)
    n = NumberField("Choices at most")
    service_tier = StringField("Service tiers")
    tools = StringField("Tools")
    background = _choice("Running in the background", ALLOWED)
    store = _choice("Having responses stored", ALLOWED)
    reasoning_effort = StringField("Reasoning efforts")
    max_body_bytes = NumberField("Bytes at most")
    method = _choice("Method", METHODS)
    path = StringField("Path", default="/v1/chat/completions")
    content_type = StringField("Content-Type", default="application/json")
    address = StringField("From the address")
    body = TextAreaField("Body")

    def document(self) -> dict[str, Any]:
        """The rules, as JSON has them. Raises ValidationError."""
        found: dict[str, Any] = {"mode": self._text("mode") or "enforce"}
        for name in ("models", "endpoints", "addresses"):
            if entries := self._entries(name):
                found[name] = entries
        for name in ("preset", "unpriced"):
            if text := self._text(name):
                found[name] = text
        if text := self._text("concurrency"):
            found["concurrency"] = self.concurrency.typed(text)
        if limits := self._limits():
            found["limits"] = limits
        checked: dict[str, Any] = schemas.TokenChange().load({"rules": found})["rules"]
        return checked

    def _limits(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in _NUMBERS:
            if text := self._text(name):
                found[name] = self[name].typed(text)
        for name, usual in _FLAGS.items():
            if (flag := self._text(name) == "true" if self._text(name) else usual) is not usual:
                found[name] = flag
        for name in _LISTS:
            if entries := self._entries(name):
                found[name] = [] if name == "tools" and entries == [NO_TOOLS] else entries
        return found

    def _entries(self, name: str) -> list[str]:
        return names_in(self._text(name))

    def _text(self, name: str) -> str:
        return (self[name].data or "").strip()


def fields_of(rules: Mapping[str, Any] | None) -> dict[str, str]:
    """What the form's fields hold for rules that are there."""
    rules = rules or {}
    limits = rules.get("limits") or {}
    found = {name: str(rules[name]) for name in ("mode", "preset", "unpriced", "concurrency") if name in rules}
    found |= {name: ", ".join(rules[name]) for name in ("models", "endpoints", "addresses") if name in rules}
    found |= {name: str(limits[name]) for name in _NUMBERS if name in limits}
    found |= {name: "true" if limits.get(name, usual) else "false" for name, usual in _FLAGS.items()}
    found |= {name: ", ".join(limits[name]) or NO_TOOLS for name in _LISTS if name in limits}
    return found


assert {choice.value for choice in ENDPOINTS if choice.value} == set(PRESETS)  # noqa: S101
