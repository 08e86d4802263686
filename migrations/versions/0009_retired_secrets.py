"""Secrets of tokens that were replaced and still work for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
# See `database.schema`. The first rotation of a secret raises it: older code refuses what was replaced.
oldest = "0003"


def upgrade() -> None:
    """Older code may go on: it knows no replaced secret, and there is none yet."""
    op.create_table(
        "retired_secrets",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("token_id", sa.String(36), sa.ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_retired_secrets_token_id", "retired_secrets", ["token_id"])


def downgrade() -> None:
    op.drop_index("ix_retired_secrets_token_id", "retired_secrets")
    op.drop_table("retired_secrets")
