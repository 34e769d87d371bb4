"""What the cluster and its databases demand of certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    for table in ("cluster", "bdbs"):
        op.add_column(table, sa.Column("demands", sa.Text, nullable=False, server_default="{}"))
