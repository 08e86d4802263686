"""
What lists are asked for. Where somebody pastes a token's secret it becomes the token's id, and stands in no address.

A script is told of a value that means nothing, for it sees no form that shows what holds in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response, flash, make_response, redirect, request, url_for
from marshmallow import ValidationError

from blueprints.admin import exports, queries
from blueprints.admin.answers import wants_json
from blueprints.admin.site import bp

_MANY_DIGITS = 10
UNKNOWN = (
    "No token has this id, or this secret. One that was replaced is known until TOKEN_RETENTION_DAYS after its end."
)
# So many ids at most: an address holds no more.
_MOST = 100


def address(endpoint: str, form: Mapping[str, str], names: tuple[str, ...], text: str) -> Response | None:
    """
    Where a filled-in form leads: to its list's address. None where what might be a secret names nothing, of which
    a script is told by a ValidationError.

    Args:
        form: What was sent.
        names: The form's fields that filter.
        text: That of them which may hold a secret.
    """
    said = {name: value for name in names if (value := form.get(name, "").strip())}
    if text in said:
        several = queries.several_in(said[text])
        found = _ids_of(several) if several else queries.without_secret(said[text])
        if found is None:
            refuse("is the id or the secret of no token.", text)
            return None
        said[text] = found
    return _to(endpoint, said)


def _ids_of(texts: list[str]) -> str | None:
    """The ids of the tokens that the first _MOST of these mean; None where none is known. Tells what is left out."""
    looked_for = texts[:_MOST]
    found = list(dict.fromkeys(filter(None, map(queries.token_id_of, looked_for))))
    if len(texts) > len(looked_for):
        flash(f"Only the first {_MOST} of these {len(texts)} were looked for: take the others next.")
    if found and len(found) < len(looked_for):
        flash(f"{len(looked_for) - len(found)} of these belong to no other token, or to none any more.")
    return " ".join(found) or None


def moved(endpoint: str, text: str) -> Response | None:
    """For an address that was written with a secret: the one with its token's id. None for any other."""
    said = request.args.get(text, "").strip()
    found = queries.token_id_of(said) if queries.may_be_secret(said) else None
    return _to(endpoint, request.args.to_dict() | {text: found}) if found and found != said else None


def choice(said: Mapping[str, str], name: str, choices: Iterable[str], default: str = "") -> str:
    """The one of `choices` that is asked for, or the default. ValidationError for a script that asks for another."""
    asked, known = said.get(name, "").strip(), list(choices)
    if asked in known:
        return asked
    if asked:
        refuse(f"must be one of: {', '.join(known)}.", name)
    return default


def number(name: str) -> int | None:
    """The number that the address has under this name, from 1 on; 0 for what is none, and None for nothing."""
    text = request.args.get(name, "").strip()
    is_number = text.isdecimal() and text.isascii() and len(text) < _MANY_DIGITS
    return int(text) if is_number else 0 if text else None


def is_elsewhere(asked: int | None, found: queries.Page) -> bool:
    """Whether there is no page of this number, and another was found. ValidationError for a script."""
    if asked in (None, found.number):
        return False
    refuse(f"must be a number from 1 to {found.last}.", "page")
    return True


def refuse(words: str, field: str) -> None:
    """ValidationError where JSON or a file is asked for."""
    if exports.wants_csv() or wants_json():
        raise ValidationError({field: [words]})


def _to(endpoint: str, arguments: dict[str, Any]) -> Response:
    return make_response(redirect(url_for(f"{bp.name}.{endpoint}", **arguments), 303))
