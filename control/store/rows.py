"""Rows to records and back. Each function works within the transaction of its connection."""

import math
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from pydantic_core import to_json

from control import records
from control.errors import conflict, missing, refused
from control.pki import trust
from control.pki.pem import split_pem
from control.policy import bindings, core
from control.records import (
    TRUSTED_CA,
    Certificate,
    Cluster,
    Database,
    EventDetail,
    Pattern,
    RolePermission,
    User,
)
from control.reports import Node
from control.store.schema import (
    NOUNS,
    TABLES,
    AnyRecord,
    Kind,
    Record,
    certificates,
    cluster_table,
    identities,
    nodes,
    pattern_roles,
    roles_permissions,
    user_roles,
)
from control.store.statements import (
    CLOCKS,
    TAKE_UID,
    insert_into,
    select_all,
    select_among,
    select_by,
)


def values_of(table: sa.Table, record: Any) -> dict[str, Any]:
    """The fields of a record that have a column, by name."""
    names = record.__dataclass_fields__
    return {column.name: getattr(record, column.name) for column in table.c if column.name in names}


def read_cluster(connection: sa.Connection) -> Cluster:
    """Raises Refusal 406 before the cluster is made."""
    row = connection.execute(sa.select(cluster_table)).first()
    if row is None:
        raise refused("not_initialised", "run `redis-certauth init` first")
    fields = {name: value for name, value in row._mapping.items() if name not in ("id", "revision")}
    return Cluster(**fields)


def read_certificates(connection: sa.Connection) -> dict[str, Certificate]:
    """The cluster's certificates by name."""
    rows = connection.execute(sa.select(certificates).order_by(certificates.c.name))
    return {row.name: Certificate(**row._mapping) for row in rows}


def cluster_trust(connection: sa.Connection) -> records.Trust:
    """The CAs of `mtls_trusted_ca`; none where it is not installed."""
    found = read_certificates(connection).get(TRUSTED_CA)
    return trust.stored(found.certificate, found.uses) if found else records.Trust()


def database_trust(connection: sa.Connection, database: Database) -> records.Trust:
    """The CAs that clients of a database come from: its own, or those of the cluster."""
    own = "".join(database.authentication_ssl_client_certs)
    return trust.stored(own, database.client_ca_uses) if own else cluster_trust(connection)


def read_records(
    connection: sa.Connection,
    kind: type[Record],
    query: sa.Select[Any] | None = None,
    **parameters: Any,
) -> tuple[Record, ...]:
    """The records of a kind that a query of its table selects, by uid; by default all."""
    rows = connection.execute(
        select_all(TABLES[kind]) if query is None else query, parameters
    ).all()
    linked = _linked(connection, kind, None if query is None else [row.uid for row in rows])
    fields = [dict(row._mapping) for row in rows]
    for values in fields:
        for name in ("generation", "digest") if kind is Database else ():
            del values[name]
        for name, found in linked.items():
            values[name] = tuple(found.get(values["uid"], ()))
    return tuple(kind(**values) for values in fields)


# Where the roles are that records hold, and the column with the uid of these.
HELD: dict[Kind, tuple[sa.Table, str]] = {
    User: (user_roles, "user_uid"), Pattern: (pattern_roles, "pattern_uid")
}  # fmt: skip


def _linked(
    connection: sa.Connection, kind: Kind, uids: list[int] | None
) -> dict[str, dict[int, list[Any]]]:
    """Field name → uid → what other tables hold of these records; None for all records."""
    found: dict[int, list[Any]] = {}
    if kind in HELD:
        table, column = HELD[kind]
        for row in _links(connection, table, column, uids):
            found.setdefault(row._mapping[column], []).append(row.role_uid)
        return {"role_uids": found}
    if kind is Database:
        for row in _links(connection, roles_permissions, "bdb_uid", uids):
            entry = RolePermission(row.role_uid, row.redis_acl_uid)
            found.setdefault(row.bdb_uid, []).append(entry)
        return {"roles_permissions": found}
    return {}


def _links(
    connection: sa.Connection, table: sa.Table, column: str, uids: list[int] | None
) -> Iterable[sa.Row[Any]]:
    if uids is None:
        return connection.execute(select_all(table))
    return connection.execute(select_among(table, column), {column: uids})


def find_record(connection: sa.Connection, kind: type[Record], uid: int) -> Record:
    """Raises Refusal 404."""
    found = read_records(connection, kind, select_by(TABLES[kind], "uid"), uid=uid)
    if not found:
        raise missing(f"{NOUNS[kind]} {uid}")
    return found[0]


def record_exists(connection: sa.Connection, kind: Kind, uid: int) -> bool:
    """Whether there is a record of this kind with this uid."""
    return connection.execute(select_by(TABLES[kind], "uid"), {"uid": uid}).first() is not None


def take_uid(connection: sa.Connection, record: AnyRecord) -> int:
    """The uid that a record asks for, or (0) a uid that no record of its kind ever had: logs and
    clients still name deleted records. Raises Refusal 409."""
    kind, uid = type(record), record.uid
    if uid and record_exists(connection, kind, uid):
        raise conflict("uid_exists", f"there is already a {NOUNS[kind]} with uid {uid}")
    return int(connection.scalar(TAKE_UID, {"name": NOUNS[kind], "uid": uid}) or 0)


def insert_record(connection: sa.Connection, record: AnyRecord) -> None:
    """Writes a new record; a database begins at generation 0."""
    table = TABLES[type(record)]
    values = values_of(table, record)
    if isinstance(record, Database):
        values |= {"generation": 0, "digest": ""}
    connection.execute(insert_into(table), values)
    insert_links(connection, record)


def insert_links(connection: sa.Connection, record: AnyRecord) -> None:
    """Writes what other tables hold of a record."""
    if isinstance(record, User) and record.identities:
        named = [
            {
                "user_uid": record.uid,
                "kind": one.kind,
                "digest": bindings.digest(one.kind, one.value),
            }
            for one in record.identities
        ]
        connection.execute(insert_into(identities), named)
    if isinstance(record, User | Pattern) and record.role_uids:
        table, column = HELD[type(record)]
        held = [{column: record.uid, "role_uid": uid} for uid in record.role_uids]
        connection.execute(insert_into(table), held)
    if isinstance(record, Database) and record.roles_permissions:
        given = [
            {"bdb_uid": record.uid, "position": position, **vars(entry)}
            for position, entry in enumerate(record.roles_permissions)
        ]
        connection.execute(insert_into(roles_permissions), given)


def delete_links(connection: sa.Connection, record: AnyRecord) -> None:
    """Deletes what `insert_links` has written."""
    if isinstance(record, User):
        for table in (user_roles, identities):
            connection.execute(sa.delete(table).where(table.c.user_uid == record.uid))
    if isinstance(record, Pattern):
        where = pattern_roles.c.pattern_uid == record.uid
        connection.execute(sa.delete(pattern_roles).where(where))
    if isinstance(record, Database):
        where = roles_permissions.c.bdb_uid == record.uid
        connection.execute(sa.delete(roles_permissions).where(where))


def differing_fields(before: Any, after: Any) -> list[str]:
    """The names of the fields in which two records differ."""
    names = before.__dataclass_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]


SECRET = {"passwords", "jwt_key"}  # fields of which the log never has a value
VALUE = 4_000  # characters of a value in the log


def differences(before: Any, after: Any) -> dict[str, EventDetail]:
    """What the event log has of a change: the fields in which two records differ, and of each what
    it was and what it is."""
    fields = differing_fields(before, after)
    return {
        "fields": fields,
        "before": [_told(before, name) for name in fields],
        "after": [_told(after, name) for name in fields],
    }


def _told(record: Any, name: str) -> str:
    if name in SECRET:
        return ""
    text = to_json(getattr(record, name)).decode()
    return text if len(text) <= VALUE else f"{text[:VALUE]}…"


def exchanged(before: str, after: str) -> dict[str, EventDetail]:
    """The certificates that came and went, of two PEM files: only where any did."""
    old, new = (dict.fromkeys(split_pem(text)) for text in (before, after))
    told: dict[str, EventDetail] = {
        "added": [_named(one) for one in new if one not in old],
        "removed": [_named(one) for one in old if one not in new],
    }
    return {name: found for name, found in told.items() if found}


def _named(pem: str) -> str:
    try:
        one = core.identity(pem.encode())
    except core.CoreError:
        return "a certificate"
    return f"{one.subject or '(no subject)'}, SHA-256 {one.cert}"


def delete_certificate(connection: sa.Connection, name: str) -> bool:
    """Whether it was installed."""
    done = connection.execute(sa.delete(certificates).where(certificates.c.name == name))
    return done.rowcount > 0


def read_nodes(connection: sa.Connection, bdb_uid: int) -> tuple[Node, ...]:
    """What is known of the servers of a database, by address."""
    return select_nodes(connection, nodes.c.bdb_uid == bdb_uid)


def expect_endpoints(connection: sa.Connection, database: Database) -> None:
    """Notes the endpoints that no worker has reported yet: until one has, they count as servers
    that were not seen to have the module."""
    known = {node.address for node in read_nodes(connection, database.uid)}
    named = dict.fromkeys(end.address for end in database.endpoints)
    rows = [
        values_of(nodes, Node(database.uid, address, 0, False)) | {"looked": 0}
        for address in named
        if address not in known
    ]
    if rows:
        connection.execute(insert_into(nodes), rows)
    found = (nodes.c.bdb_uid == database.uid) & (nodes.c.origin == "found")
    named_now = sa.update(nodes).where(found, nodes.c.address.in_(list(named)))
    connection.execute(named_now.values(origin="endpoint"))


def select_nodes(connection: sa.Connection, where: sa.ColumnElement[bool]) -> tuple[Node, ...]:
    """Servers, by address, with the seconds since a worker looked at each."""
    found, now = [], database_time(connection)
    for row in connection.execute(sa.select(nodes).where(where).order_by(nodes.c.address)):
        fields = dict(row._mapping)
        looked = fields.pop("looked")
        found.append(Node(**fields, age=max(0, now - looked) / 1000 if looked else math.inf))
    return tuple(found)


def database_time(connection: sa.Connection) -> int:
    """Milliseconds since 1970 by the database's clock."""
    clock = sa.literal_column(CLOCKS[connection.dialect.name], sa.BigInteger)
    return int(connection.scalar(sa.select(clock)) or 0)


def time_before(now: int, age: float) -> int:
    """The time (milliseconds) `age` seconds before `now`; 0 for never, an age of infinity."""
    return 0 if age == math.inf else now - int(age * 1000)


def is_initialised(connection: sa.Connection) -> bool:
    """Whether the cluster has been made."""
    return connection.execute(sa.select(cluster_table.c.id)).first() is not None
