"""
Refuses what another site makes an operator's browser send. Browsers attach Basic credentials by themselves,
so an unsafe request is let through only when it passes each of these:

* `Sec-Fetch-Site`, where sent, is `same-origin` or `none`.
* `Origin`, or `Referer` where there is no Origin, names this host.
* A form's POST carries the CSRF token of the session. Exempt is what no page elsewhere can send unasked:
  other methods than POST and JSON bodies (browsers ask for leave by a CORS preflight, which is never given),
  and requests that show in no header that a browser made them: curl's.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import request
from flask_wtf.csrf import generate_csrf, validate_csrf
from wtforms.validators import ValidationError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# A form may stay open over a working day.
TOKEN_LIFETIME_S = 12 * 3600
FIELD = "csrf_token"
_BROWSER_HEADERS = ("Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Accept-Language")


class ForeignRequest(Exception):
    """Another site made the browser send this."""


class StaleForm(Exception):
    """The form's CSRF token is missing, expired, or of another session."""


def refuse_forged_requests() -> None:
    """Raises ForeignRequest, StaleForm."""
    if request.method in SAFE_METHODS:
        return
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise ForeignRequest
    source = request.headers.get("Origin", request.headers.get("Referer"))
    if source is not None and not _is_own(source):
        raise ForeignRequest
    if request.method == "POST" and request.mimetype != "application/json" and _may_be_a_browser():
        _check_token()


def token() -> str:
    """The hidden field's value for the forms of this page."""
    value: str = generate_csrf(token_key=FIELD)
    return value


def _is_own(source: str) -> bool:
    # The scheme is left out: behind a reverse proxy that ends TLS it is not known here.
    try:
        return urlsplit(source).netloc == request.host
    except ValueError:
        return False


def _may_be_a_browser() -> bool:
    if any(name in request.headers for name in _BROWSER_HEADERS):
        return True
    # Every browser of the last twenty years calls itself that, and no page can make it say something else.
    return request.headers.get("User-Agent", "").startswith("Mozilla/")


def _check_token() -> None:
    try:
        validate_csrf(request.form.get(FIELD), time_limit=TOKEN_LIFETIME_S, token_key=FIELD)
    except ValidationError as exc:
        raise StaleForm from exc
