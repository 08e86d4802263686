"""Arguments and options that several commands take, and the columns of what several show."""

from __future__ import annotations

import click

TOKEN = ("id", "label", "project_id", "is_active", "expires_at", "request_count", "rate_limit", "last_used_at")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
limited = click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Rows at most.")
active = click.option("--active/--inactive", default=None, help="Those alone that may be used, or may not.")
an_id = click.argument("token_id", metavar="ID")
a_project = click.argument("project", metavar="PROJECT")


def segment(text: str) -> str:
    """An id, as it may stand in a path."""
    if not text.replace("-", "").isalnum():
        raise click.BadParameter(f"{text!r} is no id.", param_hint="ID")
    return text
