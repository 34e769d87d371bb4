"""What an auditor hears of, alerts of certificates, and when a database was made."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    for table, name, value in (
        ("cluster", "audit_sink", "null"),
        ("cluster", "alert_settings", "{}"),
        ("bdbs", "audit_settings", "{}"),
    ):
        op.add_column(table, sa.Column(name, sa.Text, nullable=False, server_default=value))
    flag = sa.Column("db_conns_auditing", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("cluster", flag)
    created = sa.Column("created", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("bdbs", created)
    # The first change that is still known is the nearest that there is to the truth.
    op.execute(
        "UPDATE bdbs SET created = "
        "COALESCE((SELECT MIN(created) FROM actions WHERE actions.bdb_uid = bdbs.uid), 0)"
    )
