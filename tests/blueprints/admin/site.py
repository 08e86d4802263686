"""The admin pages without a browser: one client fills in forms as a browser does, one sends what curl sends."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

PASSWORD = "admin-password-of-the-tests"
HOST = "http://localhost"
KEY = "sk-planted-key-0123456789abcdef"


def basic(user: str = "admin", password: str = PASSWORD) -> dict[str, str]:
    """The header that signs in."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@dataclass
class Form:
    """A form as a page holds it: where it goes, its fields with what they hold."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._select: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form":
            self.forms.append(Form(values.get("action") or "", (values.get("method") or "get").lower()))
        name = values.get("name")
        if tag == "input" and name and self.forms:
            self.forms[-1].fields[name] = values.get("value") or ""
        if tag == "select" and name:
            self._select = name
        if tag == "option" and self._select:
            fields = self.forms[-1].fields
            if "selected" in values or self._select not in fields:
                fields[self._select] = values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None


class Browser:
    """Sends the headers that browsers send, keeps cookies, runs no script."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client()
        self.headers = basic() | {
            "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "Accept-Language": "en",
            "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)",
        }

    def get(self, path: str) -> TestResponse:
        """The page."""
        return self.client.get(path, headers=self.headers | {"Sec-Fetch-Site": "same-origin"})

    def post(self, path: str, fields: dict[str, str], **headers: str) -> TestResponse:
        """What pressing a button sends."""
        own = {"Origin": HOST, "Referer": f"{HOST}/admin/", "Sec-Fetch-Site": "same-origin"}
        return self.client.post(path, data=fields, headers=self.headers | own | headers)

    def form(self, page: str, action: str) -> Form:
        """The form on `page` that is sent to `action`."""
        answer = self.get(page)
        assert answer.status_code == 200, (page, answer.status)
        return next(form for form in forms_of(answer) if form.action == action)

    def submit(self, page: str, action: str, **fields: str) -> TestResponse:
        """Open `page`, fill in the form that goes to `action`, send it."""
        form = self.form(page, action)
        assert set(fields) <= set(form.fields) | {"is_active", "url"}, set(fields) - set(form.fields)
        return self.post(action, form.fields | fields)

    def follow(self, answer: TestResponse) -> TestResponse:
        """The page that a redirect leads to."""
        assert answer.status_code == 303, (answer.status, answer.text)
        return self.get(answer.headers["Location"])

    def create_project(self, name: str = "first", **fields: str) -> str:
        """The id of a new project."""
        answer = self.submit("/admin/projects/new", "/admin/projects", name=name, openai_api_key=KEY, **fields)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"].rsplit("/", 1)[1]


class Script:
    """Sends what curl sends: no cookie, no Origin, no header of a browser."""

    def __init__(self, app: Flask) -> None:
        self.client = app.test_client(use_cookies=False)
        self.headers = basic() | {"Accept": "*/*", "User-Agent": "curl/8.5.0"}

    def send(self, method: str, path: str, **options: Any) -> TestResponse:
        """The answer; `json`, `data` and more headers as of werkzeug's test client."""
        headers = self.headers | options.pop("headers", {})
        return self.client.open(path, method=method, headers=headers, **options)


def forms_of(answer: TestResponse) -> list[Form]:
    """The forms of a page."""
    parser = _Forms()
    parser.feed(answer.text)
    return parser.forms
