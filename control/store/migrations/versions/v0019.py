"""Settings of the cluster that Redis Enterprise has too: channels of ACLs, TLS, OPTIONS."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    for name, value in (
        ("acl_pubsub_default", "resetchannels"),
        ("min_control_TLS_version", "1.2"),
    ):
        op.add_column("cluster", sa.Column(name, sa.Text, nullable=False, server_default=value))
    forbidden = sa.Column(
        "options_method_forbidden", sa.Boolean, nullable=False, server_default=sa.false()
    )
    op.add_column("cluster", forbidden)
