"""Identities of users beside the subject line, and where all of them are looked up."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("users", sa.Column("bindings", sa.Text, nullable=False, server_default="[]"))
    key = sa.ForeignKey("users.uid", ondelete="CASCADE")
    user: sa.Column[int] = sa.Column("user_uid", sa.BigInteger, key, nullable=False)
    texts = (sa.Column(name, sa.Text, nullable=False) for name in ("kind", "digest"))
    identities = op.create_table("identities", user, *texts)
    op.create_index("identities_digest", "identities", ["digest"])
    op.create_index("identities_user", "identities", ["user_uid"])
    query = "SELECT uid, certificate_subject_line FROM users WHERE certificate_subject_line <> ''"
    rows = [
        {"user_uid": uid, "kind": "subject", "digest": _digest(f"subject {line}")}
        for uid, line in op.get_bind().execute(sa.text(query))
    ]
    if rows:
        op.bulk_insert(identities, rows)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
