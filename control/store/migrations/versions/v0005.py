"""Profiles of certificates that are issued here, and the inventory of clients' certificates."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "profiles",
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        *_texts("name"),
        *_numbers("lifetime"),
        *_texts("subject", "sans", "key_usage", "role_uids"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "client_certificates",
        sa.Column("cert", sa.Text, primary_key=True),
        *_texts("key", "ca", "issuer", "serial", "subject", "user"),
        *_numbers("not_before", "not_after", "first"),
        _flag("issued"),
        *_texts("profile"),
        *_numbers("last_login", "bdb_uid"),
        *_texts("node", "pem"),
        _flag("warned"),
    )
    op.create_index("client_certificates_user", "client_certificates", ["user", "not_after"])
    op.create_index("client_certificates_ca", "client_certificates", ["ca"])
    op.create_index("client_certificates_end", "client_certificates", ["not_after"])
    if op.get_bind().scalar(sa.select(sa.func.count()).select_from(sa.table("cluster"))):
        _first_profile()


def _first_profile() -> None:
    """What a control plane that was made before would have got when it was made."""
    values = {"uid": 1, "name": "default", "lifetime": 86400, "subject": "", "sans": "[]"}
    values |= {"key_usage": '["digital_signature"]', "role_uids": "[]"}
    op.bulk_insert(sa.table("profiles", *map(sa.column, values)), [values])
    op.bulk_insert(
        sa.table("counters", sa.column("name"), sa.column("last")), [{"name": "profile", "last": 1}]
    )


def _texts(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _numbers(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _flag(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Boolean, nullable=False)
