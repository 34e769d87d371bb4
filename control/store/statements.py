"""Statements that are made once: making one costs more than running it."""

from functools import cache
from typing import Any

import sqlalchemy as sa

from control.store.schema import (
    bdbs,
    cluster_table,
    identities,
    pattern_roles,
    patterns,
    policy_lines,
    redis_acls,
    revocations,
    roles_permissions,
    user_roles,
    users,
)

# Milliseconds since 1970, of now and not of the transaction's beginning.
CLOCKS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


@cache
def select_all(table: sa.Table) -> sa.Select[Any]:
    """All rows, by primary key."""
    return sa.select(table).order_by(*table.primary_key)


@cache
def select_by(table: sa.Table, column: str) -> sa.Select[Any]:
    """The rows with this value of a column; the parameter has the column's name."""
    return select_all(table).where(table.c[column] == sa.bindparam(column))


@cache
def select_by_any(table: sa.Table, columns: tuple[str, ...]) -> sa.Select[Any]:
    """The rows that have one of these values, unless it is empty; parameters as for `select_by`."""
    matches = ((table.c[name] == sa.bindparam(name)) & (table.c[name] != "") for name in columns)
    return select_all(table).where(sa.or_(*matches))


@cache
def insert_into(table: sa.Table) -> sa.Insert:
    """New rows; the parameters are their columns."""
    return sa.insert(table)


@cache
def select_among(table: sa.Table, column: str) -> sa.Select[Any]:
    """The rows with one of these values of a column; the parameter is a list of them."""
    return select_all(table).where(table.c[column].in_(sa.bindparam(column, expanding=True)))


# The counter's next number; or the uid that is asked for, and the counter goes on above it.
TAKE_UID = sa.text(
    "INSERT INTO counters (name, last) VALUES (:name, CASE :uid WHEN 0 THEN 1 ELSE :uid END) "
    "ON CONFLICT (name) DO UPDATE SET last = CASE WHEN :uid = 0 THEN counters.last + 1 "
    "WHEN :uid > counters.last THEN :uid ELSE counters.last END "
    "RETURNING CASE :uid WHEN 0 THEN last ELSE :uid END"
).bindparams(sa.bindparam("uid", type_=sa.BigInteger))
DROPPED_COUNTER = "events_dropped"  # holds the number of the last event that was trimmed
COUNT_DROPPED = sa.text(
    "INSERT INTO counters (name, last) VALUES (:name, :number) ON CONFLICT (name) DO UPDATE SET "
    "last = CASE WHEN counters.last > :number THEN counters.last ELSE :number END"
).bindparams(sa.bindparam("number", type_=sa.BigInteger))
OF_BDB = policy_lines.c.bdb_uid == sa.bindparam("bdb")
POLICY_LINES = sa.select(policy_lines).where(OF_BDB, policy_lines.c.owner >= 0)
REVOKE_LINES = sa.select(policy_lines).where(OF_BDB, policy_lines.c.owner < 0)
OWN_LINES = POLICY_LINES.where(policy_lines.c.owner == 0)
SOME_REVOKE_LINES = REVOKE_LINES.where(
    policy_lines.c.line.in_(sa.bindparam("touched", expanding=True))
)
REVOCATIONS_OF = sa.select(revocations).where(revocations.c.source == sa.bindparam("of"))
SOME_REVOCATIONS_OF = REVOCATIONS_OF.where(
    revocations.c.line.in_(sa.bindparam("lines", expanding=True))
)
LINES_OF = sa.select(policy_lines).where(
    policy_lines.c.owner.in_(sa.bindparam("owners", expanding=True))
)
COUNT_UP_REVISION = (
    sa.update(cluster_table)
    .values(revision=cluster_table.c.revision + 1)
    .returning(cluster_table.c.revision)
)
READ_TARGET = sa.select(bdbs.c.generation, bdbs.c.digest).where(bdbs.c.uid == sa.bindparam("bdb"))
WRITE_TARGET = (
    sa.update(bdbs)
    .where(bdbs.c.uid == sa.bindparam("bdb"))
    .values(generation=sa.bindparam("after"), digest=sa.bindparam("now"))
)
USERS_WITH_IDENTITY = (
    sa.select(identities.c.user_uid)
    .distinct()
    .where(
        sa.or_(
            identities.c.digest.in_(sa.bindparam("digests", expanding=True)),
            identities.c.kind.in_(sa.bindparam("kinds", expanding=True)),
        )
    )
)
# What the rows of grants have beside the ACL's own text: see policy.with_channels.
CHANNELS = sa.select(cluster_table.c.acl_pubsub_default).scalar_subquery().label("channels")
ALL_GRANTS = (
    sa.select(users, roles_permissions.c.bdb_uid, redis_acls.c.acl, bdbs.c.adopt_users, CHANNELS)
    .join(user_roles, user_roles.c.user_uid == users.c.uid)
    .join(roles_permissions, roles_permissions.c.role_uid == user_roles.c.role_uid)
    .join(redis_acls, redis_acls.c.uid == roles_permissions.c.redis_acl_uid)
    .join(bdbs, bdbs.c.uid == roles_permissions.c.bdb_uid)
    .order_by(users.c.uid, roles_permissions.c.bdb_uid, roles_permissions.c.position)
)
GRANTS_ON_BDB = ALL_GRANTS.where(
    roles_permissions.c.bdb_uid == sa.bindparam("bdb"), users.c.auth_method == "certificate"
)
# Of users with uids in a range. `+ 0`: SQLite must begin with the users, and not with the database
# or the role, which may have all of them.
IN_RANGE: dict[str, sa.BindParameter[int]] = {
    "after": sa.bindparam("after"), "upto": sa.bindparam("upto")
}  # fmt: skip
GRANTS_IN_RANGE = (
    sa.select(users, roles_permissions.c.bdb_uid, redis_acls.c.acl, bdbs.c.adopt_users, CHANNELS)
    .join(user_roles, user_roles.c.user_uid == users.c.uid)
    .join(roles_permissions, roles_permissions.c.role_uid == user_roles.c.role_uid + 0)
    .join(redis_acls, redis_acls.c.uid == roles_permissions.c.redis_acl_uid)
    .join(bdbs, bdbs.c.uid == roles_permissions.c.bdb_uid)
    .where(users.c.uid > IN_RANGE["after"], users.c.uid <= IN_RANGE["upto"])
    .where(roles_permissions.c.bdb_uid == sa.bindparam("bdb"))
    .where(users.c.auth_method == "certificate")
    .order_by(users.c.uid, roles_permissions.c.position)
)
LINES_IN_RANGE = sa.select(policy_lines).where(
    policy_lines.c.owner > IN_RANGE["after"],
    policy_lines.c.owner <= IN_RANGE["upto"],
    policy_lines.c.bdb_uid + 0 == sa.bindparam("bdb"),
)
# Patterns that name a user with a uid in a range, and that may make users of such a name.
PATTERNS_IN_RANGE = (
    sa.select(patterns)
    .join(users, users.c.name == patterns.c.user)
    .where(users.c.uid > IN_RANGE["after"], users.c.uid <= IN_RANGE["upto"])
)
UID_AHEAD = sa.select(users.c.uid).where(users.c.uid > IN_RANGE["after"]).order_by(users.c.uid)
UID_AHEAD = UID_AHEAD.limit(1).offset(sa.bindparam("skipped"))
# A certificate user for each set of roles that any has: all with the same roles have the same ACLs.
_HELD = (
    sa.select(
        user_roles.c.user_uid,
        sa.func.aggregate_strings(sa.cast(user_roles.c.role_uid, sa.Text), ",").label("held"),
    )
    .join(users, users.c.uid == user_roles.c.user_uid)
    .where(users.c.auth_method == "certificate")
    .group_by(user_roles.c.user_uid)
    .subquery()
)
ONE_OF_EACH_ROLES = sa.select(sa.func.min(_HELD.c.user_uid)).group_by(_HELD.c.held)
# Of users without a line there, and a few others: see Policies.not_synced.
GRANTS_WITHOUT_LINE = ALL_GRANTS.where(
    roles_permissions.c.bdb_uid == sa.bindparam("bdb"),
    sa.or_(users.c.auth_method == "regular", *(users.c.name.contains(c) for c in "'\"")),
)
# Only on databases that are not being removed.
GRANTS_OF_USER = ALL_GRANTS.where(
    users.c.uid == sa.bindparam("of"), users.c.auth_method == "certificate", ~bdbs.c.deleting
)
# What the users of patterns get, on databases that are not being removed.
PATTERN_GRANTS = (
    sa.select(
        patterns,
        roles_permissions.c.bdb_uid,
        redis_acls.c.acl,
        redis_acls.c.name.label("acl_name"),
        CHANNELS,
    )
    .join(pattern_roles, pattern_roles.c.pattern_uid == patterns.c.uid)
    .join(roles_permissions, roles_permissions.c.role_uid == pattern_roles.c.role_uid)
    .join(redis_acls, redis_acls.c.uid == roles_permissions.c.redis_acl_uid)
    .join(bdbs, bdbs.c.uid == roles_permissions.c.bdb_uid)
    .where(~bdbs.c.deleting)
    .order_by(patterns.c.uid, roles_permissions.c.bdb_uid, roles_permissions.c.position)
)
PATTERNS_ON_BDB = PATTERN_GRANTS.where(roles_permissions.c.bdb_uid == sa.bindparam("bdb"))
GRANTS_OF_PATTERN = PATTERN_GRANTS.where(patterns.c.uid == sa.bindparam("of"))
PATTERNS_WITH_ACL = PATTERN_GRANTS.where(redis_acls.c.uid == sa.bindparam("with"))
# Those that name this user; also those that make users, where the user has such a name.
PATTERNS_OF_USER = sa.select(patterns).join(users, users.c.name == patterns.c.user)
PATTERNS_OF_USER = PATTERNS_OF_USER.where(users.c.uid == sa.bindparam("of"))
# ACLs that patterns get, and that may hold placeholders.
ACLS_OF_PATTERNS = (
    sa.select(
        redis_acls.c.uid,
        redis_acls.c.name,
        redis_acls.c.acl,
        sa.func.min(patterns.c.name).label("by"),
    )
    .join(roles_permissions, roles_permissions.c.redis_acl_uid == redis_acls.c.uid)
    .join(pattern_roles, pattern_roles.c.role_uid == roles_permissions.c.role_uid)
    .join(patterns, patterns.c.uid == pattern_roles.c.pattern_uid)
    .where(redis_acls.c.acl.contains("{"))
    .group_by(redis_acls.c.uid, redis_acls.c.name, redis_acls.c.acl)
    .order_by(redis_acls.c.uid)
)
USER_WITH_ACL = (
    sa.select(users.c.name)
    .join(user_roles, user_roles.c.user_uid == users.c.uid)
    .join(roles_permissions, roles_permissions.c.role_uid == user_roles.c.role_uid)
    .where(roles_permissions.c.redis_acl_uid == sa.bindparam("with"))
    .where(users.c.auth_method == "certificate")
    .limit(1)
)
