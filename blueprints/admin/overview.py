"""Overview."""

from flask import Response

from blueprints.admin.answers import page
from blueprints.admin.site import bp


@bp.get("/")
def overview() -> Response:
    """Overview."""
    return page("overview.html")
