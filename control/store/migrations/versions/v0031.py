"""How long the event log keeps what was changed here."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0020"


def upgrade() -> None:
    column = sa.Column("log_retention", sa.BigInteger, nullable=False, server_default="400")
    op.add_column("cluster", column)
