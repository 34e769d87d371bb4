"""Topologies: what is known of nodes that others name, and how they are reached."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name, default in (
        ("tls_server_name", "''"),
        ("node_addresses", "'[]'"),
        ("node_keys", "'[]'"),
        ("sentinel_master", "''"),
    ):
        _add("bdbs", name, sa.Text(), default)
    for name in ("allow_unbound_peers", "allow_trust_on_internal_links"):
        _add("bdbs", name, sa.Boolean(), "false")
    _add("nodes", "origin", sa.Text(), "'endpoint'")
    for name in ("server_name", "role", "software", "module", "key"):
        _add("nodes", name, sa.Text(), "''")


def _add(table: str, name: str, kind: Any, default: str) -> None:
    """A column that rows already there get a value for."""
    op.add_column(table, sa.Column(name, kind, nullable=False, server_default=sa.text(default)))
