"""Whether the policy lines that are still to be rendered take rights away, or give them."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    turn = sa.Column("turn", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("renderings", turn)
