"""What servers do not take of their policies."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0004"


def upgrade() -> None:
    refused = sa.Column("refused", sa.Text, nullable=False, server_default="[]")
    op.add_column("nodes", refused)
