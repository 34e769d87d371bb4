"""How long the event log keeps what was changed here; certificates by serial number and key, which
is how revocations name them; logins that have ended."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    column = sa.Column("log_retention", sa.BigInteger, nullable=False, server_default="400")
    op.add_column("cluster", column)
    for name in ("serial", "key"):
        op.create_index(f"client_certificates_{name}", "client_certificates", [name])
    op.create_table(
        "ended_logins",
        sa.Column("login", sa.Text, primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
