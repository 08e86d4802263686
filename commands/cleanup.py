"""`flask cleanup`: what a serving proxy does now and then, at once."""

from __future__ import annotations

from collections import Counter

import click
from flask import current_app
from flask.cli import with_appcontext

from control.cleanup import Cleanup
from llmproxy.admission import utc_now
from services import Services

BUSY_MS = 5000


@click.command("cleanup")
@with_appcontext
def cleanup_command() -> None:
    """Delete what the retention settings say. May run beside a serving proxy, which does the same now and then."""
    deleted = Counter({"expired tokens": 0, "sums of usage": 0, "audit entries": 0})
    parts = Services.of(current_app)
    for what, count in Cleanup(parts.engine, parts.settings, busy_ms=BUSY_MS).batches(utc_now()):
        deleted[what] += count
    for what, count in deleted.items():
        click.echo(f"deleted {count} {what}")
