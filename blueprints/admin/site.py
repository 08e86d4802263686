"""The blueprint: what every request to the admin pages passes on its way in, and every answer on its way out."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from flask import Blueprint, Flask, Response, request, url_for
from flask.blueprints import BlueprintSetupState

from blueprints import sign_in
from blueprints.admin import access, display, forgery, zones

MAX_BODY_BYTES = 64 * 1024
STATIC = Path(__file__).resolve().parents[2] / "static"
_YEAR_S = 365 * 24 * 3600

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: forms would then be sent with `Origin: null`, like forged ones.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

bp = Blueprint("admin", __name__, url_prefix="/admin", static_folder=str(STATIC), static_url_path="/static")


@bp.record
def _set_up(state: BlueprintSetupState) -> None:
    app = cast(Flask, state.app)
    display.register(app.jinja_env, zones.of_pages)


@bp.before_request
def _check() -> None:
    """Raises NotSignedIn, TooManyFailures, ForeignRequest, StaleForm."""
    # Styles and scripts are the same for everybody, and the page that asks for a password needs them.
    if request.endpoint == f"{bp.name}.static":
        return
    access.require_operator()
    request.max_content_length = MAX_BODY_BYTES
    forgery.refuse_forged_requests()
    zones.take_from_form()


@bp.after_request
def _protect(response: Response) -> Response:
    response.headers.update(SECURITY_HEADERS)
    if request.endpoint != f"{bp.name}.static":
        response.headers["Cache-Control"] = "no-store"
    elif request.args.get("v") and response.status_code in (200, 304):
        response.headers["Cache-Control"] = f"public, max-age={_YEAR_S}, immutable"
    return response


@bp.context_processor
def _for_every_page() -> dict[str, Any]:
    return {
        "csrf_token": forgery.token,
        "asset": asset,
        "operator": sign_in.admin.current_user(),
        "zone": str(zones.of_pages()),
        "whose_zone": zones.in_words(),
        "configured_zone": str(zones.configured()),
    }


def asset(name: str) -> str:
    """The address of a file in `static/`, with its content's hash: a new file is fetched, an old one never again."""
    return url_for(f"{bp.name}.static", filename=name, v=_digest(name))


@lru_cache(maxsize=32)
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
