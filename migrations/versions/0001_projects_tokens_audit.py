"""Projects, tokens and the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("openai_api_key", sa.Text, nullable=False),
        sa.Column("key_hint", sa.String(4), nullable=False),
        sa.Column("base_url", sa.Text),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("stream_usage", sa.String(16), nullable=False),
        sa.Column("created_at", time, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("project_id", sa.String(36), sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("label", sa.String(200)),
        sa.Column("expires_at", time, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("rate_limit", sa.Integer),
        sa.Column("request_count", sa.Integer, nullable=False),
        sa.Column("window_started_at", time),
        sa.Column("created_at", time, nullable=False),
        sa.Column("last_used_at", time),
    )
    op.create_index("ix_tokens_project_id_created_at", "tokens", ["project_id", "created_at"])
    op.create_index("ix_tokens_expires_at", "tokens", ["expires_at"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", time, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("address", sa.String(64)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target_type", sa.String(16), nullable=False),
        sa.Column("target_id", sa.String(36), nullable=False),
        sa.Column("target_name", sa.String(200)),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
    )
    op.create_index("ix_audit_at", "audit", ["at"])


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("tokens")
    op.drop_table("projects")
