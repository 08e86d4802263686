"""`/`: what this is, for whoever opens the proxy's address. It tells no version and no secret."""

from __future__ import annotations

from typing import NamedTuple

from flask import Blueprint, Response, render_template, request

from blueprints.ops_listener import IS_OPS

bp = Blueprint("welcome", __name__)

# The first for whoever takes anything.
_TEMPLATES = {"text/plain": "welcome.txt", "text/html": "welcome.html"}


class Place(NamedTuple):
    """What is served at an address, in words; `is_page` for what a browser can open."""

    name: str
    url: str
    words: str = ""
    is_page: bool = True


@bp.get("/")
def welcome() -> Response:
    """What is served here, as text, or with links for a browser; on the operators' listener, theirs alone."""
    described = f"{request.root_url}manage/openapi.json"
    places = [
        Place("Admin pages", f"{request.root_url}admin/"),
        Place("Management", described, "what is below /manage/, for the management token"),
    ]
    if not request.environ.get(IS_OPS):
        words = "a client's base_url; its api_key is a withering token"
        places.insert(0, Place("The API", api_url(), words, is_page=False))
        places.append(Place("Your token", f"{request.root_url}self", "what its holder may ask of it"))
    template = request.accept_mimetypes.best_match(_TEMPLATES, next(iter(_TEMPLATES)))
    response = Response(render_template(_TEMPLATES[template], places=places), mimetype=template)
    response.vary.add("Accept")
    return response


def api_url() -> str:
    """The base URL of the API, as its caller reached this proxy."""
    return f"{request.root_url}v1"
