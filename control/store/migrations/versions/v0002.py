"""Several passwords a user, lockout, password policy, tokens, the event log, actions."""

import json
import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _settings()
    _passwords()
    _tables()


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=False)


def _id() -> "sa.Column[int]":
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", kind, primary_key=True)


def _add(table: str, column: "sa.Column[Any]", default: str) -> None:
    """A column that rows already there get a value for."""
    column.server_default = sa.DefaultClause(sa.text(default))
    op.add_column(table, column)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean, nullable=False)


def _settings() -> None:
    for name, default in (
        ("password_min_length", "8"),
        ("password_expiration_duration", "0"),
        ("login_lockout_threshold", "5"),
        ("login_lockout_counter_reset_after", "900"),
        ("login_lockout_duration", "1800"),
    ):
        _add("cluster", _number(name), default)
    _add("cluster", _flag("password_complexity"), "false")
    _add("cluster", _flag("master_healthcheck_api_auth"), "true")
    _add("cluster", _text("jwt_key"), "''")
    cluster = sa.table("cluster", sa.column("jwt_key"))
    op.execute(sa.update(cluster).values(jwt_key=secrets.token_hex(32)))


def _passwords() -> None:
    _add("users", _text("passwords"), "'[]'")
    _add("users", _number("locked"), "0")
    names = ("uid", "password_hash", "password_issued", "passwords")
    users = sa.table("users", *(sa.column(name) for name in names))
    connection = op.get_bind()
    for row in connection.execute(sa.select(users).where(users.c.password_hash != "")).all():
        text = json.dumps([{"hash": row.password_hash, "issued": row.password_issued}])
        where = users.c.uid == row.uid
        connection.execute(sa.update(users).where(where).values(passwords=text))
    op.drop_column("users", "password_hash")
    op.drop_column("users", "password_issued")


def _tables() -> None:
    key = sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False)
    op.create_table("login_failures", key, _number("failures"), _number("last"))
    op.create_table(
        "events", _id(), _number("time"), _text("type"), _text("severity"), _text("detail")
    )
    op.create_index("events_type", "events", ["type", "id"])
    op.create_table(
        "actions",
        _id(),
        _text("uid"),
        _number("bdb_uid"),
        _text("name"),
        _number("generation"),
        _number("created"),
        sa.UniqueConstraint("uid"),
    )
    op.create_index("actions_bdb", "actions", ["bdb_uid"])
