"""The key that each node shows on its own links (tls-client-cert-file)."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.add_column("nodes", sa.Column("client_key", sa.Text, nullable=False, server_default=""))
