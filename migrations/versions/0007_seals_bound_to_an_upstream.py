"""Nothing in the schema: the first version that opens seals which are bound to an upstream, see `control.keys`."""

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
# Such seals are made when no other is left, and raise it then.
oldest = "0003"


def upgrade() -> None:
    """Nothing to change."""


def downgrade() -> None:
    """Nothing to change."""
