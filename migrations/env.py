"""Runs the migrations on the application's own engine. One history serves SQLite and PostgreSQL."""

from alembic import context
from flask import current_app

from storage import MIGRATION_LOCK_ID

db = current_app.extensions["migrate"].db


def run() -> None:
    """Apply what is missing, in one transaction, with other nodes of the same PostgreSQL waiting."""
    with db.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=True,
            compare_type=True,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK_ID})")
            context.run_migrations()


run()
