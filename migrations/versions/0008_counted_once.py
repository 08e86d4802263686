"""Objects whose usage was counted, and sums of the total, of audio, and of streams that told no usage."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
# See `database.schema`.
oldest = "0003"

SUMS = ("total_tokens", "audio_seconds", "streams", "silent_streams")


def upgrade() -> None:
    """Older code may go on: it leaves the new sums at 0, and a recount puts them right."""
    op.create_table(
        "seen_objects",
        sa.Column("project_id", sa.String(36), primary_key=True),
        sa.Column("object_id", sa.String(200), primary_key=True),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("is_stored", sa.Boolean, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_seen_objects_at", "seen_objects", ["at"])
    for name in SUMS:
        op.add_column("usage_sums", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    # What was shown as the total until now.
    op.execute("UPDATE usage_sums SET total_tokens = prompt_tokens + completion_tokens WHERE usage_reported > 0")


def downgrade() -> None:
    for name in SUMS:
        op.drop_column("usage_sums", name)
    op.drop_index("ix_seen_objects_at", "seen_objects")
    op.drop_table("seen_objects")
