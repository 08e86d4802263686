"""The one table from errors to JSON answers, for every route but the proxied ones and the admin's pages."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, jsonify
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException

from control.errors import Conflict, NotFound
from control.listing import NoSuchPlace
from database.errors import DATABASE_DOWN, Unstorable

log = logging.getLogger(__name__)

UNSTORABLE = "A value holds a character that the database cannot store."
_TYPES = {401: "invalid_request_error", 403: "permission_error", 503: "service_unavailable_error"}


def error_response(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Response:
    """An error in OpenAI's form."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    response = jsonify(error={"message": message, "type": kind, "param": param, "code": code})
    response.status_code = status
    return response


def first_problem(messages: Any, param: str | None = None) -> tuple[str | None, str]:
    """The field and the words of the first of marshmallow's messages."""
    if isinstance(messages, dict):
        field, inner = next(iter(messages.items()))
        return first_problem(inner, None if field == "_schema" else str(field))
    if isinstance(messages, list):
        return first_problem(messages[0], param)
    return param, str(messages)


def _invalid(exc: ValidationError) -> Response:
    param, words = first_problem(exc.messages)
    return error_response(400, f"{param} {words}" if param else words, param=param)


def _http(exc: HTTPException) -> Response:
    response = error_response(exc.code or 500, exc.description or "The request failed.")
    # `Allow` of a 405 and the like are part of the answer.
    for name, value in exc.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _database_down(exc: Exception) -> Response:
    log.error("the database does not answer: %s", type(getattr(exc, "orig", exc)).__name__)
    response = error_response(503, "The database does not answer. Try again.", code="database_unavailable")
    response.headers["Retry-After"] = "1"
    return response


def register(app: Flask) -> None:
    """Answer every error of `app` by this table."""
    app.register_error_handler(ValidationError, _invalid)
    app.register_error_handler(NotFound, lambda exc: error_response(404, str(exc), param=exc.field))
    app.register_error_handler(Conflict, lambda exc: error_response(409, str(exc), param=exc.field))
    for kind in DATABASE_DOWN:
        app.register_error_handler(kind, _database_down)
    app.register_error_handler(Unstorable, lambda _: error_response(400, UNSTORABLE))
    app.register_error_handler(NoSuchPlace, lambda exc: error_response(400, str(exc), param="after"))
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _fault)


def _fault(exc: Exception) -> Response:
    log.exception("a request failed", exc_info=exc)
    return error_response(500, "The proxy failed. Its log says why.")
