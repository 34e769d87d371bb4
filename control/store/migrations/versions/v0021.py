"""Which policy lines are still to be rendered, after a change that concerns many users."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_table(
        "renderings",
        sa.Column(
            "bdb_uid",
            sa.BigInteger,
            sa.ForeignKey("bdbs.uid", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("after", sa.BigInteger, nullable=False),
    )
