"""Whether a certificate of a client is for servers as well. Of those that are known it is said when
they log in again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    added = sa.Column("serves", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("client_certificates", added)
