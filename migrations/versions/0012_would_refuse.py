"""Sums of calls that rules in mode `report` would have refused."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
# See `database.schema`. What has a default is written by older code, too, which knows nothing of it.
oldest = "0003"


def upgrade() -> None:
    op.add_column("usage_sums", sa.Column("would_refuse", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("usage_sums", "would_refuse")
