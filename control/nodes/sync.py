"""Keeps the nodes in step with the store: one Redis or Valkey server each, spoken to over mutual
TLS. Only this file knows `redis`.

`reconcile` brings one node to its policy: what takes rights away goes first
(control/policy/taking.py), what the node refuses is left out (control/policy/refusals.py). `Worker`
does it for every node, at each change and once a second, and for those that they name as belonging
to them (control/nodes/topology.py)."""

import heapq
import itertools
import logging
import math
import queue
import random
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.ages import OLD, Pulse
from control.errors import Refusal, missing
from control.nodes import topology
from control.nodes.audit import Collector, Command, Ours
from control.nodes.lease import TRY, Lease
from control.nodes.topology import Sight
from control.nodes.waiting import servers
from control.pki import ca
from control.policy import core, refusals, taking
from control.policy.refusals import Signs
from control.records import Change, Database, EventDetail, Refused, Target
from control.records import Node as Seen
from control.store import POLICY_LOG_GENERATIONS, UNAVAILABLE_ERRORS, Replaced, Store

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at a node that answers
PATIENCE = 10.0  # at most, between two tries at one that does not
LEAVE = 30.0  # seconds that a node is seen outside of its deployment before it has left
STRANGERS = 1000  # nodes of a database that have never held its policy and are looked at
THREADS = 16  # nodes spoken to at once; and as many that did not answer the last time
STRANGE_THREADS = 4  # that is, strangers spoken to at once
TELL = 2.0  # seconds between two times that it is written down when they were
FRESH = 60.0  # seconds between two connections to a node that come as a client's do
CUT = 15.0  # seconds that a replica's link is down before its status says so
LONGEST = 30.0  # seconds that one command may take, for a node that answers a byte at a time
CALL_LINES = 1000  # policy lines in one command: some 2 ms of the node's time
CALL_BYTES = 1 << 20  # of them
CONTROL = "certauth-control"  # our user on a node, and on a Sentinel
UNREACHABLE = "UNREACHABLE"
SLOW = "SLOW"  # the code of one that takes long to write a policy down
HELD = "HELD"  # the code of one that differs while nothing is sent
TWICE = "TWICE"  # the code of one that another control plane with our identity writes to
MODULE = "MODULE"  # the code of a server without the module


# ---- One node ------------------------------------------------------------------------------------


class NodeError(Exception):
    """A node that cannot be reached (`code` is UNREACHABLE), or what it answers: `code` is the
    first word of its error, such as LINES, OWNED, BASE or BUSY."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Identity:
    """What we show to nodes: paths of a PEM certificate and its key."""

    certificate: Path
    key: Path

    def password(self) -> str:
        """Of our user on Sentinels, which know no certificates."""
        return ca.secret_of(self.key.read_text(), CONTROL)


@dataclass(frozen=True)
class Access:
    """How a node is reached: its address, PEM of the CAs that its certificate may come from, and
    the name that it must show (by default the host)."""

    host: str
    port: int
    authorities: str
    server_name: str = ""


@dataclass(frozen=True)
class Status:
    """What CERTAUTH.POLICY STATUS answers. `generation` 0: the node never had a policy.
    `unverified` is what its OpenSSL does not know of the policy's CAs; the last three are of the
    certificate that it shows. An older module does not say these."""

    generation: int
    digest: str
    lines: int
    owner: str
    epoch: int
    enforce: str
    journal: str
    trust: str
    unverified: str = ""
    key: str | None = None
    next_key: str | None = None
    certificate: str = "ok"


class _NamedConnection(redis.SSLConnection):
    """Connects to one address and expects another name in the certificate."""

    def __init__(self, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name
        # No CLIENT SETINFO: it is not ours to run, and the node would log each try.
        self.lib_name = self.lib_version = self.driver_info = None

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        address, self.host = self.host, self._server_name  # redis-py checks the name `host`
        try:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        finally:
            self.host = address


class Node:
    """One connection to a node, opened at the first call, and another one in its place each minute.
    Calls raise NodeError. `shut` is why the last new one failed, where the kept one goes on."""

    def __init__(self, access: Access, identity: Identity, timeout: float = 5) -> None:
        self._access, self._identity, self._timeout = access, identity, timeout
        self._calls: dict[int, float] = {}  # those under way: thread → when it began
        self._sentinel = False
        self.shut = ""
        # Whom a Sentinel takes for an administrator who has not logged in; None: not tried yet.
        self.admits: str | None = None
        self._came = time.monotonic()
        self._told = ""  # the key that it said last that it shows
        self._next: Node | None = None  # while it is opened
        self._connect(named=False)

    def _connect(self, named: bool) -> None:
        """`named`: it is a Sentinel that asks for a password."""
        access, identity, timeout = self._access, self._identity, self._timeout
        self._named = named
        pool = redis.ConnectionPool(
            connection_class=_NamedConnection,
            server_name=access.server_name or access.host,
            host=access.host,
            port=access.port,
            ssl_ca_data=access.authorities,
            ssl_certfile=str(identity.certificate),
            ssl_keyfile=str(identity.key),
            ssl_check_hostname=True,  # off by default before redis-py 6
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            username=CONTROL if named else None,
            password=identity.password() if named else None,
            # A retry of its own would hide a refusal, and count it several times on the node.
            retry=Retry(NoBackoff(), 0),
        )
        self._client: Any = redis.Redis.from_pool(pool)
        self._client.response_callbacks.clear()  # replies as the node sends them
        self._pool = pool

    def close(self) -> None:
        self._client.close()

    def come_again(self, told: str | None = None) -> None:
        """Connects as a client would that comes now, where that is due, or the node tells of
        another key than the one that it showed us. What was opened long ago says nothing of ports,
        addresses, certificates and trust that have changed since."""
        now = time.monotonic()
        tried = self.admits is not None or not self._sentinel
        other = told and told not in (self._told, self.key())
        self._told = told or self._told
        if tried and not self.shut and not other and now < self._came + FRESH:
            return
        new = self._next = Node(self._access, self._identity, self._timeout)
        try:
            if self._sentinel:
                self.admits = new.admitted()
            new.info("server")
        except NodeError as error:
            self.shut = error.text
            new.close()
            return
        finally:
            self._next = None
        old, self._client, self._pool = self._pool, new._client, new._pool
        self._named = new._named
        self._came, self.shut = now, ""
        old.disconnect(inuse_connections=False)  # another thread may ask something

    def cut_overdue(self, now: float) -> None:
        """Ends the connections where a command takes longer than any does: the timeout of a socket
        begins anew with each byte. For another thread than the one that waits."""
        if new := self._next:
            new.cut_overdue(now)
        if any(now > began + LONGEST for began in list(self._calls.values())):
            for connection in list(self._pool._in_use_connections):
                with suppress(OSError, TypeError):  # None: not connected
                    # Not SSLSocket's own, which is not for two threads.
                    socket.socket.shutdown(connection._sock, socket.SHUT_RDWR)

    def command(self, *words: str | int) -> Any:
        """One command's reply, maps as dicts."""
        self._calls[threading.get_ident()] = time.monotonic()
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            code, _, rest = str(error).partition(" ")
            known = code.isupper() and code != "ERR"
            raise NodeError(code if known else "ERR", rest if known else str(error)) from error
        except redis.AuthenticationError as error:
            raise NodeError("NOAUTH", STRANGE) from error
        # ValueError: a name that is none, such as a..b, or a reply that is not UTF-8.
        except (redis.RedisError, ValueError) as error:
            raise NodeError(UNREACHABLE, str(error)) from error
        finally:
            del self._calls[threading.get_ident()]

    def status(self) -> Status:
        """Raises NodeError, MODULE from a server that runs without certauth."""
        try:
            found = topology.mapping(self.command("CERTAUTH.POLICY", "STATUS"))
        except NodeError as error:
            if error.text.startswith("unknown command"):
                raise NodeError(MODULE, WITHOUT) from error
            raise
        known = Status.__dataclass_fields__
        return Status(**{name: found[name] for name in known if name in found})

    def info(self, *sections: str) -> str:
        """INFO, on a Sentinel that asks for a password as the user that it has for us."""
        for last in (False, True):
            try:
                return str(self.command("INFO", *sections))
            except NodeError as error:
                if last or error.code != "NOAUTH":
                    raise
            self._client.close()
            self._connect(not self._named)
        raise AssertionError

    def admitted(self) -> str:
        """Whom a Sentinel takes us for before we log in, where that one may administrate it: then
        so may all whose certificate its handshake trusts. "" where not."""
        try:
            user = str(self.command("ACL", "WHOAMI"))
            tried = self.command("ACL", "DRYRUN", user, "SENTINEL", "REMOVE", "x")
        except NodeError as error:
            if error.code == UNREACHABLE:
                raise
            return ""
        return user if tried == "OK" else ""

    def sight(self, wide: bool, master: str = "") -> Sight:
        """What it says of itself and of others; `wide`: of the whole cluster too. A Sentinel tells
        of `master`."""
        seen = topology.sight(topology.fields(self.info(*topology.SECTIONS)))
        self._sentinel = seen.role == "sentinel"
        if self._sentinel:
            return self._watched(seen, master)
        if seen.in_cluster and wide:
            told = self.command("CLUSTER", "SHARDS")
            others, failed = topology.shards(told), topology.shards(told, failed=True)
            return replace(seen, names=seen.names | others, failed=failed)
        return seen

    def _watched(self, seen: Sight, master: str) -> Sight:
        masters = self.command("SENTINEL", "MASTERS")
        try:
            name = topology.watched(masters, master)
        except ValueError as error:
            raise NodeError("SENTINEL", str(error)) from error
        one = [found for found in masters if topology.mapping(found)["name"] == name]
        others = [self.command("SENTINEL", what, name) for what in ("REPLICAS", "SENTINELS")]
        (its,) = topology.listed(one) or ("",)
        return replace(seen, names=topology.listed(one, *others), master=its)

    def key(self) -> str:
        """SHA-256 of the key of the certificate that it shows, in hex."""
        return core.identity(self._certificate()).key

    def shown(self, seen: Seen) -> Seen:
        """With the certificate that it shows."""
        der = self._certificate()
        pem = ssl.DER_cert_to_PEM_cert(der)
        return replace(seen, key=core.identity(der).key, certificate=pem)

    def _certificate(self) -> bytes:
        found: bytes = self._socket(lambda one: one.getpeercert(binary_form=True))
        return found

    def own_address(self) -> str:
        """The IP address from which we come, unless something on the way changes it."""
        found = ip_address(self._socket(lambda one: one.getsockname())[0].partition("%")[0])
        return str(getattr(found, "ipv4_mapped", None) or found)

    def _socket(self, question: Callable[[Any], Any]) -> Any:
        pool = self._pool
        connection: Any = pool.get_connection()
        try:
            return question(connection._sock)
        finally:
            pool.release(connection)

    def show(self) -> tuple[str, ...]:
        """The lines in force, canonical, sorted. Read again from the start where the policy changes
        meanwhile; NodeError where it does each time."""
        for last in (False, False, True):
            try:
                return tuple(sorted(self._pages()))
            except NodeError as error:
                if last or error.code != "CURSOR":
                    raise
        raise AssertionError

    def _pages(self) -> Iterator[str]:
        cursor = None
        while cursor != "0":
            cursor, lines = self.command(
                "CERTAUTH.POLICY", "SHOW", "COUNT", CALL_LINES, "CURSOR", cursor or "0"
            )
            yield from lines

    def load(
        self, target: Target, lines: Iterable[str], owner: str, epoch: int, force: bool = False
    ) -> None:
        """Makes `lines` the whole policy; returns when it is on the node's disk and in force."""
        stamp = _stamp(target, owner, epoch) + ["FORCE"] * force
        self._write(["LOAD", target.generation, *stamp], list(lines))

    def patch(
        self, base: int, target: Target, changes: Iterable[str], owner: str, epoch: int
    ) -> None:
        """Adds and takes away `+line`s and `-line`s; as `load`."""
        stamp = _stamp(target, owner, epoch)
        self._write(["PATCH", base, target.generation, *stamp], list(changes))

    def _write(self, words: Sequence[str | int], lines: Sequence[str]) -> None:
        """In one call, or staged, so that no call holds the node for long. Raises NodeError, SLOW
        from a node that answers others meanwhile: it waits for its disk."""
        try:
            self._send(words, lines)
        except NodeError as error:
            if isinstance(error.__cause__, redis.TimeoutError) and self._answers():
                raise NodeError(SLOW, WRITING) from error
            raise

    def _answers(self) -> bool:
        other = Node(self._access, self._identity, self._timeout)
        try:
            return bool(other.info("server"))
        except NodeError:
            return False
        finally:
            other.close()

    def _send(self, words: Sequence[str | int], lines: Sequence[str]) -> None:
        parts = tuple(_parts(lines))
        if len(parts) == 1:
            self.command("CERTAUTH.POLICY", *words, "LINES", *lines)
            return
        name = secrets.token_hex(16)
        for part in parts:
            self.command("CERTAUTH.POLICY", "STAGE", name, "OF", len(lines), "LINES", *part)
        self.command("CERTAUTH.POLICY", "COMMIT", name, len(lines), *words)


def _parts(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """The lines, as many in each part as one call takes; at least one part."""
    start = size = 0
    for at, line in enumerate(lines):
        length = len(line.encode())
        if at > start and (at - start == CALL_LINES or size + length > CALL_BYTES):
            yield lines[start:at]
            start, size = at, 0
        size += length
    yield lines[start:]


WRITING = (
    "this server answers, but has not confirmed the change yet: it waits for its journal's disk"
)
WITHOUT = (
    "this server runs without certauth: it serves the data that it replicates to anybody whom its "
    "own ACLs admit; load the module, or take it out of the topology"
)
SHARED = (
    "its key is also that of {}, for whose sake the others let it in: give it a key of its own"
)
STRANGE = (
    "this server does not know the control plane: it runs without certauth, or without the control "
    "plane's bootstrap file; or it is a Sentinel that redis-certauth sentinel enrol has to see"
)


def _stamp(target: Target, owner: str, epoch: int) -> list[str]:
    return ["OWNER", owner, "EPOCH", str(epoch), "DIGEST", target.digest]


# ---- Bringing one node to its policy -------------------------------------------------------------


def merged(changes: Sequence[Change]) -> tuple[str, ...]:
    """Several changes as one: a line that comes and goes again is none."""
    signs: dict[str, int] = {}
    for change in changes:
        for line, sign in [(line, -1) for line in change.removed] + [
            (line, 1) for line in change.added
        ]:
            signs[line] = signs.get(line, 0) + sign
    return tuple(f"{'+' if sign > 0 else '-'}{line}" for line, sign in signs.items() if sign)


Drift = dict[str, EventDetail]


@dataclass
class Held:
    """What we know that a node holds, as long as it says this generation and digest: how that
    differs from this generation of the policy, and what of it the node refuses."""

    generation: int = 0
    digest: str = ""
    differs: Signs = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    tried: float = -math.inf  # when it was last asked whether it refuses that still

    def is_of(self, status: Status | Target) -> bool:
        return (status.generation, status.digest) == (self.generation, self.digest)

    def has(self, target: Target) -> bool:
        """Whether it is that policy, but for what the node refuses."""
        return self.is_of(_but(target, refusals.deviation(self.refused)))

    def now(self, at: Target, differs: Signs, refused: tuple[Refused, ...]) -> None:
        self.generation, self.digest = at.generation, at.digest
        self.differs, self.refused = differs, refused


def held_by(seen: Seen) -> Held:
    """What was written down of a node."""
    differs = refusals.deviation(seen.refused)
    return Held(seen.generation, seen.digest, differs, seen.refused)


def _but(target: Target, differs: Signs) -> Target:
    return Target(target.generation, refusals.digest(target.digest, differs))


def reconcile(
    store: Store,
    bdb_uid: int,
    owner: str,
    node: Node,
    lease: Lease,
    status: Status | None = None,
    held: Held | None = None,
) -> tuple[Status, Drift]:
    """Brings one node, of which `status` was just read, to the target of its database: first what
    takes rights away, then the rest, without what the node refuses. Returns what it then holds, and
    `held` says more of that; and what differed, where it held something that this policy never was.
    Raises NodeError; Replaced where it is for another process to do."""
    status, held = status or node.status(), held or Held()
    last = replace(held)
    if status.journal != "ok":
        raise NodeError("NOJOURNAL", status.journal)
    _check_ours(store, status, owner)
    known = held.is_of(status)
    if not known:
        held.now(Target(status.generation, status.digest), {}, ())
    logged = refusals.digest(status.digest, refusals.minus(held.differs))
    changes = store.policies.changes(bdb_uid, status.generation, logged)
    write = _Write(store, bdb_uid, owner, node, lease, status, held)
    drift: Drift = {}
    if changes is None or status.generation == 0:
        # One that holds what we gave it, or is too far behind to tell, has not drifted.
        behind = store.policies.target(bdb_uid).generation - status.generation
        drift = write.whole(last, tell=not known and behind < POLICY_LOG_GENERATIONS)
    elif changes:
        write.change(changes)
    elif held.refused and time.monotonic() > held.tried + FRESH:
        held.tried = time.monotonic()
        write.try_again()
    else:
        return status, {}
    return node.status(), drift


class _Write:
    """One node on its way to its policy. `held` follows each step, so that the next look goes on
    from there where one fails."""

    def __init__(
        self, store: Store, bdb_uid: int, owner: str, node: Node, lease: Lease, status: Status,
        held: Held,
    ) -> None:  # fmt: skip
        self._store, self._uid, self._owner, self._node = store, bdb_uid, owner, node
        self._status, self._held = status, held
        self._epoch = _epoch(lease, status)

    def whole(self, last: Held, tell: bool = True) -> Drift:
        """For a node of which it is not known how it differs, and that was last seen at `last`; or
        too much for a patch: the whole policy, by force where the node is not behind us, as after a
        restore of the control plane from a backup. Unless the node is within changes that a control
        plane has begun and not ended: it gets the rest of those. `tell`: what differed is drift."""
        target, lines = self._store.policies.whole(self._uid)
        drift: Drift = {}
        if tell and self._status.generation and self._status.owner:
            shown = self._node.show()
            since = self._since(last, target)
            if not since or not is_within(shown, lines, since, last.refused):
                drift = difference(shown, lines)
            elif self._status.generation < target.generation:
                self._go_on(shown, lines, since, last)
                return {}
        self._load(target, lines)
        return drift

    def _since(self, last: Held, target: Target) -> list[Change]:
        """What has changed since then, up to a target; nothing where that is not known."""
        logged = refusals.digest(last.digest, refusals.minus(last.differs))
        known = last.generation and self._store.policies.changes(self._uid, last.generation, logged)
        return [one for one in known or () if one.generation <= target.generation]

    def _go_on(
        self, shown: Sequence[str], lines: Sequence[str], since: Sequence[Change], last: Held
    ) -> None:
        """From the middle of changes to their end."""
        status = self._status
        later = [one for one in since if one.generation > status.generation]
        now, end = dict.fromkeys(shown, 1), dict.fromkeys(lines, 1)
        differs = refusals.plus(now, refusals.minus(end), refusals.signs(merged(later)))
        refused = tuple(
            one for one in last.refused
            if differs.get(one.line) == -1 and (not one.instead or one.instead in now)
        )  # fmt: skip
        self._held.now(Target(status.generation, status.digest), differs, refused)
        self.change(later)

    def _load(self, target: Target, lines: Sequence[str]) -> None:
        """By force where the node is not behind us, as after a restore from a backup."""
        refused: tuple[Refused, ...] = ()
        force = self._status.generation >= target.generation
        while True:
            differs = refusals.deviation(refused)
            sent = tuple(refusals.plus(dict.fromkeys(lines, 1), differs))
            to = _but(target, differs)
            try:
                self._node.load(to, sent, self._owner, self._epoch, force)
            except NodeError as error:
                refused = _blamed(error, sent, refused, lines)
            else:
                self._held.now(to, differs, refused)
                return

    def change(self, changes: Sequence[Change]) -> None:
        """From where the node is to the end of these changes."""
        held = self._held
        led = refusals.signs(merged(changes))
        refused = refusals.still(held.refused, led)
        refused = refusals.unbound(refused, [line for line, sign in led.items() if sign > 0])
        while True:
            last, differs = changes[-1], refusals.deviation(refused)
            led = refusals.signs(merged(changes))
            wish = refusals.plus(led, differs, refusals.minus(held.differs))
            first, rest = taking.parts(refusals.changes(wish))
            apart = first and rest and len(changes) > 1
            sent = first if apart else (*first, *rest)
            try:
                if apart:
                    self._take(first, changes[:-1], refused)
                    changes = changes[-1:]
                    continue
                to = _but(Target(last.generation, last.digest), differs)
                self._patch(sent, to)
            except NodeError as error:
                refused = _blamed(error, sent, refused, self._store.policies.whole(self._uid)[1])
            else:
                held.now(to, differs, refused)
                return

    def _take(
        self, first: Sequence[str], before: Sequence[Change], refused: tuple[Refused, ...]
    ) -> None:
        """What takes, under the generation that comes last but one: what the node then holds is no
        generation of the policy."""
        held, took = self._held, refusals.signs(first)
        led = refusals.signs(merged(before))
        to = Target(before[-1].generation, refusals.digest(held.digest, took))
        self._patch(first, to)
        held.now(to, refusals.plus(held.differs, took, refusals.minus(led)), refused)

    def _patch(self, changes: Sequence[str], to: Target) -> None:
        self._node.patch(self._held.generation, to, changes, self._owner, self._epoch)

    def try_again(self) -> None:
        """What the node refused may be good there by now: another version, another module, a user
        that is gone. Nothing is written as long as it is not."""
        back = refusals.changes(refusals.minus(refusals.deviation(self._held.refused)))
        try:
            self._node.command("CERTAUTH.SESSIONS", "COUNT", 1, "LINES", *back)
        except NodeError as error:
            if error.code == UNREACHABLE:
                raise
            return
        self._load(*self._store.policies.whole(self._uid))


def _blamed(
    error: NodeError, sent: Sequence[str], refused: tuple[Refused, ...], policy: Sequence[str]
) -> tuple[Refused, ...]:
    """What is left out from now on. Raises the error where it is about nothing of that."""
    found = refusals.blamed(error.text, sent, refused, policy) if error.code == "LINES" else None
    if found is None:
        raise error
    return found


def _check_ours(store: Store, status: Status, owner: str) -> None:
    """Raises NodeError where a node's policy belongs to somebody else."""
    if status.generation and status.owner not in ("", owner):
        raise NodeError("OWNED", f"this node's policy belongs to {_owner(store, status.owner)}")


def _owner(store: Store, owner: str) -> str:
    """For a person: our own databases by name."""
    cluster, _, uid = owner.rpartition("/")
    if cluster != store.settings.cluster().identifier or not uid.isdecimal():
        return f"'{owner}', another control plane: if that one is gone, {TAKE}"
    names = [one.name for one in store.objects.all(Database) if one.uid == int(uid)]
    if not names:
        return f"bdb {uid} of this control plane, which is gone: {TAKE}"
    whose = f"bdb {uid} ('{names[0]}')"
    return f"{whose} of this control plane: a server has one policy, take it out of one of them"


TAKE = "redis-certauth node take HOST:PORT takes it over"


def take(store: Store, identity: Identity, authorities: str, address: str) -> str:
    """Makes a node's policy ours as it is, so that the sync worker brings it to what it is to be:
    who may log in does not change by that. What was done, for a person. Raises NodeError, also
    where it belongs to a database of ours; Refusal where no database has this node."""
    database, seen = _registered(store, address)
    owner = f"{store.settings.cluster().identifier}/{database.uid}"
    node = Node(_access(database, seen, authorities), identity)
    try:
        status = node.status()
        if status.owner in ("", owner):
            return f"{address} is the control plane's already"
        cluster, _, uid = status.owner.rpartition("/")
        is_ours = cluster == store.settings.cluster().identifier
        if is_ours and uid in map(str, store.policies.targets()):
            _check_ours(store, status, owner)
        at = Target(status.generation, status.digest)
        node.load(at, node.show(), owner, status.epoch, force=True)
    finally:
        node.close()
    store.events.note("node_taken", "WARNING", bdb_uid=database.uid, bdb_name=database.name,
               address=address, previous_owner=status.owner)  # fmt: skip
    return f"{address} belonged to '{status.owner}', and is a node of '{database.name}' now"


def _registered(store: Store, address: str) -> tuple[Database, Seen]:
    for database in store.objects.all(Database):
        for seen in servers(store, database):
            if seen.address == address:
                return database, seen
    raise missing(f"database with the node {address}: register it first")


def _access(database: Database, seen: Seen, authorities: str) -> Access:
    host, _, port = seen.address.rpartition(":")
    name = seen.server_name or database.tls_server_name
    return Access(host, int(port), database.tls_server_ca or authorities, name)


def ahead(
    store: Store, identity: Identity, authorities: str
) -> Iterator[tuple[str, Database, str]]:
    """Of each node: its address, and what it holds that this store would take back, or why that is
    not known; for a person."""
    for database in store.objects.all(Database):
        owner = f"{store.settings.cluster().identifier}/{database.uid}"
        for seen in servers(store, database):
            if seen.role == "sentinel":
                continue
            node = Node(_access(database, seen, authorities), identity)
            try:
                status = node.status()
                _check_ours(store, status, owner)
                text = _told(status, *store.policies.whole(database.uid), node.show())
            except NodeError as error:
                text = str(error)
            finally:
                node.close()
            yield seen.address, database, text or "it holds what the backup says"


SHOWN = 20  # lines


def _told(status: Status, target: Target, wanted: Sequence[str], held: Sequence[str]) -> str:
    """What would be taken back from a node, and given; "" where it holds what it is to hold."""
    extra, come = sorted(set(held) - set(wanted)), sorted(set(wanted) - set(held))
    kept = [line for line in extra if line.startswith("revoke ")]
    gone = [line for line in extra if not line.startswith("revoke ")]
    if not (extra or come):
        return ""
    parts = [f"generation {status.generation}, {target.generation} here"]
    for what, lines in (("would go", gone), ("would come", come), ("revoked, and kept", kept)):
        shown = "; ".join(line[:100] for line in lines[:SHOWN])
        more = "; …" if len(lines) > SHOWN else ""
        parts += [f"{len(lines)} {what}: {shown}{more}"] if lines else []
    return ". ".join(parts)


LEAP = 1 << 32  # no backup is so many epochs behind


def _epoch(lease: Lease, status: Status) -> int:
    """For a write to a node that says this. A node that lies must not take the epoch of all others
    to its end: nobody could write to any of them after that."""
    if status.epoch > lease.epoch + LEAP:
        raise NodeError("EPOCH", f"this node says epoch {status.epoch}: reset its policy")
    return lease.above(status.epoch)


def is_within(
    held: Iterable[str], lines: Iterable[str], since: Iterable[Change], refused: Iterable[Refused]
) -> bool:
    """Whether a node that holds these lines may be in the middle of these changes, of which a
    policy of `lines` is the end: each of its lines was there at some time since, and those that
    were there at all times it has. Instead of a line it may have what stands for one that the node
    refuses; some it `refused` when they began."""
    have, now = set(held), set(lines)
    came = {line for one in since for line in one.added}
    ever = now | {line for one in since for line in one.removed}
    lacks = now - came - have - {one.line for one in refused}
    known = have <= ever or have <= ever | set(map(refusals.instead, ever))
    return known and all(refusals.instead(line) in have for line in lacks)


def difference(held: Iterable[str], wanted: Iterable[str]) -> Drift:
    """What a node held and should not have, and what it lacked: how many lines, and the first."""
    more = sorted(set(held) - set(wanted), key=lambda line: (not line.startswith("revoke "), line))
    less = sorted(set(wanted) - set(held))
    drift: Drift = {}
    for name, lines in (("unknown", more), ("missing", less)):
        if lines:
            drift[f"{name}_count"] = len(lines)
            drift[f"{name}_lines"] = [line[:200] for line in lines[:20]]
    return drift


# ---- All nodes -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Care:
    """A node in the worker's care: its connection, what was last seen of it, and when it is looked
    at next. The thread of the worker alone changes it."""

    database: Database
    access: Access
    node: Node
    seen: Seen
    sight: Sight | None = None  # the last, also of one that does not answer any more
    bound: bool = False  # its key stands in the policy
    ready: bool = False  # its module answers, and its policy is ours or nobody's
    cut: float = math.inf  # since when it is a replica whose link is down
    known: bool = False  # it has held our policy once, and is missed where it goes
    held: Held = field(default_factory=Held)  # for the thread that looks at it
    ours: bool = False  # in this process it was brought to its policy, or seen there
    outbid: int = 0  # the highest epoch that was found there and is not ours
    holds: "_Holds | None" = None  # what it was seen to hold while nothing is sent
    twin: bool = False  # a second name of a server that is known by another one
    detached: bool = False
    sighted: float = -math.inf  # when that was
    looked: float = -math.inf  # when it was last looked at, whatever came of it
    since: float = math.inf  # when it was first seen outside of the deployment
    due: float = 0.0
    failures: int = 0
    busy: bool = False
    again: bool = False  # something changed while it was looked at

    @property
    def away(self) -> bool:
        """It did not answer the last time, so the next time may take as long."""
        return self.seen.error.startswith(UNREACHABLE)


@dataclass(frozen=True)
class _Holds:
    """What a node held when it was first looked at on hold, and last; and what a release would do
    to that."""

    first: Target
    last: Target
    target: Target
    text: str


@dataclass
class _Look:
    """What comes of a look at a node; `sight` is None where it did not answer, or was not asked."""

    care: _Care
    seen: Seen
    sight: Sight | None = None
    detached: bool = False
    ready: bool = False
    unverified: str = ""  # as its STATUS says


class Worker:
    """Reconciles every node of every database: at once when its policy changes, and once a second.
    The nodes are those that the database names, and whomever they name (control/nodes/topology.py).

    One thread keeps the schedule and writes down what was found; a few more speak to nodes, and
    others of their own to those that did not answer the last time, which hold up nobody else. Of
    several control planes only the one that has the lease does any of it.

    `authorities` is PEM of the CAs that nodes' certificates come from where a database names none;
    `collector` reads each node's log when it was looked at.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        authorities: str,
        collector: Collector | None = None,
        pulse: Pulse | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._store, self._identity, self._authorities = store, identity, authorities
        self._collector = collector or Collector(store)
        self._key = core.identity(identity.certificate.read_bytes()).key
        self.lease = Lease(store)
        self._cares: dict[int, dict[str, _Care]] = {}  # by database and address
        self._databases: dict[int, tuple[Database, Target]] = {}
        self._revision = -1
        self._told = -math.inf  # when it was written down when nodes were looked at
        self._refusal = ""  # why the store takes nothing from this process
        self._kept: set[str] = set()  # what nodes held while nothing was sent: looked at once
        self._news: set[int] = set()  # databases of which something is to be written down
        self._schedule: list[tuple[float, int, _Care]] = []  # a heap; others' times are out of date
        self._number = itertools.count()  # of entries in it: those of the same time are in turn
        # What looks have found; then the node itself, when its thread is done with it.
        self._found: queue.SimpleQueue[_Look | _Care] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        self._slow = ThreadPoolExecutor(THREADS, thread_name_prefix="sync-slow")
        self._strange = ThreadPoolExecutor(STRANGE_THREADS, thread_name_prefix="sync-strange")
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        self._pulse.expect("sync", OLD)
        self._store.listen(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no node is spoken to any more: at once, or after the timeout of one that
        hangs."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        for pool in (self._pool, self._slow, self._strange):
            pool.shutdown(cancel_futures=True)
        for care in self._all():
            care.node.close()
        try:
            self.lease.end()
        except Exception as error:
            log.warning("the lease ends by itself: %s", error)

    def ask(
        self,
        bdb_uid: int,
        question: Callable[[Command], Any],
        only: str = "",
        patience: float | None = None,
        of: Database | None = None,
    ) -> dict[str, Any]:
        """Puts a question to each node of a database, or to `only` one of them by its address, in
        any thread: by address what it says, or the NodeError that came of it. `question` gets what
        runs a command on the node. With `patience`, in seconds, those who do not answer are not
        waited for; `of` is the database, where it is none yet."""
        cares = dict(self._cares.get(bdb_uid, {}))
        nodes = {
            address: care.node
            for address, care in cares.items()
            # Those have no policy of their own.
            if care.seen.role != "sentinel" and not care.twin
            and not (patience is not None and care.away)
        }  # fmt: skip
        visits = not cares  # another control plane looks after them
        if visits:
            nodes = self._visited(bdb_uid, of, patience is not None)
        if only:
            nodes = {address: node for address, node in nodes.items() if address == only}

        def answer(node: Node) -> Any:
            try:
                return question(node.command)
            except NodeError as error:
                return error
            finally:
                if visits:
                    node.close()

        pool = ThreadPoolExecutor(THREADS, "ask")
        asked = {address: pool.submit(answer, node) for address, node in nodes.items()}
        wait(asked.values(), patience)
        pool.shutdown(wait=False, cancel_futures=True)
        late = NodeError(UNREACHABLE, "no answer in time")
        return {one: told.result() if told.done() else late for one, told in asked.items()}

    def _visited(self, bdb_uid: int, of: Database | None, hurries: bool) -> dict[str, Node]:
        """Connections to the nodes of a database, for one question; of one that is not there yet,
        to its endpoints. `hurries`: not to those that did not answer the last time."""
        known = [seen for seen in self._store.nodes.of(bdb_uid) if seen.role != "sentinel"]
        if not known and of:
            ends = {f"{end.hosts[0]}:{end.port}": end.dns_name for end in of.endpoints}
            known = [replace(_unknown(of, one), server_name=name) for one, name in ends.items()]
        if hurries:
            known = [seen for seen in known if not seen.error.startswith(UNREACHABLE)]
        database = of or (self._store.objects.get(Database, bdb_uid) if known else None)
        return {
            seen.address: Node(self._access(database, seen), self._identity)
            for seen in known
            if database
        }

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._pause())
            self._wake.clear()
            try:
                self._turn()
                self._pulse.beat("sync")
            except UNAVAILABLE_ERRORS as error:
                reason = str(error).splitlines()[0]
                log.error("the sync worker goes on when the database does: %s", reason)
                self._pulse.fail("sync", reason)
                self._stopping.wait(INTERVAL)
            except Exception as error:
                log.exception("the sync worker goes on after an error")
                self._pulse.fail("sync", str(error) or type(error).__name__)
                self._stopping.wait(INTERVAL)

    def _pause(self) -> float:
        """Seconds until something is due. The store is looked at anyway: other processes write."""
        due = self._schedule[0][0] if self._schedule else math.inf
        return max(0.0, min(TRY, due - time.monotonic()))

    def _turn(self) -> None:
        try:
            if not self.lease.hold():
                self._let_go()
                return
            revision = self._store.revision()
            if revision != self._revision:
                self._news |= self._follow()
            self._revision = revision
            self._begin()
            self._news |= self._finish()
            self._report()
            self._write_looks()
        except Replaced:
            self.lease.lose()
            self._let_go()
        except Refusal as error:  # the database is another version's by now
            self.lease.lose()
            self._let_go()
            if error.description != self._refusal:
                log.error("nothing is sent to the servers: %s", error.description)
            self._refusal = error.description
            self._stopping.wait(INTERVAL)

    def _let_go(self) -> None:
        """Another process looks after the nodes, until it does not any more."""
        for care in self._all():
            self._drop(care)
        self._finish()  # which closes the connections of looks that were under way
        self._cares, self._databases, self._news, self._revision = {}, {}, set(), -1
        self._told = -math.inf

    def _all(self) -> list[_Care]:
        return [care for cares in self._cares.values() for care in cares.values()]

    # ---- What is to be cared for ----

    def _follow(self) -> set[int]:
        """Takes over what has changed in the store. Databases that changed themselves."""
        databases, targets = self._store.objects.all(Database), self._store.policies.targets()
        now = {one.uid: (one, targets[one.uid]) for one in databases if one.uid in targets}
        changed = set()
        for uid, (database, target) in now.items():
            before = self._databases.get(uid)
            if before is None:
                self._remember(database)
            if before is None or before[0] != database:
                self._care_for(database, anew=before is not None)
                changed.add(uid)
            elif before[1] != target:
                self._poke(uid)
        for care in self._all():
            if care.database.uid not in now:
                self._drop(care)
        self._cares = {uid: cares for uid, cares in self._cares.items() if uid in now}
        self._databases = now
        for seen in self._store.nodes.gone():
            lost = self._cares.get(seen.bdb_uid, {}).get(seen.address)
            if lost:
                self._drop(lost)
            self._news.add(seen.bdb_uid)
            self._report()  # before somebody names it again
        return changed

    def _remember(self, database: Database) -> None:
        """The nodes that were known before this control plane started."""
        self._cares.setdefault(database.uid, {})
        for seen in self._store.nodes.of(database.uid):
            care = self._add(database, seen)
            care.bound = seen.is_peer
            care.looked = time.monotonic() - seen.age
            care.known = seen.is_peer or seen.error.startswith(MODULE)

    def _care_for(self, database: Database, anew: bool) -> None:
        """The database itself has changed: each of its nodes is looked at at once, and until then
        (`anew`) what was seen of it before counts for nothing. A server that is named twice is one
        node."""
        names = {f"{end.hosts[0]}:{end.port}": end.dns_name for end in database.endpoints}
        cares = self._cares[database.uid]
        known = {one: care.seen for one, care in cares.items()}
        if anew:
            known = {one: replace(seen, generation=0, in_step=False) for one, seen in known.items()}
        for address, name in names.items():
            before = known.get(address) or _unknown(database, address)
            self._add(database, replace(before, origin="endpoint", server_name=name))
        mapped = dict(database.node_addresses)
        for address, seen in known.items():
            if address not in names and address in mapped:  # it is reached by another name now
                self._drop(cares[address])
            elif address not in names:
                named = seen.origin == "endpoint"  # before: then it is no longer wanted
                self._add(database, replace(seen, origin="leaving") if named else seen)

    def _add(self, database: Database, seen: Seen) -> _Care:
        """Cares for a node as it is reached now; it is looked at at once."""
        access = self._access(database, seen)
        care = before = self._cares[database.uid].get(seen.address)
        if care and care.access != access:
            self._drop(care)
            care = None
        if care is None:
            held = before.held if before else held_by(seen)
            care = _Care(database, access, Node(access, self._identity), seen, held=held)
            self._cares[database.uid][seen.address] = care
        care.database, care.seen, care.sighted = database, seen, -math.inf
        self._set_due(care, 0.0)
        return care

    def _access(self, database: Database, seen: Seen) -> Access:
        return _access(database, seen, self._authorities)

    def _poke(self, uid: int) -> None:
        """The policy of a database has changed. Who does not answer is not asked any sooner."""
        for care in self._cares[uid].values():
            if not care.away:
                self._set_due(care, 0.0)

    def _drop(self, care: _Care) -> None:
        del self._cares[care.database.uid][care.seen.address]
        care.due = -1.0  # no time: what is left of it in the schedule is out of date
        if not care.busy:
            care.node.close()

    def _set_due(self, care: _Care, due: float) -> None:
        care.again = care.busy
        care.due = due
        if not care.busy:
            heapq.heappush(self._schedule, (due, next(self._number), care))

    # ---- Looking at nodes ----

    def _begin(self) -> None:
        now = time.monotonic()
        for care in self._all():
            care.node.cut_overdue(now)
        while self._schedule and self._schedule[0][0] <= now:
            due, _, care = heapq.heappop(self._schedule)
            if due == care.due and not care.busy:
                care.busy, care.again = True, False
                self._pool_of(care).submit(self._look, care, care.database, care.seen)

    def _pool_of(self, care: _Care) -> ThreadPoolExecutor:
        """A node can name a thousand servers that do not answer: those have few threads of their
        own."""
        if care.seen.origin == "found" and not care.known:
            return self._strange
        return self._slow if care.away or care.sight is None else self._pool

    def _finish(self) -> set[int]:
        """Takes over what looks have found, and says when the next ones are. A node that fails is
        tried again later and later. The databases of which something is to be written down."""
        about = set()
        while not self._found.empty():
            found = self._found.get()
            care = found.care if isinstance(found, _Look) else found
            there = self._cares.get(care.seen.bdb_uid, {}).get(care.seen.address) is care
            if isinstance(found, _Care):
                self._free(care, there)
            elif there and self._take(care, found):
                about.add(care.seen.bdb_uid)
        for uid in about:
            self._place(self._databases[uid][0])
        return about

    def _free(self, care: _Care, there: bool) -> None:
        care.busy = False
        if not there:
            care.node.close()
            return
        patience = min(PATIENCE, INTERVAL * 2 ** min(max(care.failures - 1, 0), 5))
        wait = 0.0 if care.again else patience * random.uniform(0.5, 1)  # noqa: S311 (jitter)
        self._set_due(care, time.monotonic() + wait)

    def _take(self, care: _Care, look: _Look) -> bool:
        """Whether something is new, or goes on."""
        if look.seen.error != care.seen.error:
            text = look.seen.error or "in step"
            log.info("%s of '%s': %s", look.seen.address, care.database.name, text)
        before = care.seen, care.sight, care.detached
        care.looked = time.monotonic()
        care.seen = replace(look.seen, origin=care.seen.origin)
        if look.sight:
            care.sight, care.sighted = look.sight, time.monotonic()
            care.cut = min(care.cut, care.sighted) if look.sight.is_cut else math.inf
        care.detached = look.detached
        if look.ready and not care.ready:  # the others may have waited for it
            self._poke(care.database.uid)
        care.ready = look.ready or (care.ready and care.away)
        care.known = care.known or care.seen.is_peer
        wrong = care.seen.error and not care.seen.in_step
        care.failures = care.failures + 1 if wrong else 0
        return before != (care.seen, care.sight, care.detached) or care.since < math.inf

    def _report(self) -> None:
        """Writes down what is new; again the next time, where the store is away."""
        for uid in self._news & self._cares.keys():
            cares = self._cares[uid]
            database, epoch = self._databases[uid][0], self.lease.epoch
            now = time.monotonic()
            seen = [replace(c.seen, age=now - c.looked) for c in cares.values() if not c.twin]
            self._store.nodes.report(uid, seen, epoch, database)
            news = [care for care in cares.values() if care.seen.is_peer != care.bound]
            for care in news:
                care.bound = care.seen.is_peer
            if news:
                self._poke(uid)
            if database.deleting and all(one.detached for one in cares.values()):
                self._store.nodes.forget_database(uid, epoch)
        self._news = set()

    def _write_looks(self) -> None:
        """Writes down when nodes were looked at, also where nothing is new."""
        now = time.monotonic()
        if now < self._told + TELL:
            return
        ages = {
            uid: {care.seen.address: now - care.looked
                  for care in cares.values() if care.looked > self._told}
            for uid, cares in self._cares.items()
        }  # fmt: skip
        if any(ages.values()):
            self._store.nodes.record_looks(ages, self.lease.epoch)
        self._told = now

    # ---- Who belongs to it ----

    def _place(self, database: Database) -> None:
        """Cares for whomever the nodes of a database name, and no longer for who has left it."""
        cares = self._cares[database.uid]
        sights = {one: self._word(care) for one, care in cares.items()}
        seeds = {one for one, care in cares.items() if care.seen.origin == "endpoint"}
        inside = topology.members(seeds, sights)
        strangers = sum(not care.known for care in cares.values())
        for address in itertools.islice(inside - cares.keys(), max(0, STRANGERS - strangers)):
            self._add(database, replace(_unknown(database, address), origin="found"))
        twins = topology.twins(seeds, sights)
        told = all(self._tells(cares[one]) for one in seeds)
        for care in list(cares.values()):
            care.twin = care.seen.address in twins
            if care.seen.address in inside:
                care.since = math.inf
                if care.seen.origin == "leaving":
                    self._add(database, replace(care.seen, origin="found"))
            elif care.seen.origin == "leaving":
                if care.detached:
                    self._drop(care)
            elif not care.known:
                self._drop(care)
            elif told:
                self._outside(care)
            else:
                care.since = math.inf

    def _outside(self, care: _Care) -> None:
        """None of those whom the database names knows of this node, which was found once. One that
        stands alone has left. So has one that does not answer, where a Sentinel or a cluster would
        know it. Any other stays: links may be down, or a deployment in two halves."""
        now = time.monotonic()
        care.since = min(care.since, now)
        if now < care.since + LEAVE:
            return
        if care.sight and not care.away and topology.is_alone(care.sight):
            self._add(care.database, replace(care.seen, origin="leaving"))
        elif care.away and self._is_watched(care.database.uid):
            self._note(care, "node_lost")
            self._drop(care)

    def _is_watched(self, uid: int) -> bool:
        sights = (care.sight for care in self._cares[uid].values() if not care.away)
        return any(sight.in_cluster or sight.role == "sentinel" for sight in sights if sight)

    def _note(self, care: _Care, kind: str, **detail: EventDetail) -> None:
        about: Drift = {"bdb_uid": care.database.uid, "bdb_name": care.database.name}
        detail = {**about, "address": care.seen.address, **detail}
        self._store.events.note(kind, "WARNING", **detail)

    # ---- One look, in a thread of a pool ----

    def _look(self, care: _Care, database: Database, seen: Seen) -> None:
        """Brings a node to its policy; once a second it also sees whom the node names, and reads
        its log: whoever waits for a change does not wait for that."""
        fresh = not seen.error and time.monotonic() < care.sighted + INTERVAL / 2
        known, look = care.sight if fresh else None, _Look(care, seen)
        try:
            if known is None:
                known = look.sight = self._sight(care, database)
                look.seen = replace(seen, role=known.role, software=known.software)
            self._reconcile(look, database, known)
            if not look.seen.error:
                doubt = self._doubt(care, known) or refusals.said(look.seen.refused)
                doubt = doubt or self._at_the_doors(care, database)
                if look.unverified and not doubt:
                    doubt = f"ALGORITHM {look.unverified}"
                look.seen = _failed(look.seen, doubt, look.seen.in_step)
        except NodeError as error:
            if error.code == UNREACHABLE:
                care.node.shut = ""  # the next one is new anyway
            text = str(error)
            if error.code == "BUSY":  # somebody is writing: again soon
                text = seen.error if seen.error.startswith(SLOW) else ""
            look.seen = _failed(look.seen, text)
        except Replaced:
            pass  # it is for somebody else to say what it holds
        except UNAVAILABLE_ERRORS as error:  # says nothing of the node
            reason = str(error).splitlines()[0]
            log.warning("%s of '%s' is not seen to: %s", seen.address, database.name, reason)
            self._found.put(care)
            return
        except Exception:
            log.exception("%s of '%s'", seen.address, database.name)
            look.seen = _failed(look.seen, "the control plane failed; its log says why")
        self._found.put(look)
        self._wake.set()
        try:
            if look.sight:
                self._afterwards(care, database, look.sight)
        except Exception:
            log.exception("%s of '%s'", seen.address, database.name)
        self._found.put(care)
        self._wake.set()

    def _afterwards(self, care: _Care, database: Database, sight: Sight) -> None:
        """What no change has to wait for."""
        if sight.role != "sentinel" and not care.twin:
            ours = None
            with suppress(redis.RedisError, OSError):  # it has gone
                ours = Ours(care.node.own_address(), self._key)
            self._collector.collect(database, care.seen.address, care.node.command, ours)
        care.node.come_again()

    def _doubt(self, care: _Care, sight: Sight) -> str:
        """What is wrong with a node that holds its policy."""
        if care.node.shut:
            return f"HANDSHAKE {SHUT}: {care.node.shut}"
        if sight.role == "sentinel":
            if not self._follows(care, sight):
                return f"SENTINEL {FORGED.format(sight.master or 'nobody')}"
            return f"OPEN {OPEN.format(care.node.admits)}" if care.node.admits else ""
        if told := self._failed_for(care):
            return f"LINK {told} says that it has failed: {UNHEARD}"
        if time.monotonic() < care.cut + CUT:
            return ""
        master = self._cares[care.database.uid].get(sight.master)
        missed = master is None or master.away
        return "" if missed else f"LINK its link to {sight.master} is down: {REFUSED}"

    def _at_the_doors(self, care: _Care, database: Database) -> str:
        """Who is refused at the moment where only nodes come in: an attack, or a node of ours that
        nobody has made known."""
        doors = self._collector.doors.get((database.uid, care.seen.address))
        cares = list(self._cares[database.uid].values())
        known = {one.seen.key for one in cares if one.seen.is_peer} | {*database.node_keys}
        who = doors.now(known) if doors else []
        more = f", and {len(who) - 3} more" if len(who) > 3 else ""
        return f"DOOR refused: {'; '.join(who[-3:])}{more}: {KNOCKING}" if who else ""

    def _failed_for(self, care: _Care) -> str:
        """The nodes of a cluster say that one has failed which they do not hear at their bus."""
        for other in list(self._cares[care.database.uid].values()):
            sight = None if other is care or other.away else other.sight
            if sight and care.seen.address in sight.failed:
                return other.seen.address
        return ""

    def _sight(self, care: _Care, database: Database) -> Sight:
        """A cluster is told of by those of its nodes that the database names, or by any if those do
        not answer."""
        named = [
            one for one in list(self._cares[database.uid].values())
            if one.seen.origin == "endpoint"
        ]  # fmt: skip
        wide = care in named or all(one.away for one in named)
        seen = care.node.sight(wide, database.sentinel_master)
        return seen.reached_by(dict(database.node_addresses))

    def _reconcile(self, look: _Look, database: Database, sight: Sight) -> None:
        """What the node then holds, and whether it holds nothing of ours any more. Its key lets it
        in to the others once it holds our policy, or waits for nothing but them."""
        uid, care, node = database.uid, look.care, look.care.node
        owner = f"{self._store.settings.cluster().identifier}/{uid}"
        target = self._store.policies.target(uid)
        if care.twin or sight.role == "sentinel":
            first = self._first(care, sight)
            module, look.ready = (first.seen.module, first.ready) if first else ("", False)
            look.seen = node.shown(replace(_holding(look.seen, target, True), module=module))
            look.detached = True
            return
        if self._store.settings.cluster().hold:
            self._hold(look, database, sight, owner)
            return
        care.holds = None
        if database.deleting or look.seen.origin == "leaving":
            self._give_back(look, target, owner)
            return
        before = self._status(look)
        if before.owner == owner:
            self._find_other(look, before)
        enrolled = _enrolled(node, before, replace(look.seen, module=sight.module))
        look.ready = before.journal == "ok" and before.owner in ("", owner)
        if before.generation and before.owner == owner:
            look.seen = enrolled
        waits_for = self._unbound(database, before, sight.names - {look.seen.address})
        if waits_for:
            known = dict(self._cares[uid])
            if look.ready and all(one in known and known[one].ready for one in waits_for):
                look.seen = enrolled
            why = ", ".join(f"{one} ({_why(known.get(one))})" for one in waits_for)
            raise NodeError("PEERS", f"{why}: {UNBOUND}")
        held = care.held
        if _went_back(held, before, owner):
            self._note(care, "node_went_back", seen_generation=held.generation,
                       generation=before.generation)  # fmt: skip
        status, drift = reconcile(self._store, uid, owner, node, self.lease, before, held)
        care.ours = True
        if drift:
            self._note(care, "node_drift", **drift)
        target = self._store.policies.target(uid)
        in_step = held.is_of(status) and held.has(target)
        detail, error = _trust(look.seen.detail, status.trust)
        look.unverified = status.unverified
        if status.certificate != "ok" and not status.next_key:
            error = error or f"CERTIFICATE {status.certificate}"
        seen = _holding(enrolled, status, in_step)
        seen = replace(seen, detail=detail, refused=held.refused)
        look.seen = _failed(seen, error, in_step)

    def _hold(self, look: _Look, database: Database, sight: Sight, owner: str) -> None:
        """Nothing is sent: what a release would do there is the node's error. What it holds as
        revoked is revoked here too."""
        care, node, uid = look.care, look.care.node, database.uid
        status = self._status(look)
        _check_ours(self._store, status, owner)
        held, target = Target(status.generation, status.digest), self._store.policies.target(uid)
        before = care.holds
        if before is None or (before.last, before.target) != (held, target):
            lines, wanted = node.show(), self._store.policies.whole(uid)[1]
            kept = set(lines) - set(wanted) - self._kept
            self._kept |= kept
            if any(line.startswith("revoke ") for line in kept):
                where: Drift = {"bdb_uid": uid, "bdb_name": database.name}
                self._store.revocations.keep(kept, **where, address=care.seen.address)
                target, wanted = self._store.policies.whole(uid)
            text = _told(status, target, wanted, lines)
            first = before.first if before else held
            if before and before.last != held:
                self._note(care, "other_control_plane", description=WRITTEN)
            care.holds = before = _Holds(first, held, target, text)
        if status.generation:
            look.seen = replace(look.seen, module=sight.module, key=node.key())
        if before.first != held:
            raise NodeError(TWICE, f"{WRITTEN}. {before.text}")
        if before.text:
            raise NodeError(HELD, f"{self._store.settings.cluster().hold}: {before.text}")
        look.seen = _holding(look.seen, status, True)

    def _find_other(self, look: _Look, status: Status) -> None:
        """An epoch that is not ours, and not of another process on this database either, on a node
        whose policy is ours: another control plane has our identity. The one that is outbid stops
        there, until somebody releases it; a node that lies about its epoch costs itself alone."""
        care = look.care
        if status.epoch <= self.lease.highest:
            return
        self.lease.confirm()
        if status.epoch <= self.lease.highest:
            return
        was_outbid = look.seen.error.startswith(TWICE)
        outbid = care.ours or was_outbid
        if not was_outbid and status.epoch > care.outbid:
            why = OUTBID if outbid else BEFORE
            self._note(care, "other_control_plane", epoch=status.epoch, description=why)
        care.outbid = status.epoch
        if outbid:
            raise NodeError(TWICE, OUTBID)

    def _follows(self, care: _Care, sight: Sight) -> bool:
        """Whether what a Sentinel says counts: where the master that it names is an endpoint, or a
        server that was seen to hold our policy, also by another name; or where no such server is
        known yet, and the one that it names is no other database's."""
        ours = {one.seen.address: one for one in list(self._cares[care.database.uid].values())}
        named = ours.get(sight.master)
        if named and (named.seen.origin == "endpoint" or named.seen.is_peer):
            return True
        if any(one.known and one.seen.role != "sentinel" for one in ours.values()):
            return False
        others = [one for uid, cares in list(self._cares.items()) if uid != care.database.uid
                  for one in list(cares.values())]  # fmt: skip
        return not any(one.seen.address == sight.master and one.known for one in others)

    def _word(self, care: _Care) -> Sight | None:
        """What a node said, as far as it counts. Whom a stranger without the module names is
        nobody; of a Sentinel that is not followed, only the master is looked at."""
        sight = care.sight
        if sight is None or not self._is_believed(care, sight):
            only = {sight.master} - {""} if sight and sight.role == "sentinel" else ()
            return sight and replace(sight, names=frozenset(only))
        return sight

    def _is_believed(self, care: _Care, sight: Sight) -> bool:
        if sight.role == "sentinel":
            return self._follows(care, sight)
        return bool(sight.module) or care.known

    def _tells(self, care: _Care) -> bool:
        """Whether it would name those who belong to it now."""
        sight = care.sight
        if care.away or sight is None:
            return False
        return sight.role != "sentinel" or self._follows(care, sight)

    def _first(self, care: _Care, sight: Sight) -> _Care | None:
        """The server behind a second name of it."""
        cares = list(self._cares[care.database.uid].values())
        same = (one for one in cares if one.sight and one.sight.run == sight.run)
        return next((one for one in same if care.twin and not one.twin), None)

    def _status(self, look: _Look) -> Status:
        """One without the module is told once as an event, and what it shows lets nobody in."""
        care, before = look.care, look.seen.error
        try:
            return care.node.status()
        except NodeError as error:
            if error.code != MODULE:
                raise
            if not before.startswith(MODULE):
                self._note(care, "node_without_module")
            key, nothing = care.node.key(), Target(0, "")
            held = _holding(look.seen, nothing, False)
            look.seen = replace(held, module="", key=key, next_key="")
            cares = list(self._cares[care.database.uid].values())
            same = [one.seen.address for one in cares if one.seen.is_peer and one.seen.key == key]
            if not same:
                raise
            raise NodeError(MODULE, f"{WITHOUT}; {SHARED.format(', '.join(same))}") from error

    def _give_back(self, look: _Look, target: Target, owner: str) -> None:
        """One without the module has nothing of ours."""
        held: Status | Target = Target(0, "")
        look.detached = True
        try:
            held = detach(look.care.node, target, owner, self.lease)
            look.detached = held.owner != owner
        except NodeError as error:
            if error.code != MODULE:
                look.detached = False
                raise
        look.seen = _holding(look.seen, held, look.detached)

    def _unbound(self, database: Database, status: Status, names: Iterable[str]) -> list[str]:
        """The peers of a node that enforcement would cut off there, where it has yet to begin."""
        asked = database.refuses and not database.allow_unbound_peers
        if not asked or status.enforce == "on":
            return []
        known = self._cares[database.uid]
        return [one for one in sorted(names) if one not in known or not known[one].bound]


def _went_back(held: Held, status: Status, owner: str) -> bool:
    """Whether a node holds an older policy of ours than it has held, or none any more."""
    ours = status.owner == owner if status.generation else True
    return status.journal == "ok" and ours and status.generation < held.generation


WRITTEN = (
    "another control plane with this one's identity goes on writing to this server: stop that one, "
    "or do not release this one"
)
OUTBID = (
    "another control plane with this one's identity, such as one that was restored from its "
    "backup, writes to this server, and this one does not any more: stop one of them; "
    "redis-certauth release --force is for the one that stays"
)
BEFORE = (
    "a control plane with this one's identity, and not on this one's database, has written to this "
    "server; where it still runs, it stops now"
)
LOST = "no longer managed"
ELSEWHERE = "not managed: tls-ca-cert-dir"  # of the module: it is not the journal's


def _trust(before: str, now: str) -> tuple[str, str]:
    """From what a module said of the trust that it manages: what is shown of it, and what is wrong.
    Trust that is kept by hand is nothing wrong; trust that was managed, and is not since, is."""
    if not now.startswith(("managed", "not managed")):
        return now, f"TRUST {now}"
    if not now.startswith(ELSEWHERE) or not before.startswith(("managed", LOST)):
        return now, ""
    what = "clients may be refused in the handshake: set it to the journal's ca directory again"
    detail = LOST + now.removeprefix("not managed")
    return detail, f"TRUST {detail}: {what}"


def _enrolled(node: Node, status: Status, seen: Seen) -> Seen:
    """With the keys by which the other nodes are to know it: the one that it shows, and the one
    that it is about to show, or says that it shows where we have not seen that yet."""
    node.come_again(status.key)
    seen = node.shown(seen)
    more = status.next_key or (status.key if status.key != seen.key else "")
    return replace(seen, next_key=more or "")


def _why(care: _Care | None) -> str:
    """What stands in the way of a node that is not bound."""
    return (care.seen.error or "not in step yet") if care else "not reached yet"


SHUT = (
    "a new connection fails, as a client's does, and changes arrive over the one that is open"
)
REFUSED = (
    "the master refuses it where the key that it shows there is not known (redis-certauth node "
    "enrol --db, or node_keys); the logs of both say more"
)
KNOCKING = (
    "a server of yours has to be made known first (redis-certauth node enrol --db, or node_keys); "
    "of anybody else, find out who it is"
)
UNHEARD = (
    "it answers here, but the others do not hear it at the cluster bus, where they refuse a key "
    "that is not known or is revoked; the logs of both say more"
)
FORGED = (
    "this Sentinel tells clients that {} is the master, which is none of the database's servers: "
    "it is not followed; see to the Sentinel, or name that server as an endpoint"
)
OPEN = (
    "this Sentinel lets anybody whose certificate it trusts administrate it as '{}', and so send "
    "clients to another master: redis-certauth sentinel enrol"
)
UNBOUND = (
    "a peer of this node that would be cut off, for it was not seen to hold the policy; "
    "node_addresses says how it is reached, allow_unbound_peers enforces without it"
)


def _unknown(database: Database, address: str) -> Seen:
    return Seen(database.uid, address, 0, False, "not reached yet")


def _holding(seen: Seen, held: Status | Target, in_step: bool) -> Seen:
    seen = replace(seen, generation=held.generation, digest=held.digest, in_step=in_step)
    return replace(seen, error="", detail="", refused=())


def _failed(seen: Seen, text: str, in_step: bool = False) -> Seen:
    if text and text != seen.error:
        seen = replace(seen, last_error=text, last_error_time=int(time.time()))
    return replace(seen, in_step=in_step, error=text)


def detach(node: Node, target: Target, owner: str, lease: Lease) -> Status:
    """Gives a node back: no policy, and no owner, so that another database may have it. Raises
    Replaced as `reconcile`."""
    status = node.status()
    if status.owner == owner and status.generation:
        generation = max(target.generation, status.generation + 1)
        empty = Target(generation, core.digest(()))
        node.load(empty, (), "", _epoch(lease, status), force=True)
        status = node.status()
    return status
