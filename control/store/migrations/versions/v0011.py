"""When each server was last looked at, and when a control plane last wrote that it leads."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    for table, column in (("nodes", "looked"), ("lease", "renewed")):
        op.add_column(table, sa.Column(column, sa.BigInteger, nullable=False, server_default="0"))
