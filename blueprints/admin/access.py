"""
Who may see the admin pages: Basic auth by ADMIN_USER and ADMIN_PASSWORD, throttled after repeated failures.

A browser that signed in once carries a random mark in its signed session cookie, and is counted by that mark
instead of its address. So somebody who guesses from the same address (an office, a reverse proxy) locks out
newcomers for a while, and not the operator at work. The mark opens nothing; stolen, it is worth ten guesses.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import cast

from flask import current_app, request, session

from blueprints import sign_in
from blueprints.admin.throttle import SignInThrottle
from control.audit import Actor
from services import Services

REALM = 'Basic realm="llm-proxy admin", charset="UTF-8"'
THROTTLE = "llmproxy.admin_throttle"
_MARK = "browser"
# Whoever has an IPv6 address has a whole /64 of them.
_IPV6_PREFIX = 64


class TooManyFailures(Exception):
    """Wrong passwords too often; `wait_s` seconds are left to wait."""

    def __init__(self, wait_s: int) -> None:
        self.wait_s = wait_s
        super().__init__(f"Too many wrong passwords. Try again in {wait_s} s.")


class NotSignedIn(Exception):
    """No credentials, or wrong ones."""


def require_operator() -> None:
    """Let operators pass. Raises NotSignedIn, TooManyFailures."""
    throttle: SignInThrottle = current_app.extensions[THROTTLE]
    caller = _caller()
    if wait_s := throttle.wait_s(caller):
        raise TooManyFailures(wait_s)
    if sign_in.verified(sign_in.admin) is None:
        # A browser's first request carries no password; that is no guess.
        if "Authorization" in request.headers:
            throttle.failed(caller)
        raise NotSignedIn
    throttle.succeeded(caller)
    if _MARK not in session and "text/html" in request.headers.get("Accept", ""):
        session[_MARK] = secrets.token_hex(16)


def _caller() -> str:
    """Whom failures are counted for."""
    mark = session.get(_MARK)
    if isinstance(mark, str):
        return f"browser {mark}"
    try:
        address = ipaddress.ip_address(Services.of(current_app).client_address(request.environ) or "")
    except ValueError:
        return "unknown"
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)


def actor() -> Actor:
    """Who the audit trail names for a change made here."""
    return Actor(cast(str, sign_in.admin.current_user()), Services.of(current_app).client_address(request.environ))
