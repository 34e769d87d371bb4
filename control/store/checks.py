"""What must hold between records. Each check raises Refusal."""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress

import sqlalchemy as sa

from control import records
from control.errors import conflict, invalid, refused
from control.policy import lines as policy
from control.records import (
    Cluster,
    Database,
    Issuer,
    Pattern,
    Profile,
    RedisAcl,
    Responder,
    Role,
    TrustSource,
    User,
)
from control.store.identities import check_identities
from control.store.patterns import check_pattern, check_unnamed, check_user_and_patterns
from control.store.rows import (
    cluster_trust,
    database_trust,
    read_cluster,
    read_nodes,
    read_records,
    record_exists,
)
from control.store.schema import (
    NOUNS,
    TABLES,
    AnyRecord,
    Kind,
    bdbs,
    pattern_roles,
    patterns,
    roles,
    roles_permissions,
    user_roles,
    users,
)
from control.store.statements import select_among, select_by_any

UNIQUE_USER_FIELDS = ("name", "email", "certificate_subject_line")
UNIQUE_FIELDS: dict[Kind, tuple[str, ...]] = {
    User: UNIQUE_USER_FIELDS, Issuer: ("name", "url"), Responder: ("name", "ca"),
}  # fmt: skip


def check_record(connection: sa.Connection, record: AnyRecord, before: AnyRecord | None) -> None:
    """Whether a record may be written; `before` is what it was, None for a new record."""
    if isinstance(record, Database):
        _check_endpoints(connection, record)
        for given in record.roles_permissions:
            _check_reference(connection, "roles_permissions", Role, given.role_uid)
            _check_reference(connection, "roles_permissions", RedisAcl, given.redis_acl_uid)
        if record.audit_settings.audit_mode != "disabled" and not record.deleting:
            check_audit_sink(connection)
        if _asks_for_certificates(record) and not _asks_for_certificates(before):
            _check_some_ca(connection, record)
        return
    _check_unique(connection, record, UNIQUE_FIELDS.get(type(record), ("name",)))
    if isinstance(record, User | Profile | Pattern):
        _check_roles(connection, record)
    if isinstance(record, Pattern):
        check_pattern(connection, record)
    if isinstance(record, User):
        _check_name(record, before)
        check_identities(connection, record)
        check_user_and_patterns(connection, record, before if isinstance(before, User) else None)


def check_audit_sink(connection: sa.Connection) -> None:
    """Raises Refusal 406 where there is nobody to tell of connections."""
    if read_cluster(connection).audit_sink is None:
        raise refused(
            "audit_settings_config_missing",
            "there is no auditor yet: PUT /v1/cluster/auditing/db_conns says where it is",
        )


def check_unaudited(connection: sa.Connection, cluster: Cluster) -> None:
    """Whether there may be no auditor. Raises Refusal 406 where somebody is to tell one."""
    if cluster.db_conns_auditing:
        text = "new databases are to be audited: PUT /v1/cluster/policy db_conns_auditing first"
        raise refused("cannot_delete_audit_config_when_policy_enabled", text)
    audited = [
        f"{one.uid} ('{one.name}')"
        for one in read_records(connection, Database)
        if one.audit_settings.audit_mode != "disabled" and not one.deleting
    ]
    if audited:
        text = f"bdb {', '.join(audited[:10])}: audit_settings.audit_mode is not disabled"
        raise refused("cannot_delete_audit_config_when_bdb_enabled", text)


def _check_name(user: User, before: AnyRecord | None) -> None:
    """A name that an older version took, and this one refuses, may stay as it is."""
    was = (before.name, before.auth_method) if isinstance(before, User) else None
    if user.auth_method == "certificate" and was != (user.name, user.auth_method):
        policy.check_name(user.name)


def _check_unique(
    connection: sa.Connection,
    record: User | Role | RedisAcl | Profile | Pattern | Issuer | TrustSource | Responder,
    fields: tuple[str, ...],
) -> None:
    values = {field: getattr(record, field) for field in fields}
    rows = connection.execute(select_by_any(TABLES[type(record)], fields), values).all()
    for field, value in values.items():
        if value and any(row.uid != record.uid and getattr(row, field) == value for row in rows):
            noun = NOUNS[type(record)]
            raise conflict(f"{field}_already_exists", f"another {noun} has the {field} '{value}'")


def _check_roles(connection: sa.Connection, record: User | Profile | Pattern) -> None:
    found = connection.execute(select_among(roles, "uid"), {"uid": list(record.role_uids)})
    for uid in sorted(set(record.role_uids) - {row.uid for row in found}):
        raise invalid("invalid_param", f"role_uids: there is no role {uid}")


def _check_reference(connection: sa.Connection, field: str, kind: Kind, uid: int) -> None:
    if not record_exists(connection, kind, uid):
        raise invalid("invalid_param", f"{field}: there is no {NOUNS[kind]} {uid}")


def _check_endpoints(connection: sa.Connection, database: Database) -> None:
    """A server has one policy, so two databases cannot share one, however they spell it."""
    mine = _normalised(endpoint_addresses(database))
    for other in read_records(connection, Database):
        if other.uid == database.uid:
            continue
        found = {
            node.address for node in read_nodes(connection, other.uid) if node.origin == "found"
        }
        for address in sorted(mine & _normalised(endpoint_addresses(other) | found)):
            text = f"{address} belongs to bdb {other.uid} ('{other.name}')"
            raise refused("port_unavailable", f"{text}: a server has one policy")


def endpoint_addresses(database: Database) -> set[str]:
    """host:port of each endpoint, as it is spelled there."""
    return {f"{host}:{end.port}" for end in database.endpoints for host in end.hosts}


def _normalised(addresses: Iterable[str]) -> set[str]:
    """Each in one spelling: `::1` is also 0:0:0:0:0:0:0:1, ::ffff:10.0.0.5 is 10.0.0.5, and case
    does not distinguish names."""
    found = set()
    for address in addresses:
        host, _, port = address.rpartition(":")
        with suppress(ValueError):
            ip = ipaddress.ip_address(host)
            host = str(getattr(ip, "ipv4_mapped", None) or ip)
        host = host.lower().removesuffix(".")
        found.add(f"{'127.0.0.1' if host == 'localhost' else host}:{port}")
    return found


def _asks_for_certificates(record: AnyRecord | None) -> bool:
    """Whether the servers of a database refuse clients without a certificate."""
    return (
        isinstance(record, Database)
        and record.tls_mode == "enabled"
        and record.enforce_client_authentication == "enabled"
    )


def _check_some_ca(connection: sa.Connection, database: Database) -> None:
    if database_trust(connection, database) == records.Trust():
        raise refused(
            "missing_certificate",
            "enforce_client_authentication is enabled, but no CA is there that clients could come "
            "from: send authentication_ssl_client_certs, or install mtls_trusted_ca first",
        )


def check_trusted_ca(connection: sa.Connection) -> None:
    """A CA must be installed before certificates can log in here."""
    if not cluster_trust(connection).cas:
        raise refused(
            "missing_certificate",
            "mtls_certificate_authentication needs a CA: install mtls_trusted_ca first",
        )


def check_unused(connection: sa.Connection, record: AnyRecord) -> None:
    """No other record may refer to one that is about to be deleted."""
    if isinstance(record, User):
        check_unnamed(connection, record)
    if isinstance(record, Role):
        held = sa.select(users.c.name).join(user_roles, user_roles.c.user_uid == users.c.uid)
        found = connection.scalars(held.where(user_roles.c.role_uid == record.uid).limit(5)).all()
        if found:
            raise refused(
                "role_in_use",
                f"users hold this role: {', '.join(found)}; give them another one first",
            )
        held = sa.select(patterns.c.name).join(
            pattern_roles, pattern_roles.c.pattern_uid == patterns.c.uid
        )
        held = held.where(pattern_roles.c.role_uid == record.uid).order_by(patterns.c.name)
        if found := connection.scalars(held.limit(5)).all():
            raise refused(
                "role_in_use",
                f"patterns have this role: {', '.join(found)}; give them another one first",
            )
        named = [
            profile.name
            for profile in read_records(connection, Profile)
            if record.uid in profile.role_uids
        ]
        if named:
            raise refused(
                "role_in_use",
                f"certificate profiles name this role: {', '.join(named)}; take it out of them "
                "first",
            )
    if isinstance(record, RedisAcl):
        given = roles_permissions.c
        used = sa.select(bdbs.c.name).join(roles_permissions, given.bdb_uid == bdbs.c.uid)
        found = connection.scalars(used.where(given.redis_acl_uid == record.uid).limit(5)).all()
        if found:
            raise refused(
                "redis_acl_in_use",
                "roles_permissions of databases name this ACL: "
                f"{', '.join(found)}; take it out of them first",
            )


def check_administrators(connection: sa.Connection) -> None:
    """An administrator who can log in must remain; where passwords are switched off, a certificate
    login counts only once it has worked."""
    held = user_roles.c
    administrators = (
        sa.select(users.c.uid)
        .join(user_roles, held.user_uid == users.c.uid)
        .join(roles, roles.c.uid == held.role_uid)
        .where(roles.c.management == "admin")
        .limit(1)
    )
    if connection.scalar(administrators) is None:
        raise refused("change_last_admin_role_not_allowed", "no administrator would be left")
    cluster = read_cluster(connection)
    by_password = users.c.auth_method == "regular"
    ways = []
    if cluster.control_plane_basic_authentication:
        ways.append(by_password)
    if cluster.mtls_certificate_authentication and cluster_trust(connection).cas:
        ways.append(~by_password & (users.c.last_login > 0))
    if ways and connection.scalar(administrators.where(sa.or_(*ways))) is not None:
        return
    raise refused(
        "no_administrator_login",
        "no administrator could log in any more: passwords can only be given up once an "
        "administrator has logged in with a client certificate, and as long as that works",
    )
