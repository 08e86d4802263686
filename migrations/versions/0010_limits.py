"""Rules, meters and reservations, and sums of what calls are assumed to have cost."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
# See `database.schema`. The first rule or meter raises the floor to this revision.
oldest = "0003"

# As for tokens (see 0003): each call writes a new version of its meters' rows, and three of its reservation's.
HOT = "fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000"


def upgrade() -> None:
    # What has a default is written by older code, too, which knows nothing of it.
    for table in ("projects", "tokens"):
        op.add_column(table, sa.Column("is_ruled", sa.Boolean, nullable=False, server_default=sa.false()))
        op.add_column(table, sa.Column("rules", sa.JSON))
        op.add_column(table, sa.Column("rules_version", sa.Integer, nullable=False, server_default="0"))
    op.add_column("projects", sa.Column("default_tier", sa.String(16)))
    op.add_column("tokens", sa.Column("in_flight", sa.Integer, nullable=False, server_default="0"))
    op.add_column("usage_sums", sa.Column("cost_assumed", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "meters",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("project_id", sa.String(36), sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("token_id", sa.String(36), sa.ForeignKey("tokens.id", ondelete="CASCADE")),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("unit", sa.String(8), nullable=False),
        sa.Column("models", sa.String(400)),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("zone", sa.String(64), nullable=False),
        sa.Column("reserve", sa.String(8), nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("amount", "spent", "reserved", "bounds", "mean", "period_end")
        ),
        sa.Column("alerted", sa.SmallInteger, nullable=False),
    )
    op.create_index("ix_meters_project_id_token_id", "meters", ["project_id", "token_id"])
    op.create_index("ix_meters_token_id", "meters", ["token_id"])
    op.create_table(
        "reservations",
        sa.Column("request_id", sa.String(48), primary_key=True),
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("node", sa.String(36), nullable=False),
        sa.Column("worker", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("holds", sa.JSON, nullable=False),
        sa.Column("estimate", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_reservations_worker", "reservations", ["worker"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE meters SET ({HOT})")
        op.execute(f"ALTER TABLE reservations SET ({HOT})")


def downgrade() -> None:
    for table in ("reservations", "meters"):
        op.drop_table(table)
    op.drop_column("usage_sums", "cost_assumed")
    with op.batch_alter_table("tokens") as tokens:
        for name in ("is_ruled", "rules", "rules_version", "in_flight"):
            tokens.drop_column(name)
    with op.batch_alter_table("projects") as projects:
        for name in ("is_ruled", "rules", "rules_version", "default_tier"):
            projects.drop_column(name)
