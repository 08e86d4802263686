"""Who sends a request, as Flask-HTTPAuth verified it: for the admin pages, `/manage` and `/metrics`."""

from __future__ import annotations

import hmac
from typing import cast

from flask import current_app, request
from flask_httpauth import HTTPAuth, HTTPBasicAuth, HTTPTokenAuth
from werkzeug.datastructures import Authorization

from control.sign_ins import ADMIN, MANAGEMENT, METRICS
from services import Services


class _BearerAuth(HTTPTokenAuth):  # type: ignore[misc]
    def get_auth(self) -> Authorization | None:
        """What was sent. Werkzeug takes a token with an equals sign inside for parameters, and has no token then."""
        try:
            auth: Authorization | None = super().get_auth()
        except (
            ValueError
        ):  # Werkzeug's, about the base64 of `Basic` with other letters than ASCII's: that is no token
            return None
        if auth is None or auth.token is not None:
            return auth
        return Authorization(auth.type, token=request.headers["Authorization"].partition(" ")[2].strip())


admin = HTTPBasicAuth()
management = _BearerAuth(realm="management")
metrics = _BearerAuth(realm="metrics")
_REALMS = {admin: ADMIN, management: MANAGEMENT, metrics: METRICS}


@admin.verify_password  # type: ignore[untyped-decorator]
def _is_admin(user: str, password: str) -> str | None:
    settings = Services.of(current_app).settings
    # Both are always compared, so that the time does not tell which one was wrong.
    is_user = _is_same(user, settings.admin_user)
    is_password = _is_same(password, settings.admin_password)
    return user if is_user & is_password else None


@management.verify_token  # type: ignore[untyped-decorator]
def _is_management(token: str) -> str | None:
    return "management" if _is_same(token, Services.of(current_app).settings.management_token) else None


@metrics.verify_token  # type: ignore[untyped-decorator]
def _is_scraper(token: str) -> str | None:
    return "metrics" if _is_same(token, Services.of(current_app).settings.metrics_token) else None


def _is_same(sent: str, secret: str) -> bool:
    """Whether `sent` is that secret, by a comparison of constant time; nobody has an empty one."""
    return hmac.compare_digest(sent.encode(), secret.encode()) and bool(secret)


def who(auth: HTTPAuth, *, known_as: str | None = None) -> str | None:
    """
    Whom this request's credentials prove its sender to be; None with wrong ones, and without any.

    Args:
        known_as: Of a sender that has signed in before; see `SignIns.attempt`.

    Raises:
        TooManyFailures: Its credentials were not looked at.
    """
    # A browser's first request carries no password; that is no guess.
    if "Authorization" not in request.headers:
        return None
    parts = Services.of(current_app)
    address = parts.client_address(request.environ)
    return parts.sign_ins.attempt(_REALMS[auth], address, lambda: _verified(auth), known_as=known_as)


def _verified(auth: HTTPAuth) -> str | None:
    # That `login_required` let it pass proves nothing: by design it asks no OPTIONS for credentials. What it verified
    # is `current_user()`; an OPTIONS is verified here, by the same callbacks.
    if request.method == "OPTIONS":
        return auth.authenticate(auth.get_auth(), None) or None
    auth.login_required(optional=True)(_pass)()
    return cast(str | None, auth.current_user()) or None


def _pass() -> None:
    """What `login_required` wraps: whether it passed is asked for afterwards."""
