"""
The schema's revisions: which one a database has, how it comes to the newest, and which code may go on with it.

Nodes of two neighbouring releases share a database for hours, and the first of the newer ones migrates it. So
migrations only add, and the database says which code is too old for it (`schema_floor`): each migration declares
``oldest``, the oldest revision whose code may go on after it. A feature that older code would get wrong raises it,
too, when it is first used (`raise_floor`).
"""

from __future__ import annotations

import fcntl
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, update

from database.engine import Session
from database.errors import DriverError
from models import schema_floor

MIGRATIONS = Path(__file__).parent.parent / "migrations"
# Revisions are numbered, so the last file is the newest schema.
HEAD = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]


class SchemaTooNew(Exception):
    """This code may not go on with the database. The message is for the operator."""


def migrate_to_head(engine: Engine, data_dir: Path) -> None:
    """
    Bring the database to the newest schema. One process at a time; the others wait and find it done.

    A schema that is newer than this code stays as it is where this code may go on with it; else SchemaTooNew.

    Args:
        data_dir: Where this node's processes wait for each other. Nodes do in PostgreSQL (see migrations/env.py).
    """
    if _may_go_on(engine):
        return
    with (data_dir / ".migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _may_go_on(engine):
            upgrade(engine)
            engine.dispose()


def _may_go_on(engine: Engine) -> bool:
    found = version(engine)
    if found is not None and found > HEAD:
        _require_floor(engine, found)
        return True
    return found == HEAD


def _require_floor(engine: Engine, found: str) -> None:
    with engine.connect() as connection:
        oldest = floor(connection)
    if oldest is None or oldest > HEAD:
        raise SchemaTooNew(
            f"the database is of schema {found}, made by a newer version, and this one knows {HEAD}: "
            f"upgrade this node to a version that knows {oldest or found} or later"
        )


def floor(connection: Connection) -> str | None:
    """The oldest revision whose code may go on; None where nobody said."""
    found: str | None = connection.scalar(select(schema_floor.c.oldest))
    return found


def raise_floor(session: Session | Connection, revision: str) -> None:
    """Let no code go on that is older than this revision, from the commit of the caller's transaction on."""
    session.execute(update(schema_floor).where(schema_floor.c.oldest < revision).values(oldest=revision))


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
        try:
            found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        except DriverError:
            # Asked only now: what SQLAlchemy's inspector runs costs each worker 1 MB of memory that it would share.
            connection.rollback()
            if inspect(connection).has_table("alembic_version"):
                raise
            return None
        return found
