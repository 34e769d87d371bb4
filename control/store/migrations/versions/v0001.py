"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _settings()
    _people()
    _databases()
    _policies()


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str, *parts: sa.ForeignKey) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, *parts, nullable=False)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean, nullable=False)


def _key(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, primary_key=True, autoincrement=False)


def _of(column: str, name: str, on_delete: str) -> "sa.Column[int]":
    return _number(name, sa.ForeignKey(column, ondelete=on_delete))


def _settings() -> None:
    op.create_table(
        "cluster",
        _key("id"),
        _number("revision"),
        _text("name"),
        _text("identifier"),
        _number("created"),
        _flag("mtls_certificate_authentication"),
        _text("mtls_client_cert_subject_validation_type"),
        _text("mtls_authorized_subjects"),
        _flag("control_plane_basic_authentication"),
    )
    op.create_table("counters", sa.Column("name", sa.Text, primary_key=True), _number("last"))
    name = sa.Column("name", sa.Text, primary_key=True)
    op.create_table("certificates", name, _text("certificate"), _text("key"))


def _people() -> None:
    unique = sa.UniqueConstraint
    op.create_table("roles", _key("uid"), _text("name"), _text("management"), unique("name"))
    op.create_table("redis_acls", _key("uid"), _text("name"), _text("acl"), unique("name"))
    op.create_table(
        "users",
        _key("uid"),
        _text("name"),
        _text("auth_method"),
        _text("email"),
        _text("certificate_subject_line"),
        _text("password_hash"),
        _number("password_issued"),
        _number("last_login"),
        unique("name"),
    )
    _unique_unless_empty("users_email", "email")
    _unique_unless_empty("users_subject", "certificate_subject_line")
    op.create_table(
        "user_roles",
        _of("users.uid", "user_uid", "CASCADE"),
        _of("roles.uid", "role_uid", "RESTRICT"),
        sa.PrimaryKeyConstraint("user_uid", "role_uid"),
    )
    op.create_index("user_roles_role", "user_roles", ["role_uid"])


def _unique_unless_empty(name: str, column: str) -> None:
    filled = sa.text(f"{column} <> ''")
    op.create_index(
        name, "users", [column], unique=True, sqlite_where=filled, postgresql_where=filled
    )


def _databases() -> None:
    op.create_table(
        "bdbs",
        _key("uid"),
        _text("name"),
        _text("endpoints"),
        _text("tls_mode"),
        _text("enforce_client_authentication"),
        _text("client_cert_subject_validation_type"),
        _text("authorized_subjects"),
        _text("authentication_ssl_client_certs"),
        _flag("default_user"),
        _text("tls_server_ca"),
        _flag("deleting"),
        _number("generation"),
        _text("digest"),
    )
    op.create_table(
        "roles_permissions",
        _of("bdbs.uid", "bdb_uid", "CASCADE"),
        _number("position"),
        _of("roles.uid", "role_uid", "CASCADE"),
        _of("redis_acls.uid", "redis_acl_uid", "RESTRICT"),
        sa.PrimaryKeyConstraint("bdb_uid", "position"),
    )
    op.create_index("roles_permissions_role", "roles_permissions", ["role_uid"])
    op.create_index("roles_permissions_acl", "roles_permissions", ["redis_acl_uid"])


def _policies() -> None:
    op.create_table(
        "policy_lines",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        _of("bdbs.uid", "bdb_uid", "CASCADE"),
        _number("owner"),
        _text("line"),
    )
    op.create_index("policy_lines_owner", "policy_lines", ["owner", "bdb_uid"])
    op.create_index("policy_lines_bdb", "policy_lines", ["bdb_uid"])
    op.create_table(
        "policy_log",
        _of("bdbs.uid", "bdb_uid", "CASCADE"),
        _number("generation"),
        _text("digest"),
        _text("added"),
        _text("removed"),
        sa.PrimaryKeyConstraint("bdb_uid", "generation"),
    )
    op.create_table(
        "nodes",
        _of("bdbs.uid", "bdb_uid", "CASCADE"),
        _text("address"),
        _number("generation"),
        _flag("in_step"),
        _text("error"),
        _text("detail"),
        sa.PrimaryKeyConstraint("bdb_uid", "address"),
    )
