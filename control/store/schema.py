"""The tables. Changing them also takes a new file in migrations/versions/; a test compares both."""

from typing import TypeVar

import sqlalchemy as sa

from control.records import (
    AlertSettings,
    AuditSettings,
    AuditSink,
    Binding,
    CaUses,
    Database,
    Demands,
    Endpoint,
    EventDetail,
    Issuer,
    KeyUsage,
    Password,
    Pattern,
    Profile,
    RedisAcl,
    Responder,
    Role,
    Subject,
    TrustSource,
    User,
)
from control.reports import Refused
from control.store.columns import flag as _flag
from control.store.columns import json as _json
from control.store.columns import metadata as metadata
from control.store.columns import number as _number
from control.store.columns import of as _of
from control.store.columns import row_id as _id
from control.store.columns import table as _table
from control.store.columns import text as _text
from control.store.columns import uid as _uid
from control.store.columns import unique_unless_empty as _unique_unless_empty
from control.store.followed import issuers, responders, trust_sources

Kind = (
    type[User] | type[Role] | type[RedisAcl] | type[Database] | type[Profile] | type[Pattern]
    | type[Issuer] | type[TrustSource] | type[Responder]
)  # fmt: skip
AnyRecord = User | Role | RedisAcl | Database | Profile | Pattern | Issuer | TrustSource | Responder
Record = TypeVar(
    "Record", User, Role, RedisAcl, Database, Profile, Pattern, Issuer, TrustSource, Responder
)


cluster_table = _table(
    "cluster",
    _number("id", primary_key=True, autoincrement=False),
    _number("revision"),
    _text("name"),
    _text("identifier"),
    _number("created"),
    _flag("mtls_certificate_authentication"),
    _text("mtls_client_cert_subject_validation_type"),
    _json("mtls_authorized_subjects", tuple[Subject, ...]),
    _json("demands", Demands),
    _flag("control_plane_basic_authentication"),
    _flag("password_complexity"),
    _number("password_min_length"),
    _number("password_expiration_duration"),
    _number("login_lockout_threshold"),
    _number("login_lockout_counter_reset_after"),
    _number("login_lockout_duration"),
    _flag("master_healthcheck_api_auth"),
    _text("acl_pubsub_default"),
    _text("min_control_TLS_version"),
    _flag("options_method_forbidden"),
    _flag("db_conns_auditing"),
    _json("audit_sink", AuditSink | None),
    _json("alert_settings", AlertSettings),
    _number("log_retention"),
    _text("jwt_key"),
    _json("stores", tuple[tuple[str, int], ...]),
    _text("hold"),
)
counters = _table("counters", sa.Column("name", sa.Text, primary_key=True), _number("last"))
certificates = _table(
    "certificates",
    sa.Column("name", sa.Text, primary_key=True),
    _text("certificate"),
    _text("key"),
    _json("uses", CaUses),
)
roles = _table(
    "roles",
    _uid(),
    _text("name"),
    _text("management"),
    _json("resources", tuple[int, ...]),
    sa.UniqueConstraint("name"),
)
redis_acls = _table("redis_acls", _uid(), _text("name"), _text("acl"), sa.UniqueConstraint("name"))
users = _table(
    "users",
    _uid(),
    _text("name"),
    _text("auth_method"),
    _text("email"),
    _text("certificate_subject_line"),
    _json("bindings", tuple[Binding, ...]),
    _json("passwords", tuple[Password, ...]),
    _number("last_login"),
    _number("locked"),
    sa.UniqueConstraint("name"),
    _unique_unless_empty("users_email", "email"),
    _unique_unless_empty("users_subject", "certificate_subject_line"),
    sa.Index("users_method", "auth_method", "uid"),
    sa.Index("users_last_login", "last_login", "uid"),
)
# Where the bindings of users are looked up, subject lines among them.
identities = _table(
    "identities",
    _of("users.uid", "user_uid", "CASCADE"),
    _text("kind"),
    _text("digest"),  # see bindings.digest
    sa.Index("identities_digest", "digest"),
    sa.Index("identities_user", "user_uid"),
)
user_roles = _table(
    "user_roles",
    _of("users.uid", "user_uid", "CASCADE"),
    _of("roles.uid", "role_uid", "RESTRICT"),
    sa.PrimaryKeyConstraint("user_uid", "role_uid"),
    sa.Index("user_roles_role", "role_uid"),
)
patterns = _table(
    "patterns",
    _uid(),
    _text("name"),
    _text("kind"),
    _text("template"),
    _text("user"),
    _text("ca"),
    _json("networks", tuple[str, ...]),
    _text("session"),
    _text("comment"),
    sa.UniqueConstraint("name"),
    sa.Index("patterns_user", "user"),
)
pattern_roles = _table(
    "pattern_roles",
    _of("patterns.uid", "pattern_uid", "CASCADE"),
    _of("roles.uid", "role_uid", "RESTRICT"),
    sa.PrimaryKeyConstraint("pattern_uid", "role_uid"),
    sa.Index("pattern_roles_role", "role_uid"),
)
bdbs = _table(
    "bdbs",
    _uid(),
    _text("name"),
    _json("endpoints", tuple[Endpoint, ...]),
    _text("tls_mode"),
    _text("enforce_client_authentication"),
    _text("client_cert_subject_validation_type"),
    _json("authorized_subjects", tuple[Subject, ...]),
    _json("authentication_ssl_client_certs", tuple[str, ...]),
    _json("client_ca_uses", CaUses),
    _json("demands", Demands),
    _flag("default_user"),
    _text("tls_server_ca"),
    _text("tls_server_name"),
    _json("node_addresses", tuple[tuple[str, str], ...]),
    _json("node_keys", tuple[str, ...]),
    _text("sentinel_master"),
    _flag("allow_unbound_peers"),
    _flag("allow_trust_on_internal_links"),
    _text("enforcement"),
    _flag("adopt_users"),
    _flag("deleting"),
    _json("audit_settings", AuditSettings),
    _number("created"),
    _number("generation"),
    _text("digest"),
)
roles_permissions = _table(
    "roles_permissions",
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _number("position"),
    _of("roles.uid", "role_uid", "CASCADE"),
    _of("redis_acls.uid", "redis_acl_uid", "RESTRICT"),
    sa.PrimaryKeyConstraint("bdb_uid", "position"),
    sa.Index("roles_permissions_role", "role_uid"),
    sa.Index("roles_permissions_acl", "redis_acl_uid"),
)
# `owner` is the uid of the user whom a line is for, 0 for the database's own lines, REVOKE_OWNER
# for `revoke` lines, PATTERN_OWNERS and its uid for the line of a pattern.
policy_lines = _table(
    "policy_lines",
    _id(),
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _number("owner"),
    _text("line"),
    sa.Index("policy_lines_owner", "owner", "bdb_uid"),
    sa.Index("policy_lines_bdb", "bdb_uid", "owner"),
    sa.Index(
        "policy_lines_revoked",
        "bdb_uid",
        "line",
        sqlite_where=sa.text("owner < 0"),
        postgresql_where=sa.text("owner < 0"),
    ),
)
# `source` is the uid of the revocation list that a line is from, minus that of a responder, or
# ADMINISTRATOR_SOURCE.
revocations = _table(
    "revocations",
    _id(),
    _number("source"),
    _text("line"),
    _text("reason"),
    _number("time"),
    sa.UniqueConstraint("source", "line"),
    sa.Index("revocations_line", "line"),
)
locks = _table(
    "locks",
    _uid(),
    _text("line"),
    _text("reason"),
    _number("time"),
    _number("end"),
    sa.UniqueConstraint("line"),
)
crls = _table(
    "crls",
    _uid(),
    _text("issuer"),
    _text("ca"),
    _json("keys", tuple[str, ...]),
    _json("path", tuple[str, ...]),
    _text("scope"),
    _text("number"),
    _number("this_update"),
    _number("next_update"),
    _text("stale"),
    _flag("overdue"),
    _text("url"),
    _number("interval"),
    _text("authorities"),
    _number("tried"),
    _text("problem"),
    sa.UniqueConstraint("ca", "scope"),
)
own_crls = _table(
    "own_crls",
    sa.Column("ca", sa.Text, primary_key=True),
    _number("number"),
    _number("this_update"),
    _number("next_update"),
    _json("certificates", tuple[str, ...]),
    _text("der"),
)
policy_log = _table(
    "policy_log",
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _number("generation"),
    _text("digest"),
    _json("added", tuple[str, ...]),
    _json("removed", tuple[str, ...]),
    sa.PrimaryKeyConstraint("bdb_uid", "generation"),
)
# The lines of users with a greater uid than `after` are still to be rendered on these databases,
# after a change that concerns all of them: see control/store/pieces.py, and for `turn` lines.py.
renderings = _table(
    "renderings",
    sa.Column(
        "bdb_uid",
        sa.BigInteger,
        sa.ForeignKey("bdbs.uid", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    _number("after"),
    _number("turn"),
)
nodes = _table(
    "nodes",
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _text("address"),
    _number("generation"),
    _flag("in_step"),
    _text("error"),
    _text("detail"),
    _text("origin"),
    _text("server_name"),
    _text("role"),
    _text("software"),
    _text("module"),
    _text("key"),
    _text("next_key"),
    _text("client_key"),
    _text("certificate"),
    _text("digest"),
    _number("outbid"),
    _text("last_error"),
    _number("last_error_time"),
    _json("refused", tuple[Refused, ...]),
    _number("looked"),  # when a worker last looked: milliseconds since 1970, database clock
    sa.PrimaryKeyConstraint("bdb_uid", "address"),
)
# Servers that nothing is sent to before somebody has seen what they hold: see holds.py.
holds = _table(
    "holds",
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _text("address"),
    _text("why"),
    _text("state"),
    _number("generation"),
    _text("digest"),
    _json("lines", tuple[str, ...]),
    sa.PrimaryKeyConstraint("bdb_uid", "address"),
)
# One row: the current leader, its epoch, which grows by one with every new leader, and when its
# lease expires and was last renewed (milliseconds since 1970, database clock).
lease = _table(
    "lease",
    _number("id", primary_key=True, autoincrement=False),
    _text("holder"),
    _number("epoch"),
    _number("expires"),
    _number("renewed"),
)
# Of password users. Uid 0 counts failures of unknown names: they take as long, and lock nobody.
login_failures = _table("login_failures", _uid(), _number("failures"), _number("last"))
# Logins whose tokens count no more, until when the last of those would have.
ended_logins = _table(
    "ended_logins", sa.Column("login", sa.Text, primary_key=True), _number("until")
)
events = _table(
    "events",
    _id(),
    _number("time"),
    _text("type"),
    _text("severity"),
    _json("detail", dict[str, EventDetail]),
    sa.Index("events_type", "type", "id"),
)
# How far the log of each node has been read into `events`.
log_positions = _table(
    "log_positions",
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _text("address"),
    _text("boot"),
    _number("seq"),
    sa.PrimaryKeyConstraint("bdb_uid", "address"),
)
actions = _table(
    "actions",
    _id(),
    _text("uid"),
    _number("bdb_uid"),
    _text("name"),
    _number("generation"),
    _number("created"),
    sa.UniqueConstraint("uid"),
    sa.Index("actions_bdb", "bdb_uid"),
)

# What was done in bulk by a key of its sender's, so that it is done once: see Objects.create_users.
bulks = _table(
    "bulks",
    _id(),
    _text("key"),
    _text("digest"),  # of what was sent
    _json("uids", tuple[int, ...]),
    sa.UniqueConstraint("key"),
)

profiles = _table(
    "profiles",
    _uid(),
    _text("name"),
    _number("lifetime"),
    _text("subject"),
    _json("sans", tuple[str, ...]),
    _json("key_usage", tuple[KeyUsage, ...]),
    _json("role_uids", tuple[int, ...]),
    sa.UniqueConstraint("name"),
)
client_certificates = _table(
    "client_certificates",
    sa.Column("cert", sa.Text, primary_key=True),
    _text("key"),
    _text("ca"),
    _text("issuer"),
    _text("serial"),
    _text("subject"),
    _text("user"),
    _number("not_before"),
    _number("not_after"),
    _number("first"),
    _flag("issued"),
    _text("profile"),
    _number("last_login"),
    _number("bdb_uid"),
    _text("node"),
    _text("pem"),
    _flag("serves"),
    _json("sans", tuple[str, ...]),
    _number("enrolled_by"),
    _text("ocsp"),
    _flag("warned"),  # the event log has said that it ends soon
    sa.Index("client_certificates_user", "user", "not_after", "cert"),
    sa.Index("client_certificates_ca", "ca"),
    sa.Index("client_certificates_end", "not_after", "cert"),
    sa.Index("client_certificates_subject", "subject", "cert"),
    sa.Index("client_certificates_login", "last_login", "cert"),
    sa.Index("client_certificates_serial", "serial"),
    sa.Index("client_certificates_key", "key"),
)

TABLES: dict[Kind, sa.Table] = {
    User: users, Role: roles, RedisAcl: redis_acls, Database: bdbs, Profile: profiles,
    Pattern: patterns, Issuer: issuers, TrustSource: trust_sources, Responder: responders,
}  # fmt: skip
NOUNS: dict[Kind, str] = {
    User: "user", Role: "role", RedisAcl: "redis_acl", Database: "bdb", Profile: "profile",
    Pattern: "pattern", Issuer: "issuer", TrustSource: "trust_source", Responder: "responder",
}  # fmt: skip
