"""The subject alternative names of the certificates that are known."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    column = sa.Column("sans", sa.Text, nullable=False, server_default="[]")
    op.add_column("client_certificates", column)
