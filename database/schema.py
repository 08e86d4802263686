"""The schema's revisions: which one a database has, and how it comes to the newest."""

from __future__ import annotations

import fcntl
from pathlib import Path

from sqlalchemy import Engine, inspect

MIGRATIONS = Path(__file__).parent.parent / "migrations"
# Revisions are numbered, so the last file is the newest schema.
HEAD = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]


def migrate_to_head(engine: Engine, data_dir: Path) -> None:
    """
    Bring the database to the newest schema. One process at a time; the others wait and find it done.

    Args:
        data_dir: Where this node's processes wait for each other. Nodes do in PostgreSQL (see migrations/env.py).
    """
    with (data_dir / ".migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if version(engine) != HEAD:
            upgrade(engine)
            engine.dispose()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply the migrations up to `revision` that are missing."""
    # Alembic takes a third of a second to import, and most starts have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    command.upgrade(config, revision)


def version(engine: Engine) -> str | None:
    """The newest migration that the database has seen; None for an empty database."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return found
