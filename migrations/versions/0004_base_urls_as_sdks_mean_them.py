"""Projects' base URLs name all of the path before the endpoint: ``/v1``, which was added to every path, is in them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

projects = sa.table("projects", sa.column("id", sa.String), sa.column("base_url", sa.Text))


def upgrade() -> None:
    """Older code may go on: it takes a trailing /v1 for the one it adds, and so reads the new form as this does."""
    connection = op.get_bind()
    stored = connection.execute(sa.select(projects).where(projects.c.base_url.is_not(None))).all()
    for project_id, base_url in stored:
        if (named := with_v1(base_url)) != base_url:
            connection.execute(projects.update().where(projects.c.id == project_id).values(base_url=named))


def downgrade() -> None:
    """Nothing: older code reads what upgrade wrote. It cannot say what was entered since and ends otherwise."""


def with_v1(base_url: str) -> str:
    """The same place in the new form, where a path stands for itself; a URL without one means /v1 in both."""
    path = base_url.partition("://")[2].partition("/")[2].rstrip("/")
    return base_url if not path or f"/{path}".endswith("/v1") else f"{base_url.rstrip('/')}/v1"
