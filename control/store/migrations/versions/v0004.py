"""Which of several control planes speaks to the servers; and more about each server."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0007"


def upgrade() -> None:
    lease = op.create_table(
        "lease",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.Text, nullable=False),
        _number("epoch"),
        _number("expires"),
    )
    op.bulk_insert(lease, [{"id": 1, "holder": "", "epoch": 0, "expires": 0}])
    for name in ("digest", "last_error"):
        _add(sa.Column(name, sa.Text, nullable=False), "''")
    _add(_number("last_error_time"), "0")


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False)


def _add(column: "sa.Column[str] | sa.Column[int]", default: str) -> None:
    """A column that rows already there get a value for."""
    column.server_default = sa.DefaultClause(sa.text(default))
    op.add_column("nodes", column)
