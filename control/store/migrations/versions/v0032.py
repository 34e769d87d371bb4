"""Which OCSP responder a client's certificate names."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    column = sa.Column("ocsp", sa.Text, nullable=False, server_default="")
    op.add_column("client_certificates", column)
