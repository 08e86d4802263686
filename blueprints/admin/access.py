"""
Who may see the admin pages: Basic auth by ADMIN_USER and ADMIN_PASSWORD, throttled after repeated failures.

A browser that signed in once carries a random mark in its signed session cookie, and is counted by that mark
instead of its address. So somebody who guesses from the same address (an office, a reverse proxy) keeps
newcomers waiting, and not the operator at work. The mark opens nothing; stolen, it is worth ten guesses.
"""

from __future__ import annotations

import secrets
from typing import cast

from flask import current_app, request, session

from blueprints import sign_in
from control.audit import Actor
from services import Services

REALM = 'Basic realm="llm-proxy admin", charset="UTF-8"'
_MARK = "browser"


class NotSignedIn(Exception):
    """No credentials, or wrong ones."""


def require_operator() -> None:
    """Let operators pass. Raises NotSignedIn, TooManyFailures."""
    mark = session.get(_MARK)
    if sign_in.who(sign_in.admin, known_as=mark if isinstance(mark, str) else None) is None:
        raise NotSignedIn
    if mark is None and "text/html" in request.headers.get("Accept", ""):
        session[_MARK] = secrets.token_hex(16)


def actor() -> Actor:
    """Who the audit trail names for a change made here."""
    address = Services.of(current_app).client_address(request.environ)
    return Actor(cast(str, sign_in.admin.current_user()), address)
