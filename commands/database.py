"""`flask db-copy`: from one database to another."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import with_appcontext

import config
from database import copy as database_copy
from database.copy import CopyRefused
from database.errors import DatabaseError
from llmproxy.keyring import KeyRing
from services import Services


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
    settings = Services.of(current_app).settings
    try:
        copied = database_copy.copy(source_url, target_url, settings.data_dir, KeyRing(settings.encryption_keys))
    except CopyRefused as exc:
        raise click.ClickException(str(exc)) from exc
    except DatabaseError as exc:
        # The message of a statement would show its values.
        raise click.ClickException(f"nothing was copied: {getattr(exc, 'orig', None) or type(exc).__name__}") from exc
    for table in copied.tables:
        click.echo(f"{table.name:20}{table.rows:>12,} rows  sha256 {table.checksum}")
    click.echo(f"opened {copied.keys_opened} sealed keys in the copy")
