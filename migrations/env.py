"""Runs the migrations on the engine that `database.schema` hands over. One history serves SQLite and PostgreSQL."""

from alembic import context

from models import db

LOCK_ID = 7_236_118_404  # any number that nobody else locks in the same PostgreSQL database


def run() -> None:
    """Apply what is missing, in one transaction, with other nodes of the same PostgreSQL waiting."""
    with context.config.attributes["engine"].connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_as_batch=True,
            compare_type=True,
        )
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK_ID})")
            context.run_migrations()


run()
