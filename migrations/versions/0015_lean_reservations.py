"""
Reservations in one place each: every call with a budget makes one and ends it.

On SQLite the row stands in its key's own tree, and on both databases no other index has it: few stand there at a time.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
# See `database.schema`. The columns are the same.
oldest = "0003"

INDEX = "ix_reservations_worker"


def upgrade() -> None:
    op.drop_index(INDEX, "reservations")
    _rebuild(with_rowid=False)


def downgrade() -> None:
    _rebuild(with_rowid=True)
    op.create_index(INDEX, "reservations", ["worker"])


def _rebuild(*, with_rowid: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.create_table(
        "reservations_rebuilt",
        sa.Column("request_id", sa.String(48), primary_key=True),
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("node", sa.String(36), nullable=False),
        sa.Column("worker", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("holds", sa.JSON, nullable=False),
        sa.Column("estimate", sa.BigInteger, nullable=False),
        sqlite_with_rowid=with_rowid,
    )
    op.execute(
        "INSERT INTO reservations_rebuilt SELECT request_id, project_id, token_id, node, worker, at, state, holds, "
        "estimate FROM reservations"
    )
    op.drop_table("reservations")
    op.rename_table("reservations_rebuilt", "reservations")
