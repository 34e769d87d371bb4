"""Enrolment by token: issuers, their keys as they were fetched, and tokens that were used."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.create_table(
        "issuers",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("url", sa.Text, nullable=False, unique=True),
        sa.Column("audiences", sa.Text, nullable=False),
        sa.Column("algorithms", sa.Text, nullable=False),
        sa.Column("clock_skew", sa.BigInteger, nullable=False),
        sa.Column("jwks", sa.Text, nullable=False),
        sa.Column("jwks_url", sa.Text, nullable=False),
        sa.Column("ca", sa.Text, nullable=False),
        sa.Column("interval", sa.BigInteger, nullable=False),
        sa.Column("rules", sa.Text, nullable=False),
    )
    op.create_table(
        "issuer_keys",
        sa.Column(
            "issuer_uid",
            sa.BigInteger,
            sa.ForeignKey("issuers.uid", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("jwks", sa.Text, nullable=False),
        sa.Column("fetched", sa.BigInteger, nullable=False),
        sa.Column("tried", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
    )
    op.create_table(
        "enrolments",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_index("enrolments_end", "enrolments", ["expires"])
