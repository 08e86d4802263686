"""Runs the migrations on the engine that `database.schema` hands over. One history serves SQLite and PostgreSQL."""

from typing import cast

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import Script
from sqlalchemy import Connection

from database.schema import raise_floor
from models import db

LOCK_ID = 7_236_118_404  # any number that nobody else locks in the same PostgreSQL database
HAS_NO_FLOOR = ("0001", "0002", "0003", "0004")


def run() -> None:
    """Apply what is missing, in one transaction, with other nodes of the same PostgreSQL waiting."""
    with context.config.attributes["engine"].connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=True,
            compare_type=True,
            on_version_apply=write_floor,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_ID})")
            context.run_migrations()


def write_floor(ctx: MigrationContext, step: MigrationInfo, *_: object, **__: object) -> None:
    """Let the database say what each migration declares: the oldest revision whose code may go on after it."""
    if step.is_upgrade and step.up_revision_id not in HAS_NO_FLOOR:
        raise_floor(cast(Connection, ctx.connection), cast(Script, step.up_revision).module.oldest)


run()
