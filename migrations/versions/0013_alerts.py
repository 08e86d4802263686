"""The outbox of alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
# See `database.schema`. Older code knows nothing of alerts, and tells nobody.
oldest = "0003"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(36), nullable=False),
        sa.Column("period_end", sa.BigInteger, nullable=False),
        sa.Column("threshold", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(9), nullable=False),
        sa.UniqueConstraint("kind", "subject", "period_end", "threshold", name="uq_alerts"),
    )
    op.create_index("ix_alerts_state_at", "alerts", ["state", "at"])


def downgrade() -> None:
    op.drop_table("alerts")
