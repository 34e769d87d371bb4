"""Which stores this one has been, and from which event on; and why nothing is sent to the servers,
where that waits for somebody."""

import json
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    for name, first in (("stores", "[]"), ("hold", "")):
        op.add_column("cluster", sa.Column(name, sa.Text, nullable=False, server_default=first))
    put = sa.text("UPDATE cluster SET stores = :stores")
    op.get_bind().execute(put, {"stores": json.dumps([[secrets.token_hex(8), 1]])})
