"""Patterns: many certificates by one line."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

TEXTS = ("name", "kind", "template", "user", "ca", "networks", "session", "comment")


def upgrade() -> None:
    uid: sa.Column[int] = sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False)
    texts = (sa.Column(name, sa.Text, nullable=False) for name in TEXTS)
    op.create_table("patterns", uid, *texts, sa.UniqueConstraint("name"))
    op.create_index("patterns_user", "patterns", ["user"])
    op.create_table(
        "pattern_roles",
        _of("patterns.uid", "pattern_uid", "CASCADE"),
        _of("roles.uid", "role_uid", "RESTRICT"),
        sa.PrimaryKeyConstraint("pattern_uid", "role_uid"),
    )
    op.create_index("pattern_roles_role", "pattern_roles", ["role_uid"])


def _of(column: str, name: str, on_delete: str) -> "sa.Column[int]":
    key = sa.ForeignKey(column, ondelete=on_delete)
    return sa.Column(name, sa.BigInteger, key, nullable=False)
