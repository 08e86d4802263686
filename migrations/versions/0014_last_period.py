"""What each meter had spent when its last period was over, so that whoever alerts comes in time."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
# See `database.schema`. What has a default is written by older code, too, which knows nothing of it.
oldest = "0003"


def upgrade() -> None:
    for name in ("last_spent", "last_end"):
        op.add_column("meters", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in ("last_end", "last_spent"):
        op.drop_column("meters", name)
