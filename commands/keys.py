"""`flask keys …`: the encryption of upstream keys."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import AppGroup

from control import keys
from control.audit import Actor
from models import db
from services import Services

LOST_KEYS_NAMED = 10

key_commands = AppGroup("keys", help="The encryption of upstream keys.")


@key_commands.command("rotate")
def rotate_keys() -> None:
    """Seal every upstream key anew under the first of ENCRYPTION_KEY."""
    done = keys.rotate(db.session, Services.of(current_app).keyring, Actor("command line"))
    click.echo(f"sealed {done.rotated} keys anew; {done.current} were current")
    if done.lost:
        projects = ", ".join(done.lost[:LOST_KEYS_NAMED]) + (", …" if len(done.lost) > LOST_KEYS_NAMED else "")
        raise click.ClickException(f"{len(done.lost)} keys open under no key of ENCRYPTION_KEY: projects {projects}")
