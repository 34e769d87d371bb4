"""Revocations, the revocation lists of other CAs, and our own."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    _revocations()
    _lists()
    op.create_index(
        "policy_lines_revoked",
        "policy_lines",
        ["bdb_uid", "line"],
        sqlite_where=sa.text("owner < 0"),
        postgresql_where=sa.text("owner < 0"),
    )


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False)


def _revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _number("source"),
        _text("line"),
        _text("reason"),
        _number("time"),
        sa.UniqueConstraint("source", "line"),
    )
    op.create_index("revocations_line", "revocations", ["line"])


def _lists() -> None:
    op.create_table(
        "crls",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        _text("issuer"),
        _text("ca"),
        _text("keys"),
        _text("path"),
        _text("scope"),
        _text("number"),
        _number("this_update"),
        _number("next_update"),
        _text("stale"),
        sa.Column("overdue", sa.Boolean, nullable=False),
        _text("url"),
        _number("interval"),
        _text("authorities"),
        _number("tried"),
        _text("problem"),
        sa.UniqueConstraint("ca", "scope"),
    )
    op.create_table(
        "own_crls",
        sa.Column("ca", sa.Text, primary_key=True),
        _number("number"),
        _number("this_update"),
        _number("next_update"),
        _text("certificates"),
        _text("der"),
    )
