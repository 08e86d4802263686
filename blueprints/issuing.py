"""Tokens issued by a JSON body, wherever it is sent: one, or so many as it counts."""

from __future__ import annotations

from typing import Any

from blueprints.wire import issued_json
from control import tokens
from control.audit import Actor
from models import db


def issued_by(body: dict[str, Any], actor: Actor) -> dict[str, Any]:
    """
    The answer to a body that schemas.NewToken has checked: the only time that a secret is shown. Raises NotFound.
    """
    if "count" not in body:
        return issued_json(*tokens.issue(db.session, actor, **body))
    issued = tokens.issue_many(db.session, actor, **body)
    return {"data": [issued_json(secret, token) | {"label": token.label} for secret, token in issued]}
