"""
HTML for browsers, JSON for scripts: which of the two an answer is, and the table from errors to both.

A form that is refused is shown again, with what was entered and what is wrong beside the fields.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from flask import Response, flash, make_response, redirect, render_template, request, url_for
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import NotFound as NoSuchPage

from blueprints.admin import forgery
from blueprints.admin.access import REALM, NotSignedIn, TooManyFailures
from blueprints.admin.forgery import ForeignRequest, StaleForm
from blueprints.admin.forms import Form, Refusal
from blueprints.admin.site import bp
from blueprints.errors import UNSTORABLE, error_response, first_problem
from control.errors import Conflict, NotFound
from database.errors import DATABASE_DOWN, Unstorable

log = logging.getLogger(__name__)

Show = TypeVar("Show", bound=Callable[..., Response])
# The form that a view takes, and what shows it again with a status, by the name of the view.
_forms: dict[str, tuple[type[Form], Callable[..., Response]]] = {}

_HTML = ("text/html", "application/xhtml+xml")


def wants_json() -> bool:
    """
    True for whoever sends JSON or prefers it. Who names neither form gets a page from a GET, and JSON from a
    change: `curl -d` sends `Accept: */*`, and a script can use the answer.
    """
    if request.is_json:
        return True
    accept = request.accept_mimetypes
    html = max((quality for value, quality in accept if value in _HTML), default=None)
    json = max((quality for value, quality in accept if value == "application/json"), default=0)
    if html is None:
        return json > 0 or request.method not in forgery.SAFE_METHODS
    return json > html


def page(template: str, status: int = 200, **values: Any) -> Response:
    """A rendered page."""
    return make_response(render_template(f"admin/{template}", **values), status)


def done(message: str, endpoint: str, **values: Any) -> Response:
    """After a change: on to a page that says what was done. Reloading it repeats nothing."""
    flash(message)
    return make_response(redirect(url_for(f"{bp.name}.{endpoint}", **values), code=303))


def shows(form: type[Form], *, of: str) -> Callable[[Show], Show]:
    """The decorated function shows the form of the view `of` again when it was refused."""

    def keep(show: Show) -> Show:
        _forms[f"{bp.name}.{of}"] = form, show
        return show

    return keep


def _again(exc: Refusal) -> Response | None:
    """The form that was sent, with why it was not taken; None for a script, and where that is no matter of a form."""
    form_class, show = _forms.get(request.endpoint or "", (None, None))
    if form_class is None or show is None or wants_json():
        return None
    form = form_class()
    if isinstance(exc, NotFound) and exc.field not in form:
        return None
    # What it is about may have been deleted.
    with suppress(NotFound):
        return show(form, form.refuse(exc))
    return None


def problem(status: int, title: str, message: str, *, param: str | None = None, code: str | None = None) -> Response:
    """An error, as a page or as JSON."""
    if wants_json():
        return error_response(status, message, param=param, code=code)
    return page("problem.html", status, number=status, title=title, message=message)


@bp.get("/<path:_>")
def nowhere(_: str) -> Response:
    """Whatever has no route: a page that says so."""
    raise NoSuchPage


@bp.errorhandler(NotSignedIn)
def _not_signed_in(_: NotSignedIn) -> Response:
    response = problem(401, "Sign in", "Give the admin user and password to see these pages.")
    response.headers["WWW-Authenticate"] = REALM
    return response


@bp.errorhandler(TooManyFailures)
def _too_many_failures(exc: TooManyFailures) -> Response:
    response = problem(429, "Too many wrong passwords", str(exc), code="too_many_failures")
    response.headers["Retry-After"] = str(exc.wait_s)
    return response


@bp.errorhandler(ForeignRequest)
def _foreign(_: ForeignRequest) -> Response:
    return problem(
        403,
        "This came from another site",
        "The request was not sent by these pages, so nothing was changed.",
        code="cross_site_request",
    )


@bp.errorhandler(StaleForm)
def _stale(exc: StaleForm) -> Response:
    return _again(exc) or problem(
        400,
        "This form was open for too long",
        "Nothing was changed. Go back, reload the page and try again.",
        code="stale_form",
    )


@bp.errorhandler(NotFound)
def _no_such_row(exc: NotFound) -> Response:
    return _again(exc) or problem(404, "Not found", f"{exc} It may have been deleted.", param=exc.field)


@bp.errorhandler(Conflict)
def _conflict(exc: Conflict) -> Response:
    return _again(exc) or problem(409, "That does not go together", str(exc), param=exc.field)


@bp.errorhandler(ValidationError)
def _invalid(exc: ValidationError) -> Response:
    param, words = first_problem(exc.messages)
    return _again(exc) or problem(400, "That cannot be right", f"{param} {words}" if param else words, param=param)


@bp.errorhandler(Unstorable)
def _unstorable(_: Unstorable) -> Response:
    return problem(400, "That cannot be right", UNSTORABLE)


def _database_down(exc: Exception) -> Response:
    log.error("the database does not answer: %s", type(getattr(exc, "orig", exc)).__name__)
    message = "The database does not answer. Nothing was changed. Try again."
    response = problem(503, "The database does not answer", message, code="database_unavailable")
    response.headers["Retry-After"] = "1"
    return response


for _kind in DATABASE_DOWN:
    bp.register_error_handler(_kind, _database_down)


@bp.errorhandler(HTTPException)
def _http(exc: HTTPException) -> Response:
    return problem(exc.code or 500, exc.name, exc.description or "The request failed.")


@bp.errorhandler(Exception)
def _fault(exc: Exception) -> Response:
    log.exception("an admin page failed", exc_info=exc)
    return problem(500, "Something broke", "This page failed. The proxy's log says why.")
