"""Users, patterns, roles, ACLs, databases and certificate profiles."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from control.policy import bindings, core
from control.policy.taking import PLACEHOLDER
from control.records import (
    Database,
    EventDetail,
    Issuer,
    Pattern,
    RedisAcl,
    Responder,
    Role,
    TrustSource,
    User,
)
from control.store.actions import write_action
from control.store.bulk import find_bulk, insert_users, write_bulk
from control.store.checks import (
    UNIQUE_USER_FIELDS,
    check_administrators,
    check_record,
    check_unused,
)
from control.store.events import note
from control.store.followed import issuer_keys, ocsp_answers, trust_states
from control.store.identities import users_with
from control.store.kernel import Kernel
from control.store.lines import (
    await_pieces,
    await_policies,
    read_target,
    refresh_databases,
    refresh_pattern,
    refresh_user,
)
from control.store.locks import follow_name
from control.store.patterns import check_acls
from control.store.pieces import finish_lines
from control.store.revoking import follow_responder, follow_revocations
from control.store.rows import (
    delete_links,
    differences,
    differing_fields,
    expect_endpoints,
    find_record,
    insert_links,
    insert_record,
    read_records,
    take_uid,
    values_of,
)
from control.store.schema import (
    NOUNS,
    TABLES,
    AnyRecord,
    Kind,
    Record,
    client_certificates,
    login_failures,
    nodes,
    patterns,
    roles_permissions,
    user_roles,
    users,
)
from control.store.sorting import order_of
from control.store.statements import select_by
from control.store.transaction import state_of
from control.store.trials import note_granted_rules

# Fields of a database that say which nodes it has and how they are reached.
REACH_FIELDS = {"endpoints", "tls_server_ca", "tls_server_name", "node_addresses"}
# Fields of an issuer that say where its keys come from, and of a source of CAs where these do.
ISSUER_FIELDS = {"url", "jwks", "jwks_url", "ca"}
SOURCE_FIELDS = {"location", "ca"}
# Fields of a database on which the lines of its users depend.
USER_LINE_FIELDS = {"roles_permissions", "adopt_users", "deleting"}


class Objects:
    """Each change is checked against all other records, written to the event log, and followed by
    the policies that depend on it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # ---- Reading ----

    def get(self, kind: type[Record], uid: int) -> Record:
        """The record with this uid. Raises Refusal 404."""

        def load() -> Record:
            with self._kernel.read() as connection:
                return find_record(connection, kind, uid)

        found: Record = self._kernel.cache.recall((kind, uid), load)
        return found

    def all(self, kind: type[Record]) -> tuple[Record, ...]:
        """All records of a kind, by uid."""

        def read() -> tuple[Record, ...]:
            with self._kernel.read() as connection:
                return read_records(connection, kind)

        return self._kernel.remember(("all", kind), read)

    def find(
        self,
        kind: type[Record],
        text: str,
        limit: int,
        offset: int,
        name: str = "",
        role_uid: int | None = None,
        sort: str = "uid",
    ) -> tuple[Record, ...]:
        """The records of a kind, by `sort` (see SORTS), whose name contains `text`, in any case; of
        users also those whose e-mail address or subject does. With `name`, only the record of this
        name; with `role_uid`, only users who hold that role."""
        query = sa.select(TABLES[kind]).where(*_wanted(kind, text, name, role_uid))
        query = query.order_by(*order_of(TABLES[kind], sort))
        with self._kernel.read() as connection:
            return read_records(connection, kind, query.limit(limit).offset(offset))

    def count(
        self, kind: type[Record], text: str = "", name: str = "", role_uid: int | None = None
    ) -> int:
        """How many `find` would find without a limit; by default all of a kind."""
        conditions = _wanted(kind, text, name, role_uid)
        counted = sa.select(sa.func.count()).select_from(TABLES[kind]).where(*conditions)

        def load() -> int:
            with self._kernel.read() as connection:
                return int(connection.scalar(counted) or 0)

        return load() if conditions else self._kernel.cache.recall(("count", kind), load)

    def user_by_login(self, login: str) -> User | None:
        """The user with this name or, where there is none, with this e-mail address."""

        def load() -> User | None:
            with self._kernel.read() as connection:
                named = read_records(connection, User, select_by(users, "name"), name=login)
                found = named or read_records(
                    connection, User, select_by(users, "email"), email=login
                )
                return next(iter(found), None)

        return self._kernel.cache.recall(("login", login), load) if login else None

    def users_like(self, leaf: core.Identity) -> tuple[User, ...]:
        """The users who have an identity that this certificate may have."""

        def load() -> tuple[User, ...]:
            digests = [bindings.digest(*one) for one in bindings.of_certificate(leaf)]
            with self._kernel.read() as connection:
                return users_with(connection, digests, bindings.SCANNED)

        return self._kernel.cache.recall(("certificate", leaf.cert), load)

    def roles_of(self, user: User) -> tuple[Role, ...]:
        """The roles that a user holds, as far as they exist."""
        known = self._kernel.cache.recall("roles", lambda: self.all(Role))
        return tuple(role for role in known if role.uid in user.role_uids)

    # ---- Changing ----

    def create(self, record: Record) -> Record:
        """Adds a record; where its uid is 0, one is chosen. Raises Refusal."""
        names = (record.name, record.email) if isinstance(record, User) else None
        with self._kernel.change(names) as connection:
            made: Record = replace(record, uid=take_uid(connection, record))
            check_record(connection, made, None)
            insert_record(connection, made)
            check_acls(connection, made)
            _follow(connection, made)
            note_granted_rules(connection, made, None)
            _note_change(connection, made, "created")
        finish_lines(self._kernel)
        return made

    def create_users(
        self, made: Sequence[User], key: str = "", digest: str = ""
    ) -> tuple[int, ...]:
        """Adds users, all or none, as one change. Returns their uids. With a `key`, users that were
        sent with it before (`digest` tells whether it was these) are not made again. Raises
        BulkRefused, Refusal."""
        names = [name for one in made for name in (one.name, one.email)]
        with self._kernel.change(names) as connection:
            if key and (before := find_bulk(connection, key, digest)) is not None:
                await_policies(connection)
                return before
            uids = tuple(one.uid for one in insert_users(connection, made))
            if made:
                check_acls(connection, made[0])
            if key:
                write_bulk(connection, key, digest, uids)
        return uids

    def update(self, kind: type[Record], uid: int, change: Callable[[Record], Record]) -> Record:
        """Replaces a record by what `change` makes of it. Raises Refusal."""
        with self._kernel.change() as connection:
            before = find_record(connection, kind, uid)
            changed = change(before)
            check_record(connection, changed, before)
            table = TABLES[kind]
            values = values_of(table, changed)
            connection.execute(sa.update(table).where(table.c.uid == uid).values(**values))
            delete_links(connection, changed)
            insert_links(connection, changed)
            _forget_state(connection, before, changed)
            if isinstance(changed, Database) and changed.node_keys:
                expect_endpoints(connection, changed)
            check_acls(connection, changed)
            _follow(connection, changed, before)
            if changed == before and kind in (User, Pattern, Role, RedisAcl, Database):
                await_policies(connection)
            note_granted_rules(connection, changed, before)
            check_administrators(connection)
            _note_change(connection, changed, "updated", **differences(before, changed))
        finish_lines(self._kernel)
        return changed

    def delete(
        self, kind: type[Record], uid: int, check: Callable[[Record], object] = lambda _: None
    ) -> None:
        """Deletes a record; `check` may raise Refusal. A database is only marked: its nodes are to
        be detached first, see Nodes.forget_database."""
        if issubclass(kind, Database):

            def mark(database: Database) -> Database:
                check(database)  # type: ignore[arg-type]
                return replace(database, deleting=True)

            self.update(Database, uid, mark)
            return
        with self._kernel.change() as connection:
            record = find_record(connection, kind, uid)
            check(record)
            check_unused(connection, record)
            table = TABLES[kind]
            connection.execute(sa.delete(table).where(table.c.uid == uid))
            if kind is User:
                connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
            _follow(connection, record)
            check_administrators(connection)
            _note_change(connection, record, "deleted")


def _wanted(kind: Kind, text: str, name: str, role_uid: int | None) -> list[sa.ColumnElement[bool]]:
    """The conditions of `find`."""
    table, found = TABLES[kind], list[sa.ColumnElement[bool]]()
    if name:
        found.append(table.c.name == name)
    if text:
        names = UNIQUE_USER_FIELDS if kind is User else ("name",)
        found.append(sa.or_(*(table.c[one].icontains(text, autoescape=True) for one in names)))
    if role_uid is not None:
        holders = sa.select(user_roles.c.user_uid).where(user_roles.c.role_uid == role_uid)
        found.append(users.c.uid.in_(holders))
    return found


def _follow(connection: sa.Connection, record: AnyRecord, before: AnyRecord | None = None) -> None:
    """Updates the policies that depend on a record that has changed: of a database only its own
    lines, unless those of its users depend on what differs from `before`."""
    granted = roles_permissions.c
    if isinstance(record, User):
        refresh_user(connection, record, *([before] if isinstance(before, User) else []))
    elif isinstance(record, Pattern):
        refresh_pattern(connection, record)
    elif isinstance(record, Database):
        own = before is not None and not USER_LINE_FIELDS & set(differing_fields(before, record))
        refresh_databases(connection, [record.uid], own)
        await_pieces(connection, [record.uid])
        follow_revocations(connection, [record.uid])
    elif isinstance(record, Responder):
        follow_responder(connection, record)
    elif isinstance(record, RedisAcl):
        where = granted.redis_acl_uid == record.uid
        found = connection.scalars(sa.select(granted.bdb_uid).where(where).distinct())
        refresh_databases(connection, list(found), alike=True)


def _forget_state(connection: sa.Connection, before: AnyRecord, after: AnyRecord) -> None:
    """Drops, or renames, what a change of the record has made untrue."""
    differ = set(differing_fields(before, after))
    if isinstance(after, Issuer) and ISSUER_FIELDS & differ:
        connection.execute(sa.delete(issuer_keys).where(issuer_keys.c.issuer_uid == after.uid))
    if isinstance(after, TrustSource) and SOURCE_FIELDS & differ:
        there = trust_states.c.source_uid == after.uid
        fresh = {"sequence": 0, "hint": 0, "problem": "", "pending": ""}
        connection.execute(sa.update(trust_states).where(there).values(**fresh))
    if isinstance(after, Responder):
        asked = ocsp_answers.c.responder_uid == after.uid
        if "ca" in differ:
            connection.execute(sa.delete(ocsp_answers).where(asked))
        connection.execute(sa.update(ocsp_answers).where(asked).values(due=0))
    if isinstance(after, User) and "passwords" in differ:
        connection.execute(sa.delete(login_failures).where(login_failures.c.uid == after.uid))
    if isinstance(after, User) and after.name != before.name:
        table = client_certificates
        named = sa.update(table).where(table.c.user == before.name)
        connection.execute(named.values(user=after.name))
        follow_name(connection, before.name, after.name)
        if not PLACEHOLDER.search(before.name):
            named = sa.update(patterns).where(patterns.c.user == before.name)
            connection.execute(named.values(user=after.name))
    if isinstance(after, Database) and REACH_FIELDS & differ:
        where = nodes.c.bdb_uid == after.uid
        connection.execute(sa.update(nodes).where(where).values(in_step=False, generation=0))


def _note_change(
    connection: sa.Connection, record: AnyRecord, what: str, **detail: EventDetail
) -> None:
    """Writes a change of a record to the event log and, for a database, as an action."""
    noun = NOUNS[type(record)]
    detail = {f"{noun}_uid": record.uid, f"{noun}_name": record.name, **detail}
    note(connection, f"{noun}_{what}", "INFO", **detail)
    if isinstance(record, Database):
        name = "delete_bdb" if record.deleting else f"{what.removesuffix('d')}_bdb"
        generation = read_target(connection, record.uid).generation
        nothing = range(generation + 1, generation + 1)
        state_of(connection).moved.setdefault(record.uid, nothing)
        write_action(connection, record.uid, name, generation)
