"""Which ACL rules a change brings to databases: new ones are tried on the servers before."""

from collections.abc import Callable, Iterable, Mapping

import sqlalchemy as sa

from control.policy import lines as policy
from control.records import Database, RedisAcl
from control.reports import NewRules, Place
from control.store.rows import find_record, read_cluster, read_nodes, read_records
from control.store.schema import AnyRecord, roles_permissions
from control.store.transaction import state_of


def note_rules(
    connection: sa.Connection,
    uid: int,
    before: Iterable[tuple[int, str]],
    added: Iterable[tuple[int, str]],
) -> None:
    """Notes the ACL rules that users get on a database and that no user has there so far."""
    rules = state_of(connection).rules
    if rules is not None and (new := _user_rules(added)):
        rules.setdefault(uid, set()).update(new - _user_rules(before))


def _user_rules(lines: Iterable[tuple[int, str]]) -> set[str]:
    """Of (owner, line)s, patterns included: braces are what they are to a server."""
    words = ("user ", "pattern ")
    rules = {policy.rules_of(line) for owner, line in lines if owner > 0 and line.startswith(words)}
    return rules - {""}


def note_granted_rules(
    connection: sa.Connection, record: AnyRecord, before: AnyRecord | None
) -> None:
    """Notes the ACL rules that a record brings to databases, also where no user has them yet; under
    uid 0, those of an ACL that no database grants."""
    rules = state_of(connection).rules
    if rules is None:
        return
    if isinstance(record, RedisAcl) and record.acl != (
        before.acl if isinstance(before, RedisAcl) else ""
    ):
        where = roles_permissions.c.redis_acl_uid == record.uid
        query = sa.select(roles_permissions.c.bdb_uid).where(where).distinct()
        for uid in connection.scalars(query).all() or [0]:
            _add(connection, rules, uid, record.acl)
    if isinstance(record, Database) and not record.deleting:
        was = before.roles_permissions if isinstance(before, Database) else ()
        for given in set(record.roles_permissions) - set(was):
            acl = find_record(connection, RedisAcl, given.redis_acl_uid).acl
            _add(connection, rules, record.uid, acl)


def _add(connection: sa.Connection, rules: dict[int, set[str]], uid: int, acl: str) -> None:
    channels = read_cluster(connection).acl_pubsub_default
    rules.setdefault(uid, set()).add(policy.acl_rules(policy.with_channels(acl, channels)))


def find_untried(
    connection: sa.Connection, rules: Mapping[int, set[str]], tried: Callable[[int, str], bool]
) -> tuple[NewRules, ...]:
    """Those of these rules, by uid of the database, of which `tried` says that they were not."""
    found = []
    for uid, those in rules.items():
        if new := frozenset(rule for rule in those if not tried(uid, rule)):
            found.append(NewRules(uid, new, _places(connection, uid)))
    return tuple(found)


def _places(connection: sa.Connection, uid: int) -> tuple[Place, ...]:
    """The database with this uid, or all for 0, with their nodes."""
    found = [find_record(connection, Database, uid)] if uid else read_records(connection, Database)
    return tuple(
        Place(database, read_nodes(connection, database.uid))
        for database in found
        if not database.deleting
    )
