"""The certificate that each node shows, and the key of the next one."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    for name in ("next_key", "certificate"):
        op.add_column("nodes", sa.Column(name, sa.Text, nullable=False, server_default=""))
