"""OCSP responders, and what they have said of certificates."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.create_table(
        "responders",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("ca", sa.Text, nullable=False, unique=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("interval", sa.BigInteger, nullable=False),
        sa.Column("stale", sa.Text, nullable=False),
        sa.Column("nonce", sa.Boolean, nullable=False),
    )
    op.create_table(
        "ocsp_answers",
        sa.Column(
            "responder_uid",
            sa.BigInteger,
            sa.ForeignKey("responders.uid", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("this_update", sa.BigInteger, nullable=False),
        sa.Column("next_update", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("overdue", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("responder_uid", "serial"),
    )
