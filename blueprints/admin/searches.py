"""A list's search, where somebody pastes a token's secret: it becomes the token's id, and stands in no address."""

from __future__ import annotations

from typing import Any

from flask import Response, make_response, redirect, request, url_for

from blueprints.admin import queries
from blueprints.admin.site import bp

UNKNOWN = "No token has this id, or this secret."


def address(endpoint: str, names: tuple[str, ...], text: str) -> Response | None:
    """
    Where a filled-in form leads: to its list's address. None where what might be a secret names nothing.

    Args:
        names: The form's fields.
        text: That of them which may hold a secret.
    """
    said = {name: value for name in names if (value := request.form.get(name, "").strip())}
    if text in said:
        found = queries.without_secret(said[text])
        if found is None:
            return None
        said[text] = found
    return _to(endpoint, said)


def moved(endpoint: str, text: str) -> Response | None:
    """For an address that was written with a secret: the one with its token's id. None for any other."""
    said = request.args.get(text, "").strip()
    found = queries.token_id_of(said) if queries.may_be_secret(said) else None
    return _to(endpoint, request.args.to_dict() | {text: found}) if found and found != said else None


def _to(endpoint: str, arguments: dict[str, Any]) -> Response:
    return make_response(redirect(url_for(f"{bp.name}.{endpoint}", **arguments), 303))
