"""What each process does before it serves: settings that hold, and a database at the newest schema."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flask import Flask

import config
from control.findings import findings
from database.errors import DatabaseError, DriverError, NoAnswer
from database.schema import SchemaTooNew, migrate_to_head, version
from services import Services

# The exit code by which a worker tells gunicorn not to start it again and again.
CANNOT_BOOT = 3

log = logging.getLogger(__name__)


def settings_or_exit(load: Callable[[], config.Settings]) -> config.Settings:
    """What `load` finds. Wrong settings end the process with the list of them."""
    # The database, its log, positions, locks: whatever this process and its children make is the owner's alone.
    os.umask(0o077)
    try:
        return load()
    except config.ConfigError as exc:
        sys.exit(str(exc))


def warn(settings: config.Settings, log: logging.Logger = log) -> None:
    """Say what an operator should know before the first request: once, however many workers there are."""
    for name, meant in settings.misspelt:
        log.warning("%s is no setting: is %s meant?", name, meant)
    for name in settings.weak_secrets:
        log.warning("%s is easy to guess: use at least %d random characters", name, config.MIN_SECRET_LENGTH)
    for name, proxy in (("HTTPS_PROXY", settings.https_proxy), ("HTTP_PROXY", settings.http_proxy)):
        if proxy is not None:
            log.info("%s is set: what NO_PROXY does not name is reached through %s", name, proxy.place)
    if (mode := stat.S_IMODE(settings.data_dir.stat().st_mode)) & 0o077:
        # Somebody else made it, and may have had reasons.
        log.warning("DATA_DIR %s is open to others (mode %03o): chmod 700 it", settings.data_dir, mode)
    if (path := settings.sqlite_path) and (mode := _mode_of_database(path)) & 0o077:
        # An older version made it, or a copy did. SQLite gives its mode to the log beside it.
        log.warning("the database %s is open to others (mode %03o): chmod 600 %s*", path, mode, path)
    if settings.upstream_is_unencrypted:
        log.warning("UPSTREAM_URL %s is not encrypted: keys and prompts travel in the clear", settings.upstream_url)


def _mode_of_database(path: Path) -> int:
    """What of SQLite's files at `path` may be done by whom: all that one of them allows, 0 where there is none."""
    mode = 0
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            mode |= stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode)
    return mode


def warn_of_projects(parts: Services, log: logging.Logger = log) -> None:
    """Say what is not in order with the stored projects, if the database answers: once, however many workers."""
    with suppress(DatabaseError):
        for line in findings(parts.engine, parts.keyring):
            log.warning("%s", line)


def migrated(app: Flask, *, others_serve: bool) -> Flask:
    """
    `app`, with its database at the newest schema, or at a newer one that this code may go on with. A database that
    cannot be used ends the process.

    Args:
        others_serve: This process takes the place of one that found the database in order. It starts without an
            answer of the database, too: to end here would end the server, and all running calls. It does not begin
            a new one: whatever was there is out of reach, and to a new one every token would be unknown.
    """
    parts = Services.of(app)
    try:
        if others_serve and version(parts.engine) is None:
            print(
                "the database has become empty: is its disk mounted? Restore a backup where it is lost",
                file=sys.stderr,
            )
            sys.exit(CANNOT_BOOT)
        migrate_to_head(parts.engine, parts.settings.data_dir)
    except DriverError as exc:
        if others_serve and isinstance(exc, NoAnswer):
            log.warning("starting without the database, which does not answer: %s", type(exc.orig).__name__)
            return app
        print(f"the database that DATABASE_URL names cannot be used: {exc.orig}", file=sys.stderr)
        sys.exit(CANNOT_BOOT)
    except SchemaTooNew as exc:
        print(exc, file=sys.stderr)
        sys.exit(CANNOT_BOOT)
    return app
