"""
HTML for browsers, JSON for scripts: which of the two an answer is, also where it is an error.

A form that is refused is shown again, with what was entered and what is wrong beside the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from flask import Response, flash, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound as NoSuchPage

from blueprints import errors
from blueprints.admin import forgery
from blueprints.admin.access import REALM, NotSignedIn
from blueprints.admin.exports import wants_csv
from blueprints.admin.forgery import ForeignRequest, StaleForm
from blueprints.admin.forms import Form, Refusal
from blueprints.admin.site import bp
from blueprints.errors import error_response
from control.errors import NotFound

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


def _again(exc: Exception) -> Response | None:
    """The form that was sent, with why it was not taken; None where that is no matter of a form."""
    form_class, show = _forms.get(request.endpoint or "", (None, None))
    if form_class is None or show is None or not isinstance(exc, Refusal):
        return None
    form = form_class()
    if isinstance(exc, NotFound) and exc.field not in form:
        return None
    # What it is about may have been deleted.
    with suppress(NotFound):
        return show(form, form.refuse(exc))
    return None


def problem(exc: Exception, title: str, status: int, message: str, **more: Any) -> Response:
    """What an error means: as JSON, also in place of a file, as the form that was sent, or as a page."""
    if wants_json() or wants_csv():
        return error_response(status, message, **more)
    response = _again(exc) or page("problem.html", status, number=status, title=title, message=message)
    response.headers.update(more.get("headers") or {})
    return response


@bp.get("/<path:_>")
def nowhere(_: str) -> Response:
    """Whatever has no route: a page that says so."""
    raise NoSuchPage


@bp.errorhandler(NotSignedIn)
def _not_signed_in(exc: NotSignedIn) -> Response:
    message = "Give the admin user and password to see these pages: ADMIN_USER and ADMIN_PASSWORD of the settings."
    return problem(exc, "Sign in", 401, message, headers={"WWW-Authenticate": REALM})


@bp.errorhandler(ForeignRequest)
def _foreign(exc: ForeignRequest) -> Response:
    message = "The request was not sent by these pages, so nothing was changed."
    return problem(exc, "This came from another site", 403, message, code="cross_site_request")


@bp.errorhandler(StaleForm)
def _stale(exc: StaleForm) -> Response:
    message = "Nothing was changed. Go back, reload the page and try again."
    return problem(exc, "This form was open for too long", 400, message, code="stale_form")


errors.register(bp, problem)
