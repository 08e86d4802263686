"""Which code may go on with this database."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
# See `database.schema`.
oldest = "0003"


def upgrade() -> None:
    op.create_table(
        "schema_floor",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("oldest", sa.String(8), nullable=False),
    )
    op.execute(f"INSERT INTO schema_floor (id, oldest) VALUES (1, '{oldest}')")  # noqa: S608


def downgrade() -> None:
    op.drop_table("schema_floor")
