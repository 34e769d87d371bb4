"""How far the logs of nodes have been read; enforcement in steps, and the adoption of users."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "log_positions",
        sa.Column(
            "bdb_uid", sa.BigInteger, sa.ForeignKey("bdbs.uid", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("bdb_uid", "address"),
    )
    for column in (
        sa.Column("enforcement", sa.Text, nullable=False, server_default="refuse"),
        sa.Column("adopt_users", sa.Boolean, nullable=False, server_default=sa.false()),
    ):
        op.add_column("bdbs", column)
