"""Sums of usage, and how far each node has read its call log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COUNTS = (
    "requests",
    "refusals",
    "errors",
    "client_closed",
    "usage_reported",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
)
BUCKETS = 14


def upgrade() -> None:
    op.create_table(
        "usage_keys",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("view", sa.SmallInteger, nullable=False),
        sa.Column("node_id", sa.String(36), nullable=False),
        sa.Column("project_id", sa.String(36), nullable=False),
        sa.Column("token_id", sa.String(36), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("endpoint", sa.String(16), nullable=False),
        sa.Column("refusal", sa.String(64), nullable=False),
        sa.UniqueConstraint(
            "view", "node_id", "project_id", "token_id", "model", "endpoint", "refusal", name="uq_usage_keys"
        ),
    )
    op.create_index("ix_usage_keys_view_project_id", "usage_keys", ["view", "project_id"])
    op.create_index("ix_usage_keys_view_token_id", "usage_keys", ["view", "token_id"])
    op.create_table(
        "usage_sums",
        sa.Column("view", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Integer, sa.ForeignKey("usage_keys.id"), primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
        *(sa.Column(f"duration_{number}", sa.Integer, nullable=False) for number in range(BUCKETS)),
        *(sa.Column(f"ttft_{number}", sa.Integer, nullable=False) for number in range(BUCKETS)),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_usage_sums_key_id_hour", "usage_sums", ["key_id", "hour", "requests"])
    op.create_table(
        "reader_positions",
        sa.Column("node_id", sa.String(36), primary_key=True),
        sa.Column("reader", sa.String(100), primary_key=True),
        sa.Column("position", sa.Text, nullable=False),
        sa.Column("saved_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("reader_positions")
    op.drop_table("usage_sums")
    op.drop_table("usage_keys")
