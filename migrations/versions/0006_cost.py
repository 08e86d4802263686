"""What calls cost, and how many had no price, among the sums of usage."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
# See `database.schema`.
oldest = "0003"

SUMS = ("cost", "unpriced")


def upgrade() -> None:
    """Older code may go on: it leaves the new sums at 0, and a recount says of its calls that they are unpriced."""
    for name in SUMS:
        op.add_column("usage_sums", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in SUMS:
        op.drop_column("usage_sums", name)
