"""What was done in bulk by a key of its sender's, so that it is done once."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "bulks",
        sa.Column("id", number, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("uids", sa.Text, nullable=False),
        sa.UniqueConstraint("key"),
    )
