"""
Reservations in one place each: every call with a budget makes one and ends it.

On SQLite the row stands in its key's own tree, and on both databases no other index has it: few stand there at a time.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
# See `database.schema`. The columns are the same.
oldest = "0003"

INDEX = "ix_reservations_worker"


def upgrade() -> None:
    op.drop_index(INDEX, "reservations")
    _rebuild(with_rowid=False)


def downgrade() -> None:
    _rebuild(with_rowid=True)
    op.create_index(INDEX, "reservations", ["worker"])


def _rebuild(*, with_rowid: bool) -> None:
    if op.get_bind().dialect.name == "sqlite":
        kwargs = {"sqlite_with_rowid": with_rowid}
        with op.batch_alter_table("reservations", recreate="always", table_kwargs=kwargs):
            pass  # the same columns
