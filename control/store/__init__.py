"""The control plane's state: the only file that knows SQL.

SQLite by default (WAL, one writer at a time by BEGIN IMMEDIATE), PostgreSQL by its URL. Every
change is one transaction that holds the rows and, for each database whose policy they change, its
next generation: the lines themselves (`policy_lines`), what was added and removed (`policy_log`),
the new digest. Nothing is written where the lines stay the same.

Each transaction that changes rows also counts up `cluster.revision`, whose row is the lock that
serialises writers on PostgreSQL. Readers keep what they read in memory for as long as that number
stays: it is read for every request, or a few milliseconds before it, so that other processes on the
same database are seen.
Logins that fail are counted, and written to the event log, without it: strangers cannot make
everybody read everything again.
"""

import ipaddress
import logging
import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import TypeAdapter

from control import records
from control.errors import Refusal, conflict, forbidden, invalid, missing, refused
from control.pki import trust
from control.pki.crl import Crl
from control.policy import bindings, core, taking
from control.policy import lines as policy
from control.records import (
    BUILTIN_ROLES,
    DEFAULT_PROFILE,
    FIRST_ACLS,
    TRUSTED_CA,
    Action,
    Binding,
    CaUses,
    Certificate,
    CertificateFigures,
    Change,
    ClientCertificate,
    Cluster,
    Database,
    Endpoint,
    Event,
    EventDetail,
    EventPage,
    KeyUsage,
    NewRules,
    Node,
    Outcome,
    OwnCrl,
    Password,
    Place,
    Position,
    Profile,
    Reason,
    RedisAcl,
    Refused,
    Revocation,
    RevocationList,
    Role,
    RolePermission,
    Severity,
    Subject,
    Target,
    User,
    rendered_time,
)

log = logging.getLogger(__name__)

Record = TypeVar("Record", User, Role, RedisAcl, Database, Profile)
Kind = type[User] | type[Role] | type[RedisAcl] | type[Database] | type[Profile]
AnyRecord = User | Role | RedisAcl | Database | Profile
Known = TypeVar("Known")

LOG = 10_000  # generations of a policy that are kept: a node further behind gets the whole policy
MEMORY = 2_000  # answers kept in memory
REVISION = "SELECT revision FROM cluster"
FRESH = 0.005  # seconds: threads that read at every request wait for each other, by Python's lock
EVENTS = 1_000  # of each type, so that failed logins cannot wash away what administrators did
CLIENT_EVENTS = 10_000  # of each type that nodes tell of
LOGINS = ("login", "client_login", "client_choose")  # events of `history`
NAMES_IN_EVENTS = ("originating_username", "username", "user_name")
REFUSALS = ("login_failed", "client_refused", "client_handshake")
ACTIONS = 1_000
WARNING = 30 * 86400  # seconds: a certificate ends soon in the last quarter of its life, at most
KEPT = 90 * 86400  # seconds that a certificate which has ended is remembered
SEEN = 60  # how many seconds the record of a certificate's last login may lag behind
TRIM = 100  # so many more may be there before the oldest go
ADMINISTRATORS = 0  # the source of what they have revoked; others are uids of CAs' lists
REVOKING = -1  # the owner of all `revoke` lines of a database: several sources may ask for one
FEW = 1_000  # lines that are looked up one by one; more are compared as a whole
MIGRATING = 0x63657274  # PostgreSQL's lock, by number, of whoever makes or changes the tables
CHANNEL = "certauth"  # of PostgreSQL's NOTIFY
IDLE = 2  # seconds that a transaction may do nothing, on PostgreSQL
LONG_IDLE = 60  # … while the lines of many users are computed
MIGRATIONS = Path(__file__).parent / "migrations"


class Json(sa.types.TypeDecorator[Any]):
    """Frozen records in a text column, read back as what they were."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return self._adapter.dump_json(value).decode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return self._adapter.validate_json(value)


metadata = sa.MetaData()


def _table(name: str, *parts: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, metadata, *parts)


def _text(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str, *parts: Any, **options: Any) -> "sa.Column[Any]":
    return sa.Column(name, sa.BigInteger, *parts, nullable=False, **options)


def _flag(name: str) -> "sa.Column[Any]":
    return sa.Column(name, sa.Boolean, nullable=False)


def _json(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, Json(kind), nullable=False)


def _uid() -> "sa.Column[Any]":
    return _number("uid", primary_key=True, autoincrement=False)


def _id() -> "sa.Column[Any]":
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)


def _of(column: str, name: str, on_delete: str) -> "sa.Column[Any]":
    return _number(name, sa.ForeignKey(column, ondelete=on_delete))


def _unique_unless_empty(name: str, column: str) -> sa.Index:
    filled = sa.text(f"{column} <> ''")
    return sa.Index(name, column, unique=True, sqlite_where=filled, postgresql_where=filled)


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
    _flag("control_plane_basic_authentication"),
    _flag("password_complexity"),
    _number("password_min_length"),
    _number("password_expiration_duration"),
    _number("login_lockout_threshold"),
    _number("login_lockout_counter_reset_after"),
    _number("login_lockout_duration"),
    _flag("master_healthcheck_api_auth"),
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
roles = _table("roles", _uid(), _text("name"), _text("management"), sa.UniqueConstraint("name"))
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
# `owner` is the user that a line is for, 0 for the database's own, REVOKING for `revoke` lines.
policy_lines = _table(
    "policy_lines",
    _id(),
    _of("bdbs.uid", "bdb_uid", "CASCADE"),
    _number("owner"),
    _text("line"),
    sa.Index("policy_lines_owner", "owner", "bdb_uid"),
    sa.Index("policy_lines_bdb", "bdb_uid"),
    sa.Index(
        "policy_lines_revoked",
        "bdb_uid",
        "line",
        sqlite_where=sa.text("owner < 0"),
        postgresql_where=sa.text("owner < 0"),
    ),
)
# `source` is the revocation list that a line is from, 0 for what administrators have revoked.
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
    _text("certificate"),
    _text("digest"),
    _text("last_error"),
    _number("last_error_time"),
    _json("refused", tuple[Refused, ...]),
    _number("looked"),  # at it last; in milliseconds since 1970 by the database's clock
    sa.PrimaryKeyConstraint("bdb_uid", "address"),
)
# One row: which process speaks to the servers, until when, and when it last said so, both in
# milliseconds since 1970 by the database's clock; and how many came before it.
lease = _table(
    "lease",
    _number("id", primary_key=True, autoincrement=False),
    _text("holder"),
    _number("epoch"),
    _number("expires"),
    _number("renewed"),
)
# Of password users; 0 is nobody, whose failures take as long and count for nothing.
login_failures = _table("login_failures", _uid(), _number("failures"), _number("last"))
events = _table(
    "events",
    _id(),
    _number("time"),
    _text("type"),
    _text("severity"),
    _json("detail", dict[str, EventDetail]),
    sa.Index("events_type", "type", "id"),
)
# How far the logs of nodes have been read into `events`.
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
    _flag("warned"),  # the event log says that it ends
    sa.Index("client_certificates_user", "user", "not_after"),
    sa.Index("client_certificates_ca", "ca"),
    sa.Index("client_certificates_end", "not_after"),
)

TABLES: dict[Kind, sa.Table] = {
    User: users, Role: roles, RedisAcl: redis_acls, Database: bdbs, Profile: profiles
}  # fmt: skip
NOUNS: dict[Kind, str] = {
    User: "user", Role: "role", RedisAcl: "redis_acl", Database: "bdb", Profile: "profile"
}  # fmt: skip


# What is raised where the database cannot be reached, read or written.
AWAY = (
    sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError,
    sqlite3.OperationalError,
)  # fmt: skip


class Replaced(Exception):
    """Another process speaks to the servers now, or may at any moment: nothing was written."""

    def __init__(self) -> None:
        super().__init__("another control plane looks after the servers")


class Untried(Exception):
    """A change brings ACL rules that nobody has tried on the servers yet: nothing was written."""

    def __init__(self, rules: tuple[NewRules, ...]) -> None:
        super().__init__("new ACL rules")
        self.rules = rules


class Unfit(Exception):
    """Why a database, or a backup, cannot be used: a sentence."""


class _Here(threading.local):
    """What a thread is doing: the revision that its request reads at, for whom it works, and which
    policies its changes moved, through which generations; whether what it writes is to be
    forgotten; and which ACL rules were tried, where only such may be written."""

    revision: int | None = None
    actor: Mapping[str, EventDetail] = MappingProxyType({})
    moved: dict[int, range] = {}  # noqa: RUF012 (never changed in place)
    reader: Any = None
    forgets: bool = False
    tried: Callable[[int, str], bool] | None = None


class Store:
    """Opens the database at `url` (sqlite:///path or postgresql://…). One for each process; safe to
    use from any thread.

    Its tables are made where there are none (`make`), and brought up to date (`settle`), with the
    lines that an older version has written otherwise. Where that is not asked for, a database that
    is not of this version is refused, and opening it writes nothing. Raises Unfit, also where the
    database is of a newer version or of something else."""

    def __init__(self, url: str, make: bool = True, settle: bool = True) -> None:
        self._engine = _engine(sa.make_url(url), make)
        self._writer = self._engine.execution_options(writer=True)
        self._statements = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        if self._engine.dialect.name == "postgresql":
            self._engine = self._engine.execution_options(isolation_level="REPEATABLE READ")
        self._forget_all()
        try:
            self._open(make, settle)
        except BaseException:
            self._engine.dispose()
            raise

    def _open(self, make: bool, settle: bool) -> None:
        with self._engine.connect() as connection:
            _check_schema(_schema(connection), make, settle)
        if not settle:
            return
        with self._begun() as connection:
            _migrate(connection, "head")
        if self.revision():
            with self._write() as connection:  # lines may be written otherwise since an upgrade
                self._refresh(connection, self._all_databases(connection))

    def _forget_all(self) -> None:
        self._memory: tuple[int, dict[Any, Any]] = (-1, {})
        self._listeners: list[Callable[[], None]] = []
        self._here = _Here()
        self._readers: list[Any] = []
        self._latest = (0, -1.0)  # a revision, and when it was the one
        self._hearing = threading.Lock()
        self._writing = threading.Lock()
        self._reported, self._reports = threading.Condition(), 0
        self._sender = secrets.token_hex(8)
        self._ear: _Ear | None = None

    def close(self) -> None:
        if self._ear:
            self._ear.stop()
        for reader in self._readers:
            reader.close()
        self._engine.dispose()

    def listen(self, changed: Callable[[], None]) -> None:
        """`changed` is called after each committed change, in the thread of whoever made it; and
        after those of other processes, as soon as PostgreSQL tells of them."""
        self._listeners.append(changed)
        self._listen_to_others()

    def _listen_to_others(self) -> None:
        with self._hearing:
            if self._engine.dialect.name == "postgresql" and not self._ear:
                self._ear = _Ear(self._statements, self._sender, self._told_by_others)
                self._ear.start()

    def _told_by_others(self) -> None:
        self._stir()
        for changed in self._listeners:
            changed()

    # ---- Requests ----

    def enter(self) -> None:
        """Until `leave`, this thread reads the revision only now, and after its changes. Changes
        of this process are seen at once, and those of others within FRESH seconds."""
        revision, read = self._latest
        now = time.monotonic()
        if now >= read + FRESH:
            revision = self._heard(self._read_revision(), now)
        self._here.revision = revision

    def act_as(self, name: str, **origin: str) -> None:
        """Whom the event log names for what this thread changes, until `leave`, and where that one
        is: address, serial, issuer."""
        told = {"username": name, **origin}
        self._here.actor = {f"originating_{one}": value for one, value in told.items() if value}

    def leave(self) -> None:
        """The request is done."""
        self._here.revision, self._here.actor = None, {}
        self._here.moved = {}

    def moved(self) -> Mapping[int, range]:
        """The databases whose servers are to follow what this thread's request has changed, and the
        generations of the policy that it has made; the last one is what they are to reach."""
        return self._here.moved

    # ---- Reading ----

    def revision(self) -> int:
        """Counts the changes; 0 before `initialise`."""
        entered = self._here.revision
        return self._read_revision() if entered is None else entered

    def _read_revision(self) -> int:
        # Asked at every request, so without SQLAlchemy's 150 us where that can be; and by each
        # thread for itself: they would wait for each other longer than for SQLite.
        if self._engine.dialect.name == "sqlite":
            cursor = self._reader().execute(REVISION)
            rows = cursor.fetchall()  # to the end, which lets go of SQLite's snapshot
        else:
            with self._engine.connect() as connection:
                rows = list(connection.exec_driver_sql(REVISION))
        return int(rows[0][0]) if rows else 0

    def _heard(self, revision: int, now: float) -> int:
        """Remembers a revision unless a later one is known. The one that is known then."""
        with self._hearing:
            if revision >= self._latest[0]:
                self._latest = (revision, now)
            return self._latest[0]

    def _reader(self) -> Any:
        """This thread's own connection, as sqlite3 has it."""
        if self._here.reader is None:
            kept = self._engine.raw_connection()
            self._readers.append(kept)
            self._here.reader = kept.driver_connection
        return self._here.reader

    def recall(self, key: object, make: Callable[[], Known]) -> Known:
        """What `make` says, remembered until the next change. That nothing was found is not
        remembered: strangers may ask for anything."""
        revision, known = self._memory[0], self._memory[1]
        now = self.revision()
        if revision < now or len(known) > MEMORY:
            known = {}
            self._memory = (now, known)
        if key in known:
            remembered: Known = known[key]
            return remembered
        made = make()
        if made:
            # Into the memory of the revision that was read first: a change in between starts a new
            # one, so that nothing old is ever found there.
            known[key] = made
        return made

    def cluster(self) -> Cluster:
        def load() -> Cluster:
            with self._engine.connect() as connection:
                return _cluster(connection)

        return self.recall("cluster", load)

    def get(self, kind: type[Record], uid: int) -> Record:
        """The record with this uid. Raises Refusal 404."""
        found: Record = self.recall((kind, uid), lambda: self._one(kind, uid))
        return found

    def all(self, kind: type[Record]) -> tuple[Record, ...]:
        """All records of a kind, by uid."""
        with self._engine.connect() as connection:
            return _records(connection, kind)

    def find(self, kind: type[Record], text: str, limit: int, offset: int) -> tuple[Record, ...]:
        """The records of a kind, by uid, whose name holds `text`, whatever its case; of users also
        those whose e-mail address or subject does."""
        table = TABLES[kind]
        names = UNIQUE_OF_USERS if kind is User else ("name",)
        query = _every(table).limit(limit).offset(offset)
        if text:
            query = query.where(
                sa.or_(*(table.c[one].icontains(text, autoescape=True) for one in names))
            )
        with self._engine.connect() as connection:
            return _records(connection, kind, query)

    def user_by_login(self, login: str) -> User | None:
        """The user of this name or, where nobody has it, of this e-mail address."""

        def load() -> User | None:
            with self._engine.connect() as connection:
                named = _records(connection, User, _by(users, "name"), name=login)
                found = named or _records(connection, User, _by(users, "email"), email=login)
                return next(iter(found), None)

        return self.recall(("login", login), load) if login else None

    def users_like(self, leaf: core.Identity) -> tuple[User, ...]:
        """The users who have an identity that this certificate may have."""

        def load() -> tuple[User, ...]:
            with self._engine.connect() as connection:
                digests = [bindings.digest(*one) for one in bindings.of_certificate(leaf)]
                return _users_with(connection, digests, bindings.SCANNED)

        return self.recall(("certificate", leaf.cert), load)

    def roles_of(self, user: User) -> tuple[Role, ...]:
        """The roles that a user holds, as far as they exist."""
        known = self.recall("roles", lambda: self.all(Role))
        return tuple(role for role in known if role.uid in user.role_uids)

    def certificates(self) -> dict[str, Certificate]:
        """The cluster's certificates by name."""

        def load() -> dict[str, Certificate]:
            with self._engine.connect() as connection:
                return _certificates(connection)

        return self.recall("certificates", load)

    def trust(self) -> records.Trust:
        """What `mtls_trusted_ca` admits; nothing where it is not there."""

        def load() -> records.Trust:
            with self._engine.connect() as connection:
                return _cluster_trust(connection)

        return self.recall("trust", load)

    def authorities(self) -> tuple[bytes, ...]:
        """DER of every CA that clients are judged by, here or on a database."""

        def load() -> tuple[bytes, ...]:
            with self._engine.connect() as connection:
                trusts = [_cluster_trust(connection)]
                trusts += [
                    _database_trust(connection, one) for one in _records(connection, Database)
                ]
                return tuple(dict.fromkeys(d for t in trusts for d in (*t.cas, *t.anchors)))

        return self.recall("authorities", load)

    def not_synced(self, bdb_uid: int) -> tuple[User, ...]:
        """Users with rights on a database and no line there: those without a certificate, and those
        whose name no server takes, from before it was refused."""
        with self._engine.connect() as connection:
            found = _granted(connection.execute(LINELESS, {"bdb": bdb_uid}))
            named = (user for _, (user, *_) in found)
            return tuple(
                user
                for user in named
                if user.auth_method == "regular" or not policy.is_name(user.name)
            )

    # ---- Changing ----

    def initialise(self, cluster: Cluster, administrator: User) -> None:
        """Makes the cluster, its built-in roles and ACLs, and its first administrator."""
        if self.revision():
            raise refused("already_initialised", "this control plane was initialised before")
        with self._transaction() as connection:
            values = _values(cluster_table, replace(cluster, stores=((secrets.token_hex(8), 1),)))
            connection.execute(sa.insert(cluster_table).values(id=1, revision=1, **values))
            for record in (*BUILTIN_ROLES, *FIRST_ACLS, DEFAULT_PROFILE, administrator):
                _take_uid(connection, record)
                _insert(connection, record)
            self._note(connection, "cluster_created", cluster_name=cluster.name)

    def create(self, record: Record) -> Record:
        """Adds a record; its uid is chosen where it is 0. Raises Refusal."""
        names = (record.name, record.email) if isinstance(record, User) else None
        with self._write(names) as connection:
            made: Record = replace(record, uid=_take_uid(connection, record))
            _check(connection, made, None)
            _insert(connection, made)
            self._follow(connection, made)
            _grant(connection, made, None)
            self._told(connection, made, "created")
        return made

    def update(self, kind: type[Record], uid: int, change: Callable[[Record], Record]) -> Record:
        """Puts what `change` makes of a record in its place. Raises Refusal."""
        with self._write() as connection:
            before = _find(connection, kind, uid)
            changed = change(before)
            _check(connection, changed, before)
            table = TABLES[kind]
            values = _values(table, changed)
            connection.execute(sa.update(table).where(table.c.uid == uid).values(**values))
            _unlink(connection, changed)
            _link(connection, changed)
            _forget_state(connection, before, changed)
            self._follow(connection, changed, before)
            _grant(connection, changed, before)
            _check_administrators(connection)
            self._told(connection, changed, "updated", fields=_differences(before, changed))
        return changed

    def delete(
        self, kind: type[Record], uid: int, check: Callable[[Record], object] = lambda _: None
    ) -> None:
        """Removes a record; `check` may raise Refusal. A database is only marked: its nodes are to
        be detached first, see `forget_database`."""
        if issubclass(kind, Database):

            def mark(database: Database) -> Database:
                check(database)  # type: ignore[arg-type]
                return replace(database, deleting=True)

            self.update(Database, uid, mark)
            return
        with self._write() as connection:
            record = _find(connection, kind, uid)
            check(record)
            _check_unused(connection, record)
            table = TABLES[kind]
            connection.execute(sa.delete(table).where(table.c.uid == uid))
            if kind is User:
                connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
            self._follow(connection, record)
            _check_administrators(connection)
            self._told(connection, record, "deleted")

    def configure(self, change: Callable[[Cluster], Cluster]) -> Cluster:
        """Puts what `change` makes of the cluster's settings in their place. Raises Refusal."""
        with self._write() as connection:
            before = _cluster(connection)
            changed = change(before)
            if changed.mtls_certificate_authentication > before.mtls_certificate_authentication:
                _check_trusted_ca(connection)
            connection.execute(sa.update(cluster_table).values(**_values(cluster_table, changed)))
            _check_administrators(connection)
            self._note(connection, "cluster_updated", fields=_differences(before, changed))
        return changed

    def put_certificates(
        self,
        put: Iterable[Certificate],
        settle: Callable[[Certificate], Certificate] = lambda one: one,
    ) -> None:
        """Installs certificates of the cluster, all or none. `settle` completes each, while nobody
        else changes anything, and may raise Refusal."""
        with self._write() as connection:
            for certificate in map(settle, put):
                _delete_certificate(connection, certificate.name)
                values = _values(certificates, certificate)
                connection.execute(sa.insert(certificates).values(**values))
                self._note(connection, "certificate_updated", certificate=certificate.name)
            self._certificates_changed(connection)

    def delete_certificate(self, name: str) -> None:
        """Removes a certificate of the cluster. Raises Refusal 404."""
        with self._write() as connection:
            if not _delete_certificate(connection, name):
                raise missing(f"certificate '{name}'")
            self._note(connection, "certificate_deleted", certificate=name)
            self._certificates_changed(connection)

    # ---- Revocations ----

    def revoke(self, lines: Sequence[str], reason: Reason) -> tuple[Revocation, ...]:
        """Revokes on every database, and here, what canonical `revoke` lines say. What they are
        kept as; one that was there already stays as it was."""
        with self._write() as connection:
            there = {row.line for row in _sourced(connection, ADMINISTRATORS, lines)}
            fresh = [line for line in dict.fromkeys(lines) if line not in there]
            _add_revocations(connection, ADMINISTRATORS, fresh, reason)
            if fresh:
                self._note(connection, "revoked", "WARNING", lines=fresh, reason=reason)
            _follow_revocations(connection, self._all_databases(connection), fresh)
            rows = _sourced(connection, ADMINISTRATORS, lines)
            return tuple(map(_revocation, rows))

    def keep_revocations(self, held: Iterable[str], **where: EventDetail) -> None:
        """Revokes what a server holds as revoked and this store knows nothing of: it went on after
        the backup that this one is from. In the event log, with `where` that is."""
        with self._write() as connection:
            lines = [line for line in held if line.startswith("revoke ")]
            known = connection.execute(_among(revocations, "line"), {"line": lines})
            fresh = sorted(set(lines) - {row.line for row in known})
            if not fresh:
                return
            _add_revocations(connection, ADMINISTRATORS, fresh, "unspecified")
            self._note(connection, "revocations_kept", "WARNING", lines=fresh, **where)
            _follow_revocations(connection, self._all_databases(connection), fresh)

    def restore_revoked(self, uid: int) -> None:
        """Takes a revocation back. Raises Refusal 404."""
        mine = (revocations.c.id == uid) & (revocations.c.source == ADMINISTRATORS)
        with self._write() as connection:
            row = connection.execute(sa.select(revocations).where(mine)).first()
            if row is None:
                raise missing(f"revocation {uid}")
            connection.execute(sa.delete(revocations).where(mine))
            self._note(connection, "revocation_removed", "WARNING", lines=[row.line])
            _follow_revocations(connection, self._all_databases(connection), [row.line])

    def revocations(self, limit: int, offset: int) -> tuple[Revocation, ...]:
        """What administrators have revoked, the newest first."""
        query = sa.select(revocations).where(revocations.c.source == ADMINISTRATORS)
        query = query.order_by(revocations.c.id.desc()).limit(limit).offset(offset)
        with self._engine.connect() as connection:
            return tuple(map(_revocation, connection.execute(query)))

    def revoked_by(self, ca: str) -> tuple[Revocation, ...]:
        """The certificates of a CA, by its key id, that administrators have revoked by number."""
        mine = revocations.c.source == ADMINISTRATORS
        begins = revocations.c.line.startswith(f"revoke serial {ca} ")
        query = sa.select(revocations).where(mine & begins).order_by(revocations.c.id)
        with self._engine.connect() as connection:
            return tuple(map(_revocation, connection.execute(query)))

    def has_revocations(self) -> bool:
        """Whether anybody has revoked anything."""

        def load() -> tuple[bool]:
            with self._engine.connect() as connection:
                return (connection.execute(sa.select(revocations).limit(1)).first() is not None,)

        return self.recall("revocations", load)[0]

    def revoked(self, lines: Sequence[str]) -> tuple[str, ...]:
        """Those of these lines that anybody has revoked: administrators, or a CA by its list."""
        with self._engine.connect() as connection:
            rows = connection.execute(_among(revocations, "line"), {"line": list(lines)})
            return tuple(sorted({row.line for row in rows}))

    def crls(self) -> tuple[RevocationList, ...]:
        """The lists of other CAs, by uid."""
        with self._engine.connect() as connection:
            return tuple(RevocationList(**row._mapping) for row in connection.execute(_every(crls)))

    def crl(self, uid: int) -> RevocationList:
        """Raises Refusal 404."""
        with self._engine.connect() as connection:
            return _crl(connection, uid)

    def crl_entries(self) -> dict[int, int]:
        """How many certificates each list has revoked, by its uid."""
        query = sa.select(revocations.c.source, sa.func.count()).group_by(revocations.c.source)
        with self._engine.connect() as connection:
            return {int(source): int(count) for source, count in connection.execute(query)}

    def put_crl(
        self, crl: Crl, change: Callable[[RevocationList], RevocationList]
    ) -> RevocationList:
        """Puts a list into the place of the one that its CA has sent before, with the settings that
        `change` gives it. Raises Refusal 409 where that one is newer."""
        with self._write() as connection:
            same = (crls.c.ca == crl.keys[0]) & (crls.c.scope == crl.scope)
            row = connection.execute(sa.select(crls).where(same)).first()
            before = RevocationList(**row._mapping) if row else None
            _check_newer(crl, before)
            uid = before.uid if before else connection.scalar(TAKE_UID, {"name": "crl", "uid": 0})
            names = ("issuer", "keys", "path", "scope", "this_update", "next_update")
            said = {name: getattr(crl, name) for name in names}
            said |= {"ca": crl.keys[0], "number": str(crl.number), "overdue": False, "problem": ""}
            made = replace(before, **said) if before else RevocationList(uid=int(uid or 0), **said)
            made = change(made)
            connection.execute(sa.delete(crls).where(crls.c.uid == made.uid))
            connection.execute(_insertion(crls), _values(crls, made))
            lines = {f"revoke serial {key} {one}" for key in crl.keys for one in crl.serials}
            added, removed = _replace_source(connection, made.uid, lines)
            touched = [*added, *removed] if before and before.path == made.path else None
            _follow_revocations(connection, self._all_databases(connection), touched)
            self._note(
                connection,
                "crl_imported",
                crl_uid=made.uid,
                issuer=made.issuer,
                number=made.number,
                added=len(added),
                removed=len(removed),
            )
        return made

    def update_crl(
        self, uid: int, change: Callable[[RevocationList], RevocationList]
    ) -> RevocationList:
        """Changes the settings of a list. Raises Refusal 404."""
        with self._write() as connection:
            before = _crl(connection, uid)
            made = change(before)
            self._settle(connection, made)
            fields = _differences(before, made)
            self._note(connection, "crl_updated", crl_uid=uid, issuer=made.issuer, fields=fields)
        return made

    def delete_crl(self, uid: int) -> None:
        """Forgets a list: what only it has revoked is revoked no more. Raises Refusal 404."""
        with self._write() as connection:
            found = _crl(connection, uid)
            _, removed = _replace_source(connection, uid, set())
            _follow_revocations(connection, self._all_databases(connection), removed)
            connection.execute(sa.delete(crls).where(crls.c.uid == uid))
            self._note(connection, "crl_deleted", "WARNING", crl_uid=uid, issuer=found.issuer)

    def crl_tried(self, uid: int, now: int, problem: str) -> None:
        """Remembers a fetch that brought nothing, and why; in the event log once a reason."""
        with self._logging() as connection:
            row = connection.execute(sa.select(crls).where(crls.c.uid == uid)).first()
            if row is None:
                return
            where = crls.c.uid == uid
            connection.execute(sa.update(crls).where(where).values(tried=now, problem=problem))
            if row.problem != problem:
                self._note(
                    connection, "crl_not_fetched", "WARNING", crl_uid=uid, description=problem
                )

    def age_crls(self, now: int) -> None:
        """Marks the lists whose nextUpdate has passed, and lets what they are set to follow."""
        old = (crls.c.next_update <= now) & ~crls.c.overdue
        with self._engine.connect() as connection:
            if connection.execute(sa.select(crls.c.uid).where(old)).first() is None:
                return
        with self._write() as connection:
            for row in connection.execute(sa.select(crls).where(old)).all():
                made = replace(RevocationList(**row._mapping), overdue=True)
                self._settle(connection, made)
                detail = {"issuer": made.issuer, "stale": made.stale}
                self._note(connection, "crl_stale", "WARNING", crl_uid=made.uid, **detail)

    def _settle(self, connection: sa.Connection, crl: RevocationList) -> None:
        """Writes a list down, and refuses all of its CA where that is what stale means for it."""
        connection.execute(
            sa.update(crls).where(crls.c.uid == crl.uid).values(**_values(crls, crl))
        )
        lines = [f"revoke key {key}" for key in crl.keys]
        there = {row.line for row in _sourced(connection, crl.uid, lines)}
        if crl.overdue and crl.stale == "refuse":
            fresh = [line for line in lines if line not in there]
            _add_revocations(connection, crl.uid, fresh, "unspecified")
        else:
            mine = (revocations.c.source == crl.uid) & revocations.c.line.in_(there)
            connection.execute(sa.delete(revocations).where(mine))
        _follow_revocations(connection, self._all_databases(connection), lines)

    def own_crl(self, ca: str) -> OwnCrl | None:
        """What a CA of ours, by its key id, has published last."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(own_crls).where(own_crls.c.ca == ca)).first()
            return OwnCrl(**row._mapping) if row else None

    def publish_crl(self, crl: OwnCrl) -> None:
        """Publishes a list, unless somebody else has published one with this number."""
        with self._transaction() as connection:
            older = (own_crls.c.ca == crl.ca) & (own_crls.c.number < crl.number)
            connection.execute(sa.delete(own_crls).where(older))
            there = sa.select(own_crls.c.ca).where(own_crls.c.ca == crl.ca)
            if connection.execute(there).first() is None:
                connection.execute(_insertion(own_crls), _values(own_crls, crl))

    # ---- Logins, events, actions ----

    def logged_in(self, uid: int, now: int, by: str) -> None:
        """Remembers when a user last logged in, and forgets its wrong passwords."""
        with self._write(kept=(), but=uid) as connection:
            where = users.c.uid == uid
            connection.execute(sa.update(users).where(where).values(last_login=now))
            connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
            self._note(connection, "login", by=by)

    def login_failed(self, uid: int, now: int, **detail: EventDetail) -> None:
        """Counts a wrong password of a user, or of nobody (0), and locks the user where it was one
        too many for the cluster's policy."""
        with self._logging() as connection:
            self._note(connection, "login_failed", "WARNING", **detail)
            cluster = _cluster(connection)
            count = _count_failure(connection, uid, now, cluster.login_lockout_counter_reset_after)
            locked = bool(uid) and 0 < cluster.login_lockout_threshold <= count
            if locked:
                where = users.c.uid == uid
                connection.execute(sa.update(users).where(where).values(locked=now))
                connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
                self._note(connection, "user_locked", "WARNING", user_uid=uid, **detail)
                revision = _count_up(connection)
                _tell_others(connection, self._sender)
        if locked:
            self._changed(revision)

    def note(self, kind: str, severity: Severity = "INFO", **detail: EventDetail) -> None:
        """Writes to the event log what is no change."""
        with self._logging() as connection:
            self._note(connection, kind, severity, **detail)

    def position(self, bdb_uid: int, address: str) -> Position:
        """How far a node's log has been read."""
        with self._engine.connect() as connection:
            return _position(connection, bdb_uid, address)

    def collected(
        self,
        bdb_uid: int,
        address: str,
        before: Position,
        after: Position,
        found: Sequence[Event],
    ) -> bool:
        """Takes over what stands between two positions in a node's log. False, with nothing done,
        where another process was faster, or the database is gone."""
        with self._logging() as connection:
            there = _exists(connection, Database, bdb_uid)
            if not there or _position(connection, bdb_uid, address) != before:
                return False
            of_node = (log_positions.c.bdb_uid == bdb_uid) & (log_positions.c.address == address)
            connection.execute(sa.delete(log_positions).where(of_node))
            values = {"bdb_uid": bdb_uid, "address": address, **vars(after)}
            connection.execute(sa.insert(log_positions).values(**values))
            if found:
                connection.execute(sa.insert(events), [vars(event) for event in found])
                _trim_events(connection)
        return True

    def events_after(self, number: int, limit: int) -> EventPage:
        """The events behind this one, in the order in which they were written."""
        query = sa.select(events).where(events.c.id > number).order_by(events.c.id).limit(limit)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
            newest = connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
            dropped = connection.scalar(
                sa.select(counters.c.last).where(counters.c.name == DROPPED)
            )
        found = ((row.id, Event(row.time, row.type, row.severity, row.detail)) for row in rows)
        return EventPage(newest, dropped or 0, tuple(found))

    def events(
        self,
        since: int,
        until: int,
        newest_first: bool,
        limit: int,
        offset: int,
        types: Sequence[str] = ("",),
        user: str = "",
    ) -> tuple[Event, ...]:
        """The event log between two times, both included. `types` are beginnings of what is
        wanted, `user` whom it is to be by or about."""
        order = events.c.id.desc() if newest_first else events.c.id
        kind = (events.c.type.startswith(one, autoescape=True) for one in types)
        where = events.c.time.between(since, until) & sa.or_(*kind)
        if user:
            told = self._detail()
            where &= sa.or_(*(told[name].as_string() == user for name in NAMES_IN_EVENTS))
        query = sa.select(events).where(where).order_by(order).limit(limit).offset(offset)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return tuple(Event(row.time, row.type, row.severity, row.detail) for row in rows)

    def last_events(self, types: Sequence[str]) -> dict[str, int]:
        """When the last event of each of these types was written, where there is one."""
        last = sa.select(sa.func.max(events.c.id)).where(events.c.type.in_(types))
        query = sa.select(events.c.type, events.c.time).where(
            events.c.id.in_(last.group_by(events.c.type))
        )
        with self._engine.connect() as connection:
            return {row.type: row.time for row in connection.execute(query)}

    def history(self, since: int, until: int, step: int) -> tuple[Outcome, ...]:
        """How many logins and refusals the event log has between two times, the second one not
        included: here and on the nodes, by spans of `step` seconds and by reason."""
        kept = events.c
        begins = kept.time - (kept.time - since) % step
        reason = sa.case((kept.type.in_(LOGINS), ""), else_=self._detail()["reason"].as_string())
        many = sa.func.count().label("many")
        query = sa.select(begins.label("begins"), reason.label("reason"), many)
        query = query.where(kept.type.in_([*LOGINS, *REFUSALS]))
        query = query.where(kept.time >= since, kept.time < until)
        query = query.group_by("begins", "reason").order_by("begins", "reason")
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return tuple(Outcome(row.begins, row.reason or "", row.many) for row in rows)

    def _detail(self) -> Any:
        """What an event says, to be asked for its parts. PostgreSQL has to be told that the text is
        JSON; SQLite takes it for that."""
        postgresql, told = self._engine.dialect.name == "postgresql", events.c.detail
        return sa.type_coerce(sa.cast(told, sa.JSON) if postgresql else told, sa.JSON)

    def actions(self, bdb_uid: int | None = None, limit: int = ACTIONS) -> tuple[Action, ...]:
        """The last changes of databases, or of one of them, the newest first."""
        query = sa.select(actions).order_by(actions.c.id.desc()).limit(limit)
        query = query if bdb_uid is None else query.where(actions.c.bdb_uid == bdb_uid)
        with self._engine.connect() as connection:
            return tuple(_action(row) for row in connection.execute(query))

    def action(self, uid: str) -> Action:
        """Raises Refusal 404."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(actions).where(actions.c.uid == uid)).first()
        if row is None:
            raise missing("such action")
        return _action(row)

    # ---- Certificates of clients ----

    def record_certificate_seen(self, *seen: ClientCertificate) -> None:
        """Remembers certificates that have logged in, each with its `last_login`, `bdb_uid` and
        `node`. What is known already stays; writes nothing where the last login that is known is
        no older than SEEN seconds."""
        latest: dict[str, ClientCertificate] = {}
        for one in seen:
            latest[one.cert] = _met(latest.get(one.cert), one)
        with self._engine.connect() as connection:
            stale = _stale(_known_certificates(connection, latest), latest)
        if not stale:
            return
        with self._logging() as connection:
            known = _known_certificates(connection, stale)
            for cert, one in _stale(known, stale).items():
                old = known.get(cert)
                _put_client_certificate(connection, old, _met(old, one))

    def record_certificate_issued(
        self, issued: ClientCertificate, unless: Sequence[str] = ()
    ) -> None:
        """Remembers a certificate that was issued here, and writes it to the event log. Raises
        Refusal 403 where one of these lines has been revoked meanwhile: it must not outlive, in
        another one, what was revoked."""
        with self._logging() as connection:
            rows = connection.execute(_among(revocations, "line"), {"line": list(unless)})
            if rows.first():
                raise forbidden("unauthorized_action", "the certificate or its key is revoked")
            _put_client_certificate(connection, None, issued)
            self._note(
                connection, "certificate_issued", user_name=issued.user, subject=issued.subject,
                serial=issued.serial, cert=issued.cert, profile_name=issued.profile,
            )  # fmt: skip

    def client_certificates(
        self, *where: "sa.ColumnElement[bool]", limit: int, offset: int = 0
    ) -> tuple[ClientCertificate, ...]:
        """What is known of certificates of clients, those that end first before the others. `where`
        is of `of_user`, `from_ca`, `ends_by`, `ends_soon`."""
        table = client_certificates
        query = sa.select(table).where(*where).order_by(table.c.not_after, table.c.cert)
        with self._engine.connect() as connection:
            rows = connection.execute(query.limit(limit).offset(offset))
            return tuple(_client_certificate(row) for row in rows)

    def count_issued(self, user: str, now: int) -> int:
        """How many good certificates of a user were issued here."""
        issued = client_certificates.c.issued & good_at(now) & of_user(user)
        query = sa.select(sa.func.count()).select_from(client_certificates).where(issued)
        with self._engine.connect() as connection:
            return int(connection.scalar(query) or 0)

    def client_certificate(self, cert: str) -> ClientCertificate:
        """Raises Refusal 404."""
        with self._engine.connect() as connection:
            found = _known_certificates(connection, [cert])
        if cert not in found:
            raise missing("such certificate")
        return found[cert]

    def certificate_figures(self, now: int) -> CertificateFigures:
        ends = client_certificates.c.not_after
        ended = ends.between(1, now)

        def many(of: "sa.ColumnElement[bool]") -> Any:
            return sa.select(sa.func.count()).select_from(client_certificates).where(of)

        with self._engine.connect() as connection:
            first = sa.select(sa.func.min(ends)).where(ends > now)
            valid, soon, over = (
                connection.scalar(many(of)) for of in (good_at(now), ends_soon(now), ended)
            )
            return CertificateFigures(valid, soon, over, connection.scalar(first) or 0)

    def watch_certificates(self, now: int) -> None:
        """Writes to the event log, once for each, which certificates end soon and have no
        successor, those that end first before the others and so many at a time as the log holds;
        and forgets those that ended long ago."""
        table = client_certificates
        due = sa.select(table).where(ends_soon(now), ~table.c.warned)
        due = due.order_by(table.c.not_after).limit(EVENTS)
        old = table.c.not_after.between(1, now - KEPT)
        with self._engine.connect() as connection:
            work = sa.select(table.c.cert).where((ends_soon(now) & ~table.c.warned) | old)
            if connection.execute(work.limit(1)).first() is None:
                return
        with self._transaction() as connection:
            connection.execute(sa.select(cluster_table.c.revision).with_for_update())
            for row in connection.execute(due).all():
                where = table.c.cert == row.cert
                connection.execute(sa.update(table).where(where).values(warned=True))
                self._note(
                    connection, "certificate_expiring", "WARNING", user_name=row.user,
                    subject=row.subject, serial=row.serial, cert=row.cert, not_after=row.not_after,
                )  # fmt: skip
            connection.execute(sa.delete(table).where(old))

    # ---- Policies, for the sync worker ----

    def target(self, bdb_uid: int) -> Target:
        """What the nodes of a database are to hold. Raises Refusal 404."""

        def load() -> Target:
            with self._engine.connect() as connection:
                return _target(connection, bdb_uid)

        return self.recall(("target", bdb_uid), load)

    def targets(self) -> dict[int, Target]:
        """Those of all databases, by uid."""
        query = sa.select(bdbs.c.uid, bdbs.c.generation, bdbs.c.digest)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return {row.uid: Target(row.generation, row.digest) for row in rows}

    def policy(self, bdb_uid: int) -> tuple[Target, tuple[str, ...]]:
        """The whole policy of a database, read at one moment. Raises Refusal 404."""
        with self._engine.connect() as connection:
            target = _target(connection, bdb_uid)
            where = policy_lines.c.bdb_uid == bdb_uid
            lines = connection.scalars(sa.select(policy_lines.c.line).where(where))
            return target, tuple(sorted(lines))

    def changes(self, bdb_uid: int, generation: int, digest: str) -> tuple[Change, ...] | None:
        """What led from a generation that a node says it holds, with its digest, to the target.
        None where that is no generation of this policy, or one too old: then the node needs the
        whole policy. Generation 0 is the empty policy."""
        log = policy_log.c
        with self._engine.connect() as connection:
            target = _target(connection, bdb_uid)
            if (generation, digest) == (target.generation, target.digest):
                return ()  # asked each second: what is in step is not read
            where = (log.bdb_uid == bdb_uid) & (log.generation >= generation)
            rows = connection.execute(sa.select(policy_log).where(where).order_by(log.generation))
            found = [Change(r.generation, r.digest, r.added, r.removed) for r in rows]
        if generation and (not found or found[0].generation != generation):
            return None
        if generation and found.pop(0).digest != digest:
            return None
        reached = len(found) == target.generation - generation
        return tuple(found) if reached else None

    def added(self, bdb_uid: int, generations: range) -> frozenset[str]:
        """The lines that these generations of a policy have added to it."""
        log = policy_log.c
        which = log.generation.between(generations.start, generations.stop - 1)
        where = (log.bdb_uid == bdb_uid) & which
        with self._engine.connect() as connection:
            found = connection.scalars(sa.select(log.added).where(where))
            return frozenset(line for lines in found for line in lines)

    def nodes(self, bdb_uid: int) -> tuple[Node, ...]:
        """What is known of the servers of a database, by address."""
        with self._engine.connect() as connection:
            return _nodes(connection, bdb_uid)

    def refusing(self) -> tuple[Node, ...]:
        """The servers that do not take all of their policy."""
        with self._engine.connect() as connection:
            return _seen(connection, nodes.c.refused != ())

    def report(
        self, bdb_uid: int, found: Sequence[Node], epoch: int = 0, of: Database | None = None
    ) -> None:
        """Replaces what is known of the servers of a database, and binds them as each other's
        peers. Writes nothing where that is the same already, where the database is gone, or where
        it is reached in other ways by now than when it was `of`. Raises Replaced, see
        `take_lease`."""
        before = {node.address: node for node in self.nodes(bdb_uid)}
        after = {node.address: node for node in found}
        changed = [one for address, one in after.items() if before.get(address) != one]
        gone = [address for address in before if address not in after]
        if not changed and not gone:
            return
        rebound = _peers(before.values()) != _peers(found)
        with self._write() if rebound else self._transaction() as connection:
            _keep_lease(connection, epoch)
            if not _exists(connection, Database, bdb_uid):
                return
            now = _find(connection, Database, bdb_uid)
            if of and REACH & set(_differences(of, now)):
                return
            # What was marked meanwhile is only forgotten once it is not reported any more.
            marked = {one.address for one in _nodes(connection, bdb_uid) if one.origin == "gone"}
            old = nodes.c.address.in_([*gone, *(node.address for node in changed)])
            connection.execute(sa.delete(nodes).where(nodes.c.bdb_uid == bdb_uid, old))
            if changed:
                told = (replace(n, origin="gone") if n.address in marked else n for n in changed)
                clock = _now(connection)
                rows = [_values(nodes, one) | {"looked": _at(clock, one.age)} for one in told]
                connection.execute(_insertion(nodes), rows)
            if rebound:
                self._refresh(connection, [bdb_uid], own=True)
            _tell_others(connection, self._sender)
        self._stir()

    def looked(self, ages: Mapping[int, Mapping[str, float]], epoch: int) -> None:
        """Writes down when servers were looked at (by database and address: seconds ago), where
        nothing else of them is new. Raises Replaced, see `take_lease`."""
        where = (nodes.c.bdb_uid == sa.bindparam("of")) & (nodes.c.address == sa.bindparam("at"))
        with self._transaction() as connection:
            _keep_lease(connection, epoch)
            now = _now(connection)
            rows = [
                {"of": uid, "at": address, "when": _at(now, age)}
                for uid, of in ages.items() for address, age in of.items()
            ]  # fmt: skip
            when = sa.bindparam("when", type_=sa.BigInteger)
            connection.execute(sa.update(nodes).where(where).values(looked=when), rows)

    def forget_node(self, bdb_uid: int, address: str) -> None:
        """Lets go of a server that will never come back. Raises Refusal 404, or 406 where the
        database itself names it."""
        with self._write() as connection:
            database = _find(connection, Database, bdb_uid)
            if address not in {one.address for one in _nodes(connection, bdb_uid)}:
                raise missing(f"node '{address}' of bdb {bdb_uid}")
            if address in _addresses(database):
                raise refused(
                    "node_is_endpoint", f"{address} is an endpoint: PUT the endpoints without it"
                )
            where = (nodes.c.bdb_uid == bdb_uid) & (nodes.c.address == address)
            connection.execute(sa.update(nodes).where(where).values(origin="gone"))
            self._note(connection, "node_forgotten", bdb_uid=bdb_uid, address=address)

    def gone(self) -> tuple[Node, ...]:
        """The servers that are to be forgotten."""
        with self._engine.connect() as connection:
            return _seen(connection, nodes.c.origin == "gone")

    def forget_database(self, uid: int, epoch: int | None = None) -> None:
        """Removes a database whose nodes are detached, or will never come back. Of its actions the
        deletion stays, for whoever waits for it. With an epoch, raises Replaced as `report`."""
        with self._write() as connection:
            if epoch is not None:
                _keep_lease(connection, epoch)
            over = (actions.c.bdb_uid == uid) & (actions.c.name != "delete_bdb")
            connection.execute(sa.delete(actions).where(over))
            connection.execute(sa.delete(bdbs).where(bdbs.c.uid == uid))
            self._note(connection, "bdb_deleted", bdb_uid=uid)
        self._stir()

    def reports(self) -> int:
        """Counts what `report` writes, as far as this process hears of it."""
        return self._reports

    def await_report(self, seen: int, seconds: float) -> None:
        """Returns when there are other `reports` than these, or after so many seconds."""
        self._listen_to_others()
        with self._reported:
            self._reported.wait_for(lambda: self._reports != seen, seconds)

    def _stir(self) -> None:
        with self._reported:
            self._reports += 1
            self._reported.notify_all()

    # ---- Who speaks to the servers ----

    def take_lease(self, holder: str, seconds: float) -> int:
        """Makes a process the one that speaks to the servers, for so many seconds by the clock of
        the database, or longer where it is that one already. Its epoch: higher than that of each
        one before it, and what it has to show for each write. 0 where another process has the
        lease."""
        statement = TAKE_LEASE[self._engine.dialect.name]
        with self._at_once() as connection:
            values = {"me": holder, "lasts": int(seconds * 1000)}
            return int(connection.scalar(statement, values) or 0)

    def raise_epoch(self, holder: str, epoch: int, above: int) -> int:
        """A higher epoch for whoever holds the lease with this one: above what a server has seen,
        which is ahead of a database that was lost or comes from a backup. Raises Replaced."""
        where = (lease.c.holder == holder) & (lease.c.epoch == epoch)
        raised = sa.update(lease).where(where).values(epoch=max(above, epoch) + 1)
        with self._at_once() as connection:
            found = connection.scalar(raised.returning(lease.c.epoch))
        if found is None:
            raise Replaced
        return int(found)

    def end_lease(self, holder: str) -> None:
        """Lets another process take it at once."""
        with self._at_once() as connection:
            connection.execute(sa.update(lease).where(lease.c.holder == holder).values(expires=0))

    def leader(self) -> tuple[str, int]:
        """Who last took the lease, and its epoch; "" and 0 before anybody did."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(lease.c.holder, lease.c.epoch)).one()
            return row.holder, row.epoch

    def silence(self) -> float:
        """Seconds since a control plane last wrote here that it speaks to the servers."""
        with self._engine.connect() as connection:
            renewed = connection.scalar(sa.select(lease.c.renewed))
            return (_now(connection) - renewed) / 1000 if renewed else math.inf

    def release(self) -> None:
        """The servers are brought to what this store says. Its epoch becomes the time of now, which
        is above that of any other control plane with this identity, unless that one was released
        later: what that one writes from now on is refused by each server that this one has written
        to."""
        now, epoch = int(time.time()), lease.c.epoch
        with self._write() as connection:
            connection.execute(sa.update(cluster_table).values(hold=""))
            later = sa.case((epoch < now, now), else_=epoch + 1)
            connection.execute(sa.update(lease).values(epoch=later))
            self._note(connection, "released", "WARNING")

    # ---- Backups ----

    def dump(self) -> dict[str, Any]:
        """Every row, as JSON can say it, of one moment: for `load`."""
        with self._engine.connect() as connection:
            return _dump(connection)

    # ---- Transactions ----

    @contextmanager
    def rehearse(self) -> Iterator["Stage"]:
        """A store that is like this one now; whatever is changed in it is gone afterwards. For one
        thread; all who want to write wait meanwhile."""
        with self._transaction() as connection:
            _take_time(connection)
            yield Stage(connection)
            connection.rollback()

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Whatever this thread writes meanwhile is checked as always, and forgotten; nothing waits
        for it longer than for any change. What it reads is how things stay."""
        self._here.forgets = True
        try:
            yield
        finally:
            self._here.forgets = False

    @contextmanager
    def only_tried(self, tried: Callable[[int, str], bool]) -> Iterator[None]:
        """No change of this thread brings ACL rules to a database, by its uid, or an ACL that none
        grants (0), of which `tried` does not say that they were tried: it raises Untried. Rules
        that a database has already stay."""
        self._here.tried = tried
        try:
            yield
        finally:
            self._here.tried = None

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """Whatever writes. Raises Refusal 503 where another version has changed the tables since
        this one has opened them: what this one would write there may undo what that one has."""
        with self._begun() as connection:
            _check_own(connection, " FOR SHARE")
            yield connection
            if self._here.forgets:
                connection.rollback()

    @contextmanager
    def _begun(self) -> Iterator[sa.Connection]:
        # SQLite's writers wait for each other by sleeping, up to a tenth of a second at a time.
        with self._writing, self._writer.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _logging(self) -> Iterator[sa.Connection]:
        """A transaction that writes events, in turn with all others that do: whoever reads the log
        by its numbers misses none."""
        with self._transaction() as connection:
            connection.execute(sa.select(cluster_table.c.revision).with_for_update())
            yield connection

    @contextmanager
    def _at_once(self) -> Iterator[sa.Connection]:
        """One statement that is a transaction by itself: a process that is frozen now holds no lock
        that others wait for."""
        if self._engine.dialect.name == "sqlite":
            with self._transaction() as connection:
                yield connection
        else:
            with self._statements.connect() as connection:
                _check_own(connection)
                yield connection

    @contextmanager
    def _write(self, kept: Sequence[str] | None = None, but: int = 0) -> Iterator[sa.Connection]:
        """A change of rows. With `kept`, it makes a user with these names, or changes the one with
        the uid `but` in what is for itself: all else goes on being remembered."""
        with self._transaction() as connection:
            revision = _count_up(connection)
            _tell_others(connection, self._sender)
            moved: dict[int, range] = {}
            connection.info["moved"] = moved
            rules: dict[int, set[str]] | None = None if self._here.tried is None else {}
            connection.info["rules"] = rules
            yield connection
            if rules:
                self._check_tried(connection, rules)
        if self._here.forgets:
            return
        begun = self._here.moved
        self._here.moved = begun | {
            uid: range(begun.get(uid, made).start, made.stop) for uid, made in moved.items()
        }
        before, known = self._memory
        if kept is not None and before == revision - 1:
            found = list(known.items())
            left = {key: value for key, value in found if _outlives(key, value, kept, but)}
            self._memory = (revision, left)
        self._changed(revision)

    def _check_tried(self, connection: sa.Connection, rules: Mapping[int, set[str]]) -> None:
        """Raises Untried."""
        tried, found = self._here.tried, []
        for uid, those in rules.items():
            if new := frozenset(one for one in those if tried and not tried(uid, one)):
                found.append(NewRules(uid, new, _places(connection, uid)))
        if found:
            raise Untried(tuple(found))

    def _changed(self, revision: int) -> None:
        if self._here.forgets:
            return
        self._heard(revision, time.monotonic())
        if self._here.revision is not None:
            self._here.revision = revision
        for changed in self._listeners:
            changed()

    def _told(
        self, connection: sa.Connection, record: AnyRecord, what: str, **detail: EventDetail
    ) -> None:
        """Writes a change of a record to the event log and, of a database, as an action."""
        noun = NOUNS[type(record)]
        detail = {f"{noun}_uid": record.uid, f"{noun}_name": record.name, **detail}
        self._note(connection, f"{noun}_{what}", "INFO", **detail)
        if isinstance(record, Database):
            name = "delete_bdb" if record.deleting else f"{what.removesuffix('d')}_bdb"
            generation = _target(connection, record.uid).generation
            nothing = range(generation + 1, generation + 1)
            connection.info["moved"].setdefault(record.uid, nothing)
            values = {"uid": secrets.token_hex(16), "bdb_uid": record.uid, "name": name}
            values |= {"generation": generation, "created": int(time.time())}
            last = connection.execute(_insertion(actions), values).inserted_primary_key
            if last and last[0] % TRIM == 0:
                old = actions.c.id <= last[0] - ACTIONS
                connection.execute(sa.delete(actions).where(old))

    def _note(
        self,
        connection: sa.Connection,
        kind: str,
        severity: Severity = "INFO",
        **detail: EventDetail,
    ) -> None:
        detail = {**self._here.actor, **detail}
        values = {"time": int(time.time()), "type": kind, "severity": severity, "detail": detail}
        last = connection.execute(_insertion(events), values).inserted_primary_key
        if last and last[0] % TRIM == 0:
            _trim_events(connection)

    def _one(self, kind: type[Record], uid: int) -> Record:
        with self._engine.connect() as connection:
            return _find(connection, kind, uid)

    # ---- From rows to lines ----

    def _follow(
        self, connection: sa.Connection, record: AnyRecord, before: AnyRecord | None = None
    ) -> None:
        """Brings the policies up to date that depend on a record that changed: of a database only
        its own lines, unless those of its users depend on what differs from `before`."""
        granted = roles_permissions.c
        if isinstance(record, User):
            _refresh_users(connection, record, before if isinstance(before, User) else None)
        elif isinstance(record, Database):
            own = before is not None and not OF_USERS & set(_differences(before, record))
            self._refresh(connection, [record.uid], own)
            _follow_revocations(connection, [record.uid])
        elif isinstance(record, RedisAcl):
            where = granted.redis_acl_uid == record.uid
            found = connection.scalars(sa.select(granted.bdb_uid).where(where).distinct())
            self._refresh(connection, list(found))

    def _certificates_changed(self, connection: sa.Connection) -> None:
        uids = self._all_databases(connection)
        self._refresh(connection, uids, own=True)
        _follow_revocations(connection, uids)
        _check_administrators(connection)

    def _all_databases(self, connection: sa.Connection) -> list[int]:
        return list(connection.scalars(sa.select(bdbs.c.uid).order_by(bdbs.c.uid)))

    def _refresh(self, connection: sa.Connection, uids: Iterable[int], own: bool = False) -> None:
        """Makes the policy lines of these databases what the rows say: all, or (`own`) those that
        they have whoever their users are."""
        if not own:
            _take_time(connection)
        for uid in uids:
            rows = connection.execute(OWN_LINES if own else LINES, {"bdb": uid})
            before = {(row.owner, row.line): row.id for row in rows}
            _move(connection, uid, before, _lines(connection, uid, own))


class _Within:
    """Stands in the place of an engine, where all is to happen in one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self.dialect = connection, connection.dialect

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        yield self._connection


class Stage(Store):
    """See Store.rehearse. `untried` are the ACL rules that are to be tried before the change."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection, self._engine = connection, cast(sa.Engine, _Within(connection))
        self._forget_all()
        self.untried: list[NewRules] = []

    def _read_revision(self) -> int:
        return int(self._connection.exec_driver_sql(REVISION).scalar() or 0)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self._connection.begin_nested():
            yield self._connection

    def _check_tried(self, connection: sa.Connection, rules: Mapping[int, set[str]]) -> None:
        """They are tried when all that is to be rehearsed is there: nobody waits for servers."""
        try:
            super()._check_tried(connection, rules)
        except Untried as found:
            self.untried += found.rules


def dump(url: str) -> dict[str, Any]:
    """As Store.dump, of a database of any version: nothing is brought up to date, and nobody has to
    wait. Raises Unfit where there is no control plane in it."""
    engine = _engine(sa.make_url(url), make=False)
    try:
        with engine.connect() as connection:
            if not _schema(connection, newer=True):
                raise _nothing()
            return _dump(connection)
    finally:
        engine.dispose()


def _dump(connection: sa.Connection) -> dict[str, Any]:
    """The tables as they are there, which another version may have made."""
    there = sa.MetaData()
    there.reflect(connection)
    found: dict[str, Any] = {}
    for table in there.sorted_tables:
        if table.name == VERSION:
            continue
        columns = [column for column in table.c if _is_kept(column)]
        rows = connection.execute(sa.select(*columns).order_by(*table.primary_key))
        values = [list(row) for row in rows]
        found[table.name] = {"columns": [one.name for one in columns], "rows": values}
    return {"schema": _revision(connection), "tables": found}


def _is_kept(column: "sa.Column[Any]") -> bool:
    """Rows that are only counted get new numbers; but for events, which are known by theirs."""
    if column.name != "id" or column.table.name == "events":
        return True
    ours = metadata.tables.get(column.table.name)
    return ours is None or ours.c.id.autoincrement is False


def load(url: str, dumped: dict[str, Any], come: "Come | None" = None) -> None:
    """Fills an empty database with what `dump` said, also where an older version said it. Tokens
    become void. `come`: it is a restore, which begins on hold. Raises Refusal where the database
    holds a control plane; Unfit where it holds something else, or where a newer version said it."""
    engine = _engine(sa.make_url(url))
    try:
        with engine.execution_options(writer=True).connect() as connection, connection.begin():
            _check_empty(connection, str(dumped["schema"]))
            try:
                _load(connection, dumped)
            except Exception as error:
                text = f"its rows do not fit together: {str(error).splitlines()[0]}"
                raise Unfit(text) from error
            if come:
                _come_back(connection, come)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Come:
    """How a store comes back from a backup: when that was made, in seconds since 1970; who asked
    for it; and the certificate of the API that it is to have, unless the one that it had."""

    made: int
    by: str
    api: Certificate | None = None


def _come_back(connection: sa.Connection, come: Come) -> None:
    """Nothing is sent to the servers before somebody has seen what they hold."""
    now = int(time.time())
    why = f"restored from a backup of {rendered_time(come.made)}"
    events_there = connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
    before = _cluster(connection)
    stores = (*before.stores, (secrets.token_hex(8), events_there + 1))
    connection.execute(sa.update(cluster_table).values(hold=why, stores=stores))
    unseen = {"in_step": False, "generation": 0, "digest": "", "error": NOT_YET}
    connection.execute(sa.update(nodes).values(**unseen))
    if come.api:
        _delete_certificate(connection, come.api.name)
        connection.execute(_insertion(certificates), _values(certificates, come.api))
    detail: dict[str, EventDetail] = {
        "originating_username": come.by, "backup_time": rendered_time(come.made),
        "backup_age": max(0, now - come.made), "description": HELD,
    }  # fmt: skip
    values = {"time": now, "type": "restored", "severity": "WARNING", "detail": detail}
    connection.execute(_insertion(events), values)


NOT_YET = "not reached yet"
HELD = "nothing is sent to the servers until redis-certauth release"


def _check_empty(connection: sa.Connection, schema: str) -> None:
    """Raises Refusal or Unfit where a dump with this schema cannot be loaded there."""
    found = _schema(connection)
    if found and _is_initialised(connection):
        raise refused("already_initialised", "the database holds a control plane already")
    if found:
        raise Unfit(UNFINISHED)
    if schema not in _known_schemas():
        raise Unfit(f"the backup {_newer(schema)}")


def _load(connection: sa.Connection, dumped: dict[str, Any]) -> None:
    _migrate(connection, dumped["schema"])
    for name, content in dumped["tables"].items():
        columns = content["columns"]
        rows = [dict(zip(columns, row, strict=True)) for row in content["rows"]]
        table = sa.table(name, *map(sa.column, columns))
        connection.execute(sa.delete(table))  # what came with its making
        if rows:
            connection.execute(sa.insert(table), rows)
    if connection.dialect.name == "postgresql":  # ids that were given are not counted there
        last = "SELECT setval(pg_get_serial_sequence('events', 'id'), max(id)) FROM events"
        connection.exec_driver_sql(f"{last} HAVING max(id) > 0")
    _migrate(connection, "head")
    connection.execute(sa.update(cluster_table).values(jwt_key=secrets.token_hex(32)))
    connection.execute(sa.update(lease).values(expires=0, renewed=0))  # of that database's clock
    connection.execute(sa.update(nodes).values(looked=0))


# ---- The database ----


def _migrate(connection: sa.Connection, target: str) -> None:
    # Two that open a new database at once would both make its tables. SQLite's BEGIN IMMEDIATE
    # keeps them apart; PostgreSQL needs a lock of its own, which ends with the transaction.
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        if sa.inspect(connection).has_table(VERSION):
            # Before any table, as `_check_own` does: so neither waits for the other.
            connection.exec_driver_sql(f"{SCHEMA} FOR UPDATE")
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


VERSION = "alembic_version"
SCHEMA = f"SELECT version_num FROM {VERSION}"  # noqa: S608 (a constant)
UNFINISHED = "the database holds tables of a control plane that was never made: give another one"


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _known_schemas() -> tuple[str, ...]:
    """The schemas that this version knows, its own first."""
    scripts = ScriptDirectory.from_config(_alembic())
    return tuple(one.revision for one in scripts.walk_revisions())


def _revision(connection: sa.Connection) -> str:
    return str(connection.exec_driver_sql(SCHEMA).scalar() or "")


def _schema(connection: sa.Connection, newer: bool = False) -> str:
    """What a database is: "" for an empty one. Raises Unfit where it is of something else, or
    (unless asked for) of a newer version."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return ""
    if VERSION not in tables or "cluster" not in tables:
        named = ", ".join(sorted(tables)[:5])
        text = f"it holds other tables ({named}) and no control plane: give one of its own"
        raise Unfit(text)
    found = _revision(connection)
    if not newer and found not in _known_schemas():
        raise Unfit(f"the database {_newer(found)}")
    return found


def _newer(schema: str) -> str:
    known = _known_schemas()[0]
    return (
        f"was made by a newer version of redis-certauth (its schema is {schema[:40]}, and this "
        f"version knows those up to {known}): use that version"
    )


def _nothing() -> Unfit:
    return Unfit("the database is empty: there is no control plane in it")


def _check_schema(found: str, make: bool, settle: bool) -> None:
    """Raises Unfit where a database with this schema cannot be used so, see Store."""
    if not found and not make:
        raise _nothing()
    if found and not settle and found != _known_schemas()[0]:
        text = f"the database is of an older version (schema {found}): `serve` of this one, once"
        raise Unfit(f"{text}, brings it up to date; a backup can be made before")


def _check_own(connection: sa.Connection, lock: str = "") -> None:
    """Raises Refusal 503 where the tables are not those of this version. With the `lock`, they stay
    what they are until the transaction ends."""
    lock = lock if connection.dialect.name == "postgresql" else ""
    found = str(connection.exec_driver_sql(SCHEMA + lock).scalar() or "")
    if found != _known_schemas()[0]:
        text = f"another version of redis-certauth has changed the database (its schema is {found}"
        own = f", this one's {_known_schemas()[0]}): nothing is written; start that version instead"
        raise Refusal(503, "other_schema", text + own)


def _is_initialised(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(cluster_table.c.id)).first() is not None


def _engine(url: sa.URL, make: bool = True) -> sa.Engine:
    """`make`: also the file of a database that is not there; else Unfit is raised."""
    if url.get_backend_name() != "sqlite":
        engine = sa.create_engine(url, pool_size=20)
        sa.event.listen(engine, "connect", _connected_to_server)
        return engine
    if not url.database or url.database == ":memory:":
        raise ValueError("the store needs a file: sqlite:///path")
    if not make and not Path(url.database).exists():
        raise Unfit(f"there is no file {url.database}")
    # The file holds private keys and password hashes; its journals get the mode that it has.
    os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))
    engine = sa.create_engine(url, max_overflow=-1, connect_args={"timeout": 10})
    sa.event.listen(engine, "connect", _connected)
    sa.event.listen(engine, "begin", _began)
    return engine


def _connected_to_server(connection: Any, _record: object) -> None:
    # A process that is frozen within a transaction, or whose machine is gone, lets go of its locks.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE}s'")
    connection.commit()


def _take_time(connection: sa.Connection) -> None:
    """For a transaction that computes for long between two statements."""
    if connection.dialect.name == "postgresql":
        wait = f"SET LOCAL idle_in_transaction_session_timeout = '{LONG_IDLE}s'"
        connection.exec_driver_sql(wait)


def _keep_lease(connection: sa.Connection, epoch: int) -> None:
    """Nobody takes the lease over before this transaction has ended. Raises Replaced where somebody
    else has it than who had this epoch."""
    if connection.scalar(KEEP_LEASE, {"mine": epoch}) is None:
        raise Replaced


def _tell_others(connection: sa.Connection, sender: str) -> None:
    """Wakes the other processes when this transaction has ended. SQLite has no such thing."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(CHANNEL, sender)))


class _Ear(threading.Thread):
    """Hears what others say by `_tell_others`, on a connection of its own outside of transactions,
    in which PostgreSQL tells nothing; and calls `told`. Also when it has a new connection, since
    something may have been missed. `engine` commits each statement."""

    def __init__(self, engine: sa.Engine, us: str, told: Callable[[], None]) -> None:
        super().__init__(name="ear", daemon=True)
        self._engine = engine
        self._us, self._told = us, told
        self._stopping, self._missed = threading.Event(), False

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._engine.connect() as connection:
                    self._listen(connection)
            except Exception as error:  # whatever the driver raises
                reason = str(error).splitlines()[0]
                log.warning("other control planes are not heard at once: %s", reason)
                self._missed = True
                self._stopping.wait(1)

    def _listen(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        driver: Any = connection.connection.driver_connection
        connection.detach()  # the pool is for connections that listen to nothing
        if self._missed:
            self._told()
        while not self._stopping.is_set():
            for note in driver.notifies(timeout=1, stop_after=1):
                if note.payload != self._us:
                    self._told()

    def stop(self) -> None:
        self._stopping.set()
        try:
            with self._engine.connect() as connection:
                _tell_others(connection, "")
        except sa.exc.SQLAlchemyError:
            pass  # without a database it hears nothing, and ends by itself
        self.join()


def _connected(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, never by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _began(connection: sa.Connection) -> None:
    # A transaction that reads and then writes fails at once where another one wrote in between, so
    # a writer takes the lock first.
    writer = connection.get_execution_options().get("writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")


# ---- Rows and records ----


def _values(table: sa.Table, record: Any) -> dict[str, Any]:
    """A record's fields that have a column."""
    names = record.__dataclass_fields__
    return {column.name: getattr(record, column.name) for column in table.c if column.name in names}


def _cluster(connection: sa.Connection) -> Cluster:
    row = connection.execute(sa.select(cluster_table)).first()
    if row is None:
        raise refused("not_initialised", "run `redis-certauth init` first")
    fields = {name: value for name, value in row._mapping.items() if name not in ("id", "revision")}
    return Cluster(**fields)


def _certificates(connection: sa.Connection) -> dict[str, Certificate]:
    rows = connection.execute(sa.select(certificates).order_by(certificates.c.name))
    return {row.name: Certificate(**row._mapping) for row in rows}


def _cluster_trust(connection: sa.Connection) -> records.Trust:
    found = _certificates(connection).get(TRUSTED_CA)
    return trust.stored(found.certificate, found.uses) if found else records.Trust()


def _records(
    connection: sa.Connection,
    kind: type[Record],
    query: "sa.Select[Any] | None" = None,
    **parameters: Any,
) -> tuple[Record, ...]:
    """The records of a kind that a query of its table finds, by uid; by default all."""
    rows = connection.execute(_every(TABLES[kind]) if query is None else query, parameters).all()
    linked = _linked(connection, kind, None if query is None else [row.uid for row in rows])
    fields = [dict(row._mapping) for row in rows]
    for values in fields:
        for name in ("generation", "digest") if kind is Database else ():
            del values[name]
        for name, found in linked.items():
            values[name] = tuple(found.get(values["uid"], ()))
    return tuple(kind(**values) for values in fields)


def _linked(
    connection: sa.Connection, kind: Kind, uids: list[int] | None
) -> dict[str, dict[int, list[Any]]]:
    """Field name → uid → what other tables hold of these records, or of all."""
    found: dict[int, list[Any]] = {}
    if kind is User:
        for row in _links(connection, user_roles, "user_uid", uids):
            found.setdefault(row.user_uid, []).append(row.role_uid)
        return {"role_uids": found}
    if kind is Database:
        for row in _links(connection, roles_permissions, "bdb_uid", uids):
            entry = RolePermission(row.role_uid, row.redis_acl_uid)
            found.setdefault(row.bdb_uid, []).append(entry)
        return {"roles_permissions": found}
    return {}


def _links(
    connection: sa.Connection, table: sa.Table, column: str, uids: list[int] | None
) -> "Iterable[sa.Row[Any]]":
    if uids is None:
        return connection.execute(_every(table))
    return connection.execute(_among(table, column), {column: uids})


def _find(connection: sa.Connection, kind: type[Record], uid: int) -> Record:
    found = _records(connection, kind, _by(TABLES[kind], "uid"), uid=uid)
    if not found:
        raise missing(f"{NOUNS[kind]} {uid}")
    return found[0]


def _exists(connection: sa.Connection, kind: Kind, uid: int) -> bool:
    return connection.execute(_by(TABLES[kind], "uid"), {"uid": uid}).first() is not None


def _take_uid(connection: sa.Connection, record: AnyRecord) -> int:
    """The uid that a record asks for, or one that no record of its kind ever had: logs and clients
    go on naming deleted ones. Raises Refusal 409."""
    kind, uid = type(record), record.uid
    if uid and _exists(connection, kind, uid):
        raise conflict("uid_exists", f"there is already a {NOUNS[kind]} with uid {uid}")
    return int(connection.scalar(TAKE_UID, {"name": NOUNS[kind], "uid": uid}) or 0)


def _insert(connection: sa.Connection, record: AnyRecord) -> None:
    table = TABLES[type(record)]
    values = _values(table, record)
    if isinstance(record, Database):
        values |= {"generation": 0, "digest": ""}
    connection.execute(_insertion(table), values)
    _link(connection, record)


def _link(connection: sa.Connection, record: AnyRecord) -> None:
    """Writes what other tables hold of a record."""
    if isinstance(record, User) and record.identities:
        named = [
            (one.kind, bindings.digest(one.kind, one.value)) for one in record.identities
        ]
        columns = ("user_uid", "kind", "digest")
        rows = [dict(zip(columns, (record.uid, *one), strict=True)) for one in named]
        connection.execute(_insertion(identities), rows)
    if isinstance(record, User) and record.role_uids:
        held = [{"user_uid": record.uid, "role_uid": uid} for uid in record.role_uids]
        connection.execute(_insertion(user_roles), held)
    if isinstance(record, Database) and record.roles_permissions:
        given = [
            {"bdb_uid": record.uid, "position": position, **vars(entry)}
            for position, entry in enumerate(record.roles_permissions)
        ]
        connection.execute(_insertion(roles_permissions), given)


def _unlink(connection: sa.Connection, record: AnyRecord) -> None:
    """Removes what `_link` has written."""
    if isinstance(record, User):
        connection.execute(sa.delete(user_roles).where(user_roles.c.user_uid == record.uid))
        connection.execute(sa.delete(identities).where(identities.c.user_uid == record.uid))
    if isinstance(record, Database):
        where = roles_permissions.c.bdb_uid == record.uid
        connection.execute(sa.delete(roles_permissions).where(where))


# ---- Statements that are made once: making one costs more than running it ----


@cache
def _every(table: sa.Table) -> "sa.Select[Any]":
    return sa.select(table).order_by(*table.primary_key)


@cache
def _by(table: sa.Table, column: str) -> "sa.Select[Any]":
    """The rows with this value of a column; the parameter has the column's name."""
    return _every(table).where(table.c[column] == sa.bindparam(column))


@cache
def _by_any(table: sa.Table, columns: tuple[str, ...]) -> "sa.Select[Any]":
    """The rows with one of these values that is not empty; the parameters are as for `_by`."""
    fits = ((table.c[one] == sa.bindparam(one)) & (table.c[one] != "") for one in columns)
    return _every(table).where(sa.or_(*fits))


@cache
def _insertion(table: sa.Table) -> sa.Insert:
    return sa.insert(table)


@cache
def _among(table: sa.Table, column: str) -> "sa.Select[Any]":
    """The rows with one of these values of a column; the parameter is a list of them."""
    return _every(table).where(table.c[column].in_(sa.bindparam(column, expanding=True)))


# Fields that say which nodes a database has and how they are reached.
REACH = {"endpoints", "tls_server_ca", "tls_server_name", "node_addresses"}
# Fields of a database on which the lines of its users depend.
OF_USERS = {"roles_permissions", "adopt_users", "deleting"}
UNIQUE_OF_USERS = ("name", "email", "certificate_subject_line")
# The counter's next number; or, where a uid is asked for, that one, which the counter then passes.
TAKE_UID = sa.text(
    "INSERT INTO counters (name, last) VALUES (:name, CASE :uid WHEN 0 THEN 1 ELSE :uid END) "
    "ON CONFLICT (name) DO UPDATE SET last = CASE WHEN :uid = 0 THEN counters.last + 1 "
    "WHEN :uid > counters.last THEN :uid ELSE counters.last END "
    "RETURNING CASE :uid WHEN 0 THEN last ELSE :uid END"
).bindparams(sa.bindparam("uid", type_=sa.BigInteger))
DROPPED = "events_dropped"  # the counter of the last event that had to go
DROP = sa.text(
    "INSERT INTO counters (name, last) VALUES (:name, :number) ON CONFLICT (name) DO UPDATE SET "
    "last = CASE WHEN counters.last > :number THEN counters.last ELSE :number END"
).bindparams(sa.bindparam("number", type_=sa.BigInteger))
MINE = policy_lines.c.bdb_uid == sa.bindparam("bdb")
LINES = sa.select(policy_lines).where(MINE, policy_lines.c.owner >= 0)
REVOKE_LINES = sa.select(policy_lines).where(MINE, policy_lines.c.owner < 0)
OWN_LINES = LINES.where(policy_lines.c.owner == 0)
SOME_REVOKE_LINES = REVOKE_LINES.where(
    policy_lines.c.line.in_(sa.bindparam("touched", expanding=True))
)
OF_SOURCE = sa.select(revocations).where(revocations.c.source == sa.bindparam("of"))
SOME_OF_SOURCE = OF_SOURCE.where(revocations.c.line.in_(sa.bindparam("lines", expanding=True)))
LINES_OF = sa.select(policy_lines).where(policy_lines.c.owner == sa.bindparam("of"))
COUNT_UP = (
    sa.update(cluster_table)
    .values(revision=cluster_table.c.revision + 1)
    .returning(cluster_table.c.revision)
)
KEEP_LEASE = (
    sa.select(lease.c.epoch).where(lease.c.epoch == sa.bindparam("mine")).with_for_update(read=True)
)
# Milliseconds since 1970, of now and not of the transaction's begin.
CLOCKS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


def _take_lease(clock: str) -> sa.Update:
    """A lease that ends too late to be one comes from a clock that was set back since."""
    now = sa.literal_column(clock, sa.BigInteger)
    me: sa.BindParameter[str] = sa.bindparam("me")
    until = now + sa.bindparam("lasts", type_=sa.BigInteger)
    mine = lease.c.holder == me
    return (
        sa.update(lease)
        .where(mine | ~lease.c.expires.between(now, until))
        .values(epoch=sa.case((mine, lease.c.epoch), else_=lease.c.epoch + 1))
        .values(holder=me, expires=until, renewed=now)
        .returning(lease.c.epoch)
    )


TAKE_LEASE = {name: _take_lease(clock) for name, clock in CLOCKS.items()}
TARGET = sa.select(bdbs.c.generation, bdbs.c.digest).where(bdbs.c.uid == sa.bindparam("bdb"))
AIM = (
    sa.update(bdbs)
    .where(bdbs.c.uid == sa.bindparam("bdb"))
    .values(generation=sa.bindparam("after"), digest=sa.bindparam("now"))
)
ALL_GRANTS = (
    sa.select(users, roles_permissions.c.bdb_uid, redis_acls.c.acl, bdbs.c.adopt_users)
    .join(user_roles, user_roles.c.user_uid == users.c.uid)
    .join(roles_permissions, roles_permissions.c.role_uid == user_roles.c.role_uid)
    .join(redis_acls, redis_acls.c.uid == roles_permissions.c.redis_acl_uid)
    .join(bdbs, bdbs.c.uid == roles_permissions.c.bdb_uid)
    .order_by(users.c.uid, roles_permissions.c.bdb_uid, roles_permissions.c.position)
)
WITH_IDENTITY = sa.select(identities.c.user_uid).distinct().where(
    sa.or_(
        identities.c.digest.in_(sa.bindparam("digests", expanding=True)),
        identities.c.kind.in_(sa.bindparam("kinds", expanding=True)),
    )
)
GRANTS = ALL_GRANTS.where(
    roles_permissions.c.bdb_uid == sa.bindparam("bdb"), users.c.auth_method == "certificate"
)
# Without a line there, and some more: see Store.not_synced.
LINELESS = ALL_GRANTS.where(
    roles_permissions.c.bdb_uid == sa.bindparam("bdb"),
    sa.or_(users.c.auth_method == "regular", *(users.c.name.contains(c) for c in "'\"")),
)
# On databases that are not being removed.
GRANTS_OF = ALL_GRANTS.where(
    users.c.uid == sa.bindparam("of"), users.c.auth_method == "certificate", ~bdbs.c.deleting
)


def _delete_certificate(connection: sa.Connection, name: str) -> bool:
    done = connection.execute(sa.delete(certificates).where(certificates.c.name == name))
    return done.rowcount > 0


def _differences(before: Any, after: Any) -> list[str]:
    """The names of the fields in which two records differ."""
    names = before.__dataclass_fields__
    return [name for name in names if getattr(before, name) != getattr(after, name)]


def _forget_state(connection: sa.Connection, before: AnyRecord, after: AnyRecord) -> None:
    """Drops what a change of the record has made untrue."""
    if isinstance(after, User) and "passwords" in _differences(before, after):
        connection.execute(sa.delete(login_failures).where(login_failures.c.uid == after.uid))
    if isinstance(after, User) and after.name != before.name:
        table = client_certificates
        named = sa.update(table).where(table.c.user == before.name)
        connection.execute(named.values(user=after.name))
    if isinstance(after, Database) and REACH & set(_differences(before, after)):
        where = nodes.c.bdb_uid == after.uid
        connection.execute(sa.update(nodes).where(where).values(in_step=False, generation=0))


def _outlives(key: Any, value: Any, names: Sequence[str], but: int) -> bool:
    """Whether what is remembered stays true when a user with these names is made, or the one with
    the uid `but` changes in what is for itself."""
    if key in (
        "cluster",
        "roles",
        "certificates",
        "trust",
        "trusted",
        "revocations",
        "authorities",
    ):
        return True
    what, which = key[0], key[1] if len(key) > 1 else None
    if what is User or what == "login":
        return value.uid != but and which not in names
    return what in (Role, RedisAcl, Database, "rest policy")


def _count_up(connection: sa.Connection) -> int:
    """The revision of the change that begins here; its row is the lock of all writers."""
    revision = connection.scalar(COUNT_UP)
    if revision is None:
        raise refused("not_initialised", "run `redis-certauth init` first")
    return int(revision)


def _count_failure(connection: sa.Connection, uid: int, now: int, reset_after: int) -> int:
    """How many wrong passwords there were, with this one; one that came long after the others is
    the first again."""
    where = login_failures.c.uid == uid
    row = connection.execute(sa.select(login_failures).where(where)).first()
    failures = row.failures + 1 if row and now - row.last < reset_after else 1
    connection.execute(sa.delete(login_failures).where(where))
    connection.execute(sa.insert(login_failures).values(uid=uid, failures=failures, last=now))
    return int(failures)


def _trim_events(connection: sa.Connection) -> None:
    for kind in connection.scalars(sa.select(events.c.type).distinct()).all():
        of_kind = sa.select(events.c.id).where(events.c.type == kind).order_by(events.c.id.desc())
        kept = CLIENT_EVENTS if kind.startswith("client_") else EVENTS
        oldest = connection.scalar(of_kind.limit(1).offset(kept))
        if oldest is not None:
            old = (events.c.type == kind) & (events.c.id <= oldest)
            connection.execute(sa.delete(events).where(old))
            connection.execute(DROP, {"name": DROPPED, "number": oldest})


def _position(connection: sa.Connection, bdb_uid: int, address: str) -> Position:
    found = log_positions.c
    query = sa.select(found.boot, found.seq).where(found.bdb_uid == bdb_uid)
    row = connection.execute(query.where(found.address == address)).first()
    return Position(row.boot, row.seq) if row else Position()


def _client_certificate(row: Any) -> ClientCertificate:
    return ClientCertificate(**{k: v for k, v in row._mapping.items() if k != "warned"})


def _known_certificates(
    connection: sa.Connection, certs: Iterable[str]
) -> dict[str, ClientCertificate]:
    rows = connection.execute(_among(client_certificates, "cert"), {"cert": list(certs)})
    return {row.cert: _client_certificate(row) for row in rows}


def _met(known: ClientCertificate | None, seen: ClientCertificate) -> ClientCertificate:
    """What is known of a certificate after it was seen again. A login may know less of it than who
    has issued it, and they may come in any order."""
    if known is None:
        return seen
    names = ("ca", "key", "issuer", "not_before", "not_after", "serves")
    found = replace(known, **{name: getattr(known, name) or getattr(seen, name) for name in names})
    found = replace(found, first=min(known.first, seen.first))
    if seen.last_login < known.last_login:
        return found
    last = ("user", "last_login", "bdb_uid", "node")
    return replace(found, **{name: getattr(seen, name) for name in last})


def _stale(
    known: dict[str, ClientCertificate], seen: dict[str, ClientCertificate]
) -> dict[str, ClientCertificate]:
    """Those that say something new."""

    def is_new(one: ClientCertificate) -> bool:
        old = known.get(one.cert)
        return old is None or one.last_login >= old.last_login + SEEN

    return {cert: one for cert, one in seen.items() if is_new(one)}


def _put_client_certificate(
    connection: sa.Connection, known: ClientCertificate | None, now: ClientCertificate
) -> None:
    table, values = client_certificates, _values(client_certificates, now)
    if known is None:
        connection.execute(_insertion(table), {**values, "warned": False})
    else:
        connection.execute(sa.update(table).where(table.c.cert == now.cert).values(**values))


def of_user(name: str) -> "sa.ColumnElement[bool]":
    """Certificates of the user of this name."""
    return client_certificates.c.user == name


def from_ca(key: str) -> "sa.ColumnElement[bool]":
    """Certificates that the CA with this key id has issued."""
    return client_certificates.c.ca == key


def also_serves() -> "sa.ColumnElement[bool]":
    """Certificates that are not for clients alone."""
    return client_certificates.c.serves


def ends_by(time: int) -> "sa.ColumnElement[bool]":
    """Certificates that end until then, or have ended."""
    return client_certificates.c.not_after.between(1, time)


def good_at(now: int) -> "sa.ColumnElement[bool]":
    """Certificates that have not ended."""
    return (client_certificates.c.not_after == 0) | (client_certificates.c.not_after > now)


def ends_soon(now: int) -> "sa.ColumnElement[bool]":
    """Good certificates in the last quarter of their life, or in its last WARNING seconds where
    that is less, that have no successor: one of the same user that ends later, and has the same key
    or came after this one was last used."""
    one, other = client_certificates.c, client_certificates.alias("successor")
    quarter = (one.not_after - one.not_before) // 4
    patience = sa.case((quarter < WARNING, quarter), else_=WARNING)
    follows = (other.c.key == one.key) | (other.c.first > one.last_login)
    later = (other.c.user == one.user) & (other.c.not_after > one.not_after)
    has_none = ~sa.exists(sa.select(other.c.cert).where(later, follows))
    in_reach = one.not_after.between(now + 1, now + WARNING)  # which the index knows
    return in_reach & (one.not_after < now + patience) & has_none


def _action(row: Any) -> Action:
    return Action(row.uid, row.bdb_uid, row.name, row.generation, row.created)


# ---- What must hold between records ----


def _check(connection: sa.Connection, record: AnyRecord, before: AnyRecord | None) -> None:
    """Whether a record may be there; `before` is what it was, None for a new one."""
    if isinstance(record, Database):
        _check_endpoints(connection, record)
        for given in record.roles_permissions:
            _check_reference(connection, "roles_permissions", Role, given.role_uid)
            _check_reference(connection, "roles_permissions", RedisAcl, given.redis_acl_uid)
        if _asks_for_certificates(record) and not _asks_for_certificates(before):
            _check_some_ca(connection, record)
        return
    fields = UNIQUE_OF_USERS if isinstance(record, User) else ("name",)
    _check_unique(connection, record, fields)
    if isinstance(record, User | Profile):
        _check_roles(connection, record)
    if isinstance(record, User):
        _check_name(record, before)
        _check_identities(connection, record)


def _users_with(
    connection: sa.Connection, digests: Sequence[str], kinds: Sequence[str] = ()
) -> tuple[User, ...]:
    """The users with one of these identities, or any of these kinds."""
    uids = connection.scalars(WITH_IDENTITY, {"digests": list(digests), "kinds": list(kinds)}).all()
    return _records(connection, User, _among(users, "uid"), uid=list(uids)) if uids else ()


def _alike(connection: sa.Connection, user: User) -> tuple[User, ...]:
    """Others with an identity of this user."""
    digests = [bindings.digest(one.kind, one.value) for one in user.identities]
    found = _users_with(connection, digests) if digests else ()
    return tuple(other for other in found if other.uid != user.uid)


def _check_identities(connection: sa.Connection, user: User) -> None:
    """One certificate is one user, unless each of its users says otherwise, with the same options:
    they are one line."""
    for other in _alike(connection, user):
        for mine, theirs in product(user.identities, other.identities):
            if not bindings.overlap(mine, theirs):
                continue
            what = f"{mine.kind} '{mine.value}'"
            if not (mine.shared and theirs.shared):
                raise conflict(
                    "certificate_identity_already_exists",
                    f"user '{other.name}' has the identity {what}: one certificate is one user, "
                    'unless each of its users has "shared": true with it',
                )
            if replace(mine, comment="") != replace(theirs, comment=""):
                raise conflict(
                    "certificate_identity_differs",
                    f"user '{other.name}' shares the identity {what} with another ca, from or "
                    "session: a client has these before it chooses, so they have to be the same",
                )


def _check_name(user: User, before: AnyRecord | None) -> None:
    """A name from before it was refused may stay what it is."""
    was = (before.name, before.auth_method) if isinstance(before, User) else None
    if user.auth_method == "certificate" and was != (user.name, user.auth_method):
        policy.check_name(user.name)


def _check_unique(
    connection: sa.Connection, record: User | Role | RedisAcl | Profile, fields: tuple[str, ...]
) -> None:
    values = {field: getattr(record, field) for field in fields}
    rows = connection.execute(_by_any(TABLES[type(record)], fields), values).all()
    for field, value in values.items():
        if value and any(row.uid != record.uid and getattr(row, field) == value for row in rows):
            noun = NOUNS[type(record)]
            raise conflict(f"{field}_already_exists", f"another {noun} has the {field} '{value}'")


def _check_roles(connection: sa.Connection, record: User | Profile) -> None:
    found = connection.execute(_among(roles, "uid"), {"uid": list(record.role_uids)})
    for uid in sorted(set(record.role_uids) - {row.uid for row in found}):
        raise invalid("invalid_param", f"role_uids: there is no role {uid}")


def _check_reference(connection: sa.Connection, field: str, kind: Kind, uid: int) -> None:
    if not _exists(connection, kind, uid):
        raise invalid("invalid_param", f"{field}: there is no {NOUNS[kind]} {uid}")


def _check_endpoints(connection: sa.Connection, database: Database) -> None:
    """A server has one policy, so two databases cannot share one, however they spell it."""
    mine = _spelled(_addresses(database))
    for other in _records(connection, Database):
        if other.uid == database.uid:
            continue
        found = {node.address for node in _nodes(connection, other.uid) if node.origin == "found"}
        for address in sorted(mine & _spelled(_addresses(other) | found)):
            text = f"{address} belongs to bdb {other.uid} ('{other.name}')"
            raise conflict("port_unavailable", f"{text}: a server has one policy")


def _addresses(database: Database) -> set[str]:
    return {f"{host}:{end.port}" for end in database.endpoints for host in end.hosts}


def _spelled(addresses: Iterable[str]) -> set[str]:
    """Each in one spelling: `::1` is also 0:0:0:0:0:0:0:1, ::ffff:10.0.0.5 is 10.0.0.5, and names
    are the same in any case."""
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
    """A database whose servers refuse clients without one; with its own list or without."""
    return (
        isinstance(record, Database)
        and record.tls_mode == "enabled"
        and record.enforce_client_authentication == "enabled"
    )


def _check_some_ca(connection: sa.Connection, database: Database) -> None:
    if _database_trust(connection, database) == records.Trust():
        raise refused(
            "missing_certificate",
            "enforce_client_authentication is enabled, but no CA is there that clients could come "
            "from: send authentication_ssl_client_certs, or install mtls_trusted_ca first",
        )


def _check_trusted_ca(connection: sa.Connection) -> None:
    if not _cluster_trust(connection).cas:
        raise refused(
            "missing_certificate",
            "mtls_certificate_authentication needs a CA: install mtls_trusted_ca first",
        )


def _check_unused(connection: sa.Connection, record: AnyRecord) -> None:
    if isinstance(record, Role):
        held = sa.select(users.c.name).join(user_roles, user_roles.c.user_uid == users.c.uid)
        found = connection.scalars(held.where(user_roles.c.role_uid == record.uid).limit(5)).all()
        if found:
            raise refused(
                "role_in_use",
                f"users hold this role: {', '.join(found)}; give them another one first",
            )
        named = [one.name for one in _records(connection, Profile) if record.uid in one.role_uids]
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


def _check_administrators(connection: sa.Connection) -> None:
    """Somebody must be left who can log in and administer; a certificate login counts once it has
    worked, where passwords are not taken."""
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
    cluster = _cluster(connection)
    by_password = users.c.auth_method == "regular"
    ways = []
    if cluster.control_plane_basic_authentication:
        ways.append(by_password)
    if cluster.mtls_certificate_authentication and _cluster_trust(connection).cas:
        ways.append(~by_password & (users.c.last_login > 0))
    if ways and connection.scalar(administrators.where(sa.or_(*ways))) is not None:
        return
    raise refused(
        "no_administrator_login",
        "no administrator could log in any more: passwords can only be given up once an "
        "administrator has logged in with a client certificate, and as long as that works",
    )


# ---- Policies ----


def _target(connection: sa.Connection, bdb_uid: int) -> Target:
    row = connection.execute(TARGET, {"bdb": bdb_uid}).first()
    if row is None:
        raise missing(f"bdb {bdb_uid}")
    return Target(row.generation, row.digest)


def _peers(nodes: Iterable[Node]) -> set[tuple[str | bool, ...]]:
    """What the `bind` lines of a database's nodes are made from."""
    return {
        (one.key, one.next_key, one.is_peer, one.role, one.software, one.origin)
        for one in nodes if one.key
    }  # fmt: skip


def _nodes(connection: sa.Connection, bdb_uid: int) -> tuple[Node, ...]:
    return _seen(connection, nodes.c.bdb_uid == bdb_uid)


def _seen(connection: sa.Connection, where: "sa.ColumnElement[bool]") -> tuple[Node, ...]:
    found, now = [], _now(connection)
    for row in connection.execute(sa.select(nodes).where(where).order_by(nodes.c.address)):
        fields = dict(row._mapping)
        looked = fields.pop("looked")
        found.append(Node(**fields, age=max(0, now - looked) / 1000 if looked else math.inf))
    return tuple(found)


def _now(connection: sa.Connection) -> int:
    """Milliseconds since 1970 by the database's clock."""
    clock = sa.literal_column(CLOCKS[connection.dialect.name], sa.BigInteger)
    return int(connection.scalar(sa.select(clock)) or 0)


def _at(now: int, age: float) -> int:
    """When that was; 0 for never."""
    return 0 if age == math.inf else now - int(age * 1000)


def _database_trust(connection: sa.Connection, database: Database) -> records.Trust:
    own = "".join(database.authentication_ssl_client_certs)
    return trust.stored(own, database.client_ca_uses) if own else _cluster_trust(connection)


def _refresh_users(connection: sa.Connection, *states: User | None) -> None:
    """Makes the policy lines of a user what the rows say, on every database, and those of all who
    share an identity with it; `states` are what it was and is."""
    known = [user for user in states if user is not None]
    uids = {user.uid for user in known}
    if any(one.shared for user in known for one in user.identities):
        uids |= {other.uid for user in known for other in _alike(connection, user)}
    for uid in sorted(uids):
        _refresh_user(connection, uid)


def _refresh_user(connection: sa.Connection, uid: int) -> None:
    """Makes the policy lines of one user what the rows say, on every database."""
    before: dict[int, Lines] = {}
    for row in connection.execute(LINES_OF, {"of": uid}):
        before.setdefault(row.bdb_uid, {})[row.owner, row.line] = row.id
    after = {
        bdb_uid: _user_lines(*granted, _sharing(connection, bdb_uid, granted[0]))
        for (bdb_uid, _), granted in _granted(connection.execute(GRANTS_OF, {"of": uid}))
    }
    for bdb_uid in sorted(before.keys() | after.keys()):
        _move(connection, bdb_uid, before.get(bdb_uid, {}), after.get(bdb_uid, set()))


def _move(
    connection: sa.Connection, uid: int, before: "Lines", after: set[tuple[int, str]]
) -> None:
    """From some lines of a database to others, as its next generation where they differ; as two
    where that both takes and gives, so that a server can hold the one before the other."""
    added = sorted(after - before.keys())
    removed = sorted(before.keys() - after)
    if added or removed:
        if connection.info["rules"] is not None:
            _note_rules(connection, uid, before, added)
        ids = [{"gone": before[line]} for line in removed]
        _replace_lines(connection, uid, added, ids)
        changes = [f"-{line}" for _, line in removed] + [f"+{line}" for _, line in added]
        is_first = _target(connection, uid).generation == 0
        for part in [changes] if is_first else taking.parts(changes):
            _log(connection, uid, part)


def _note_rules(
    connection: sa.Connection, uid: int, before: "Lines", added: Iterable[tuple[int, str]]
) -> None:
    """Takes down the ACL rules that users are to have, and none of them has so far."""
    if new := _user_rules(added):
        connection.info["rules"].setdefault(uid, set()).update(new - _user_rules(before))


def _user_rules(lines: Iterable[tuple[int, str]]) -> set[str]:
    return {
        policy.rules_of(line) for owner, line in lines if owner > 0 and line.startswith("user ")
    }


def _grant(connection: sa.Connection, record: AnyRecord, before: AnyRecord | None) -> None:
    """Takes down the ACL rules that a record brings to databases, also where no user has them yet;
    under 0 where it is an ACL that no database grants."""
    if connection.info["rules"] is None:
        return
    if isinstance(record, RedisAcl) and record.acl != (
        before.acl if isinstance(before, RedisAcl) else ""
    ):
        where = roles_permissions.c.redis_acl_uid == record.uid
        query = sa.select(roles_permissions.c.bdb_uid).where(where).distinct()
        for uid in connection.scalars(query).all() or [0]:
            _need(connection, uid, record.acl)
    if isinstance(record, Database) and not record.deleting:
        was = before.roles_permissions if isinstance(before, Database) else ()
        for given in set(record.roles_permissions) - set(was):
            _need(connection, record.uid, _find(connection, RedisAcl, given.redis_acl_uid).acl)


def _need(connection: sa.Connection, uid: int, acl: str) -> None:
    connection.info["rules"].setdefault(uid, set()).add(policy.acl_rules(acl))


def _places(connection: sa.Connection, uid: int) -> tuple[Place, ...]:
    """The database with this uid, or with 0 all."""
    found = [_find(connection, Database, uid)] if uid else _records(connection, Database)
    return tuple(Place(one, _nodes(connection, one.uid)) for one in found if not one.deleting)


Lines = dict[tuple[int, str], int]  # (owner, line) → id


def _follow_revocations(
    connection: sa.Connection, uids: Iterable[int], touched: Sequence[str] | None = None
) -> None:
    """Makes the `revoke` lines of these databases what administrators and the lists of the CAs that
    they trust say; only `touched` ones may have changed, or all."""
    lists = connection.execute(sa.select(crls.c.uid, crls.c.path)).all()
    touched = None if touched is None or len(touched) > FEW else touched
    for uid in uids if touched is None or touched else ():
        database = _find(connection, Database, uid)
        trusts = _database_trust(connection, database)
        trusted = policy.key_ids(trusts)
        sources = [one.uid for one in lists if not trusted.isdisjoint(one.path)]
        sources = [] if database.deleting else [ADMINISTRATORS, *sources]
        if touched is None:
            have = connection.execute(REVOKE_LINES, {"bdb": uid})
        else:
            have = connection.execute(SOME_REVOKE_LINES, {"bdb": uid, "touched": touched})
        before = {(REVOKING, row.line): row.id for row in have}
        wanted = {row.line for source in sources for row in _sourced(connection, source, touched)}
        removed = () if database.deleting else policy.removed_lines(trusts)
        wanted.update(line for line in removed if touched is None or line in touched)
        _move(connection, uid, before, {(REVOKING, line) for line in wanted})


def _sourced(
    connection: sa.Connection, source: int, lines: Sequence[str] | None = None
) -> "Sequence[sa.Row[Any]]":
    """What one source has revoked; of `lines` only."""
    if lines is None:
        return connection.execute(OF_SOURCE, {"of": source}).all()
    return connection.execute(SOME_OF_SOURCE, {"of": source, "lines": list(lines)}).all()


def _add_revocations(
    connection: sa.Connection, source: int, lines: Iterable[str], reason: Reason
) -> None:
    shared = {"source": source, "reason": reason, "time": int(time.time())}
    rows = [{"line": line, **shared} for line in lines]
    if rows:
        connection.execute(_insertion(revocations), rows)


def _replace_source(
    connection: sa.Connection, source: int, lines: set[str]
) -> tuple[list[str], list[str]]:
    """Makes `lines` what one source has revoked. What that adds, and what it takes away."""
    before = {row.line: row.id for row in _sourced(connection, source)}
    added, removed = sorted(lines - before.keys()), sorted(before.keys() - lines)
    if removed:
        where = revocations.c.id == sa.bindparam("gone")
        gone = [{"gone": before[line]} for line in removed]
        connection.execute(sa.delete(revocations).where(where), gone)
    _add_revocations(connection, source, added, "unspecified")
    return added, removed


def _revocation(row: Any) -> Revocation:
    return Revocation(row.id, row.line, row.reason, row.time)


def _crl(connection: sa.Connection, uid: int) -> RevocationList:
    row = connection.execute(_by(crls, "uid"), {"uid": uid}).first()
    if row is None:
        raise missing(f"revocation list {uid}")
    return RevocationList(**row._mapping)


def _check_newer(crl: Crl, before: RevocationList | None) -> None:
    """An old list, sent again, must not give back what the CA has revoked since."""
    if before and (crl.number < int(before.number) or crl.this_update < before.this_update):
        raise conflict(
            "crl_older",
            f"the list that is here has number {before.number} and is newer: this one has number "
            f"{crl.number}. Where the CA has begun anew, delete the old one first",
        )


def _lines(connection: sa.Connection, uid: int, own: bool) -> set[tuple[int, str]]:
    """(owner, line) of what the rows say; nothing for a database that is being removed."""
    found = _find(connection, Database, uid)
    if found.deleting:
        return set()
    trusts = _database_trust(connection, found)
    known = _nodes(connection, uid)
    lines = {(0, line) for line in policy.database_lines(found, trusts, known)}
    granted = () if own else _grants(connection, uid)
    sharing = [user for user, *_ in granted if any(one.shared for one in user.identities)]
    for one in granted:
        lines |= _user_lines(*one, sharing)
    return lines


Granted = tuple[User, list[str], bool]  # its ACLs on a database, and whether that adopts users


def _user_lines(
    user: User, acls: Sequence[str], adopt: bool, others: Iterable[User]
) -> set[tuple[int, str]]:
    return {(user.uid, line) for line in policy.user_lines(user, acls, adopt, others)}


def _sharing(connection: sa.Connection, bdb_uid: int, user: User) -> tuple[User, ...]:
    """Who shares an identity with a user, of those with rights on a database."""
    if not any(one.shared for one in user.identities):
        return ()
    return tuple(
        other
        for other in _alike(connection, user)
        if any(row.bdb_uid == bdb_uid for row in connection.execute(GRANTS_OF, {"of": other.uid}))
    )


def _grants(connection: sa.Connection, bdb_uid: int) -> list[Granted]:
    """The certificate users with rights on a database."""
    return [granted for _, granted in _granted(connection.execute(GRANTS, {"bdb": bdb_uid}))]


def _granted(rows: "Iterable[sa.Row[Any]]") -> Iterable[tuple[tuple[int, int], Granted]]:
    """By the uids of database and user."""
    found: dict[tuple[int, int], Granted] = {}
    for row in rows:
        fields = dict(row._mapping)
        bdb_uid, acl, adopt = (fields.pop(one) for one in ("bdb_uid", "acl", "adopt_users"))
        user = User(role_uids=(), **fields)
        found.setdefault((bdb_uid, user.uid), (user, [], adopt))[1].append(acl)
    return found.items()


def _replace_lines(
    connection: sa.Connection,
    uid: int,
    added: Sequence[tuple[int, str]],
    gone: Sequence[dict[str, int]],
) -> None:
    if gone:
        where = policy_lines.c.id == sa.bindparam("gone")
        connection.execute(sa.delete(policy_lines).where(where), gone)
    if added:
        rows = [{"bdb_uid": uid, "owner": owner, "line": line} for owner, line in added]
        connection.execute(_insertion(policy_lines), rows)


def _log(connection: sa.Connection, uid: int, changes: Iterable[str]) -> None:
    """Counts up the generation of a database's policy and writes down what changed, if anything."""
    added = tuple(sorted(line[1:] for line in changes if line[0] == "+"))
    removed = tuple(sorted(line[1:] for line in changes if line[0] == "-"))
    if not added and not removed:
        return
    before = _target(connection, uid)
    after = Target(before.generation + 1, policy.digest_of(before.digest, added, removed))
    made = connection.info["moved"].get(uid, range(after.generation, after.generation))
    connection.info["moved"][uid] = range(made.start, after.generation + 1)
    connection.execute(AIM, {"bdb": uid, "after": after.generation, "now": after.digest})
    change = {"bdb_uid": uid, "generation": after.generation, "digest": after.digest}
    change |= {"added": added, "removed": removed}
    connection.execute(_insertion(policy_log), change)
    if after.generation > LOG:
        old = policy_log.c.generation <= after.generation - LOG
        connection.execute(sa.delete(policy_log).where((policy_log.c.bdb_uid == uid) & old))
