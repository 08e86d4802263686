"""The one table from errors to answers, for every route but the proxied ones: as JSON, and as pages in `admin`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from blueprints.ops_listener import IS_OPS
from blueprints.welcome import api_url
from control.errors import Conflict, KeyNeeded, NotFound
from control.listing import NoSuchPlace
from control.sign_ins import TooManyFailures
from database.errors import DATABASE_DOWN, Unstorable
from llmproxy.errors import AuthUnavailable, ProxyError
from llmproxy.telemetry import outages

UNUSABLE = "That cannot be right"
_OPERATORS_PATHS = ("/admin", "/manage")
_TYPES = {401: "invalid_request_error", 403: "permission_error", 503: "service_unavailable_error"}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in OpenAI's form."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    response = jsonify(error={"message": message, "type": kind, "param": param, "code": code})
    response.status_code = status
    response.headers.update(headers or {})
    return response


def first_problem(messages: Any, param: str | None = None) -> tuple[str | None, str]:
    """The field and the words of the first of marshmallow's messages."""
    if isinstance(messages, dict):
        field, inner = next(iter(messages.items()))
        # What is wrong with a whole object, or with an entry of a list, is told of the field that has it.
        return first_problem(inner, param if field == "_schema" or isinstance(field, int) else str(field))
    if isinstance(messages, list):
        return first_problem(messages[0], param)
    return param, str(messages)


def _as_json(_exc: Exception, _title: str, *what: Any, **more: Any) -> Response:
    return error_response(*what, **more)


def _nothing_here() -> str:
    """For a path without a route: a client with the wrong base URL is told the right one, where calls are served."""
    words = "There is nothing at this path."
    if request.environ.get(IS_OPS) or request.path.startswith(_OPERATORS_PATHS):
        return words
    return f"{words} The API is below /v1: base_url={api_url()}"


def register(app: Flask | Blueprint, respond: Callable[..., Response] = _as_json) -> None:
    """
    Answer every error of `app` by this table.

    Args:
        respond: Makes an answer of the error, a title, and what `error_response` takes.
    """

    def invalid(exc: ValidationError) -> Response:
        param, words = first_problem(exc.messages)
        return respond(exc, UNUSABLE, 400, f"{param} {words}" if param else words, param=param)

    def database_down(exc: Exception) -> Response:
        cause = type(getattr(exc, "orig", exc)).__name__
        outages.note("database_unavailable", f"an operator's request failed: {cause}. {AuthUnavailable.remedy}")
        title, code, later = "The database does not answer", "database_unavailable", {"Retry-After": "1"}
        return respond(exc, title, 503, f"{title}. Try again.", code=code, headers=later)

    def http(exc: HTTPException) -> Response:
        # `Allow` of a 405 and the like are part of the answer.
        headers = {name: value for name, value in exc.get_headers() if not name.lower().startswith("content-")}
        words = _nothing_here() if exc.code == 404 else exc.description or "The request failed."
        return respond(exc, exc.name, exc.code or 500, words, headers=headers)

    def fault(exc: Exception) -> Response:
        outages.broke("an operator's request failed", exc)
        return respond(exc, "Something broke", 500, "The proxy failed. Its log says why.")

    def too_many(exc: TooManyFailures) -> Response:
        title, later = "Too many wrong credentials", {"Retry-After": str(exc.wait_s)}
        return respond(exc, title, 429, str(exc), code="too_many_failures", headers=later)

    handle = app.register_error_handler
    handle(ValidationError, invalid)
    handle(ProxyError, lambda exc: respond(exc, UNUSABLE, exc.status, exc.message, code=exc.code))
    handle(NoSuchPlace, lambda exc: respond(exc, UNUSABLE, 400, str(exc), param="after"))
    handle(Unstorable, lambda exc: respond(exc, UNUSABLE, 400, "A value holds what the database cannot store."))
    handle(TooManyFailures, too_many)
    handle(NotFound, lambda exc: respond(exc, "Not found", 404, str(exc), param=exc.field))
    handle(KeyNeeded, lambda exc: respond(exc, UNUSABLE, 400, str(exc), param=exc.field))
    handle(Conflict, lambda exc: respond(exc, "That does not go together", 409, str(exc), param=exc.field))
    for kind in DATABASE_DOWN:
        handle(kind, database_down)
    handle(HTTPException, http)
    handle(Exception, fault)
