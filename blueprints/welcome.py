"""`/`: what this is, for whoever opens the proxy's address. It tells no version and no secret."""

from __future__ import annotations

from flask import Blueprint, Response, request

from blueprints.ops_listener import IS_OPS

bp = Blueprint("welcome", __name__)


@bp.get("/")
def welcome() -> Response:
    """What is served here, as text; on the operators' listener, theirs alone."""
    lines = ["llm-proxy: OpenAI's API, with withering tokens in place of the key", ""]
    if not request.environ.get(IS_OPS):
        lines.append(f"The API      {api_url()}  (a client's base_url; its api_key is a withering token)")
    lines += [
        f"Admin pages  {request.root_url}admin/",
        f"Management   {request.root_url}manage/openapi.json  (what is below /manage/, for the management token)",
        "Docs         README.md and docs/ of the source",
        "",
    ]
    return Response("\n".join(lines), mimetype="text/plain")


def api_url() -> str:
    """The base URL of the API, as its caller reached this proxy."""
    return f"{request.root_url}v1"
