"""
A form that is sent twice does its work once, whichever workers get the two.

A double click shows the answer to the second request alone, so that one must be as good as the first: the new
project's id and the new token's secret follow from the form's nonce. The secret is an HMAC under the
application's key; who knows the nonce cannot find it, and neither of them is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid

from flask import current_app

from blueprints.admin.forms import NewProjectForm, NewTokenForm, RotateForm

_MAX_NONCE_LENGTH = 64


def give_nonce(form: NewProjectForm | NewTokenForm | RotateForm) -> None:
    """Make a form that is about to be shown one of its kind, if it is not yet."""
    form.nonce.data = form.nonce.data or secrets.token_hex(16)


def nonce_of(form: NewProjectForm | NewTokenForm | RotateForm) -> str | None:
    """The nonce that was sent along; None from a script, which sends none."""
    value: str = form.nonce.data or ""
    return value[:_MAX_NONCE_LENGTH] or None


def project_id_of(nonce: str) -> str:
    """The id of the project that the form with this nonce creates."""
    return _uuid(hashlib.sha256(nonce.encode()).digest())


def secret_of(nonce: str) -> str:
    """The secret that the form with this nonce issues."""
    key = current_app.secret_key
    assert isinstance(key, bytes)  # noqa: S101  create_app derives it
    return _uuid(hmac.digest(key, b"token of the form " + nonce.encode(), "sha256"))


def _uuid(digest: bytes) -> str:
    return str(uuid.UUID(bytes=digest[:16], version=4))
