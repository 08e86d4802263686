"""`flask cleanup` and `flask db-copy`."""

from __future__ import annotations

from collections import Counter

import click
from flask.cli import with_appcontext
from sqlalchemy.exc import SQLAlchemyError

import config
import database_copy
from blueprints.services import services
from cleanup import Cleanup, Retention
from database_copy import CopyRefused
from llmproxy.admission import utc_now
from llmproxy.keyring import KeyRing
from models import db

BUSY_MS = 5000


@click.command("cleanup")
@with_appcontext
def cleanup_command() -> None:
    """Delete what the retention settings say. May run beside a serving proxy, which does the same now and then."""
    deleted = Counter({"expired tokens": 0, "sums of usage": 0, "audit entries": 0})
    for what, count in Cleanup(db.engine, Retention.of(services().settings), busy_ms=BUSY_MS).batches(utc_now()):
        deleted[what] += count
    for what, count in deleted.items():
        click.echo(f"deleted {count} {what}")


class _DatabaseUrl(click.ParamType[str]):
    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return config.checked_database_url(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command("db-copy")
@click.option("--from", "source_url", type=_DatabaseUrl(), required=True, help="sqlite:///... or postgresql://...")
@click.option("--to", "target_url", type=_DatabaseUrl(), required=True, help="Must hold no data.")
@with_appcontext
def db_copy_command(source_url: str, target_url: str) -> None:
    """
    Copy everything from one database to another, all or nothing. Stop every proxy on the source first.

    What was copied is read back, and counted and compared, before it is committed.
    """
    settings = services().settings
    try:
        copied = database_copy.copy(source_url, target_url, settings.data_dir, KeyRing(settings.encryption_keys))
    except CopyRefused as exc:
        raise click.ClickException(str(exc)) from exc
    except SQLAlchemyError as exc:
        # The message of a statement would show its values.
        raise click.ClickException(f"nothing was copied: {getattr(exc, 'orig', None) or type(exc).__name__}") from exc
    for table in copied.tables:
        click.echo(f"{table.name:20}{table.rows:>12,} rows  sha256 {table.checksum}")
    click.echo(f"opened {copied.keys_opened} sealed keys in the copy")
