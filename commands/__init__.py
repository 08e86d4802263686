"""
What `flask …` adds for operators, to be run where the proxy was started. Thin: each asks a room below.

`flask` finds `wsgi.py`, which loads the settings for a command: those of the environment, and the secrets that an
embedded start keeps in the data directory where they are not set (see `config.load`). A command may run beside a
serving proxy.
"""

from __future__ import annotations

from flask import Flask

from commands.cleanup import cleanup_command
from commands.database import db_copy_command
from commands.keys import key_commands
from commands.ledger import ledger_commands
from commands.prices import price_commands


def register(app: Flask) -> None:
    """Add the commands to `flask`."""
    for command in (ledger_commands, key_commands, price_commands, cleanup_command, db_copy_command):
        app.cli.add_command(command)
