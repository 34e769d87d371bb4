"""With which epoch another control plane has taken a node from this one."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    column = sa.Column("outbid", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("nodes", column)
