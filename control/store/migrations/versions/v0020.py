"""Which databases a role is for."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    column = sa.Column("resources", sa.Text, nullable=False, server_default="[]")
    op.add_column("roles", column)
