"""Leases, and on PostgreSQL room for the versions of rows that change with every request."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A claim writes a new version of its token's row. With half of each page free it fits beside the old one, and no
# index is touched (HOT); PostgreSQL then clears old versions away in passing. The index columns of `tokens` are
# none that a claim changes. Vacuum comes after so many versions, however many tokens there are.
HOT = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000"
NOT_HOT = "fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold"


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE tokens SET ({HOT})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE tokens RESET ({NOT_HOT})")
    op.drop_table("leases")
