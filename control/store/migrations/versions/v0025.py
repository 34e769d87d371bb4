"""CAs that are followed, and what came of it."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.create_table(
        "trust_sources",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("bdb_uid", sa.BigInteger, nullable=False),
        sa.Column("ca", sa.Text, nullable=False),
        sa.Column("interval", sa.BigInteger, nullable=False),
        sa.Column("most", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "trust_states",
        sa.Column(
            "source_uid",
            sa.BigInteger,
            sa.ForeignKey("trust_sources.uid", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("given", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hint", sa.BigInteger, nullable=False),
        sa.Column("fetched", sa.BigInteger, nullable=False),
        sa.Column("tried", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("pending", sa.Text, nullable=False),
    )
