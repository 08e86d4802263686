"""Where the records of calls stand in the call log, by time."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
# See `database.schema`.
oldest = "0003"


def upgrade() -> None:
    """Older code may go on: what it counts is not in the index."""
    op.create_table(
        "call_index",
        sa.Column("at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("segment", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("ending", sa.SmallInteger, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "log_segments",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("node_id", sa.String(36), nullable=False),
        sa.Column("segment", sa.String(24), nullable=False),
        sa.UniqueConstraint("node_id", "segment", name="uq_log_segments"),
    )


def downgrade() -> None:
    op.drop_table("log_segments")
    op.drop_table("call_index")
