"""Keeps the nodes in step with the store: one Redis or Valkey server each, spoken to over mutual
TLS. Only this file knows `redis`.

`plan` is pure: from what a node holds and what it should hold to the one write that gets it there.
`reconcile` does it; `Worker` does it for every node, at each change and once a second.
"""

import logging
import random
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.records import Change, Database, Endpoint, Target
from control.records import Node as Seen
from control.store import Store

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at a node that answers
PATIENCE = 30.0  # at most, between two tries at one that does not
THREADS = 16  # nodes spoken to at once


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
    """What CERTAUTH.POLICY STATUS answers. `generation` 0: the node never had a policy."""

    generation: int
    digest: str
    lines: int
    owner: str
    epoch: int
    enforce: str
    journal: str
    trust: str


class _NamedConnection(redis.SSLConnection):
    """Connects to one address and expects another name in the certificate."""

    def __init__(self, server_name: str, **options: Any) -> None:
        super().__init__(**options)
        self._server_name = server_name

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        address, self.host = self.host, self._server_name  # redis-py checks the name `host`
        try:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        finally:
            self.host = address


class Node:
    """One connection to a node, opened at the first call. Calls raise NodeError."""

    def __init__(self, access: Access, identity: Identity, timeout: float = 5) -> None:
        pool = redis.ConnectionPool(
            connection_class=_NamedConnection,
            server_name=access.server_name or access.host,
            host=access.host,
            port=access.port,
            ssl_ca_data=access.authorities,
            ssl_certfile=str(identity.certificate),
            ssl_keyfile=str(identity.key),
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            # A retry of its own would hide a refusal, and count it several times on the node.
            retry=Retry(NoBackoff(), 0),
            lib_name=None,  # CLIENT SETINFO: not ours to run, and the node would log each try
            lib_version=None,
        )
        self._client: Any = redis.Redis.from_pool(pool)

    def close(self) -> None:
        self._client.close()

    def command(self, *words: str | int) -> Any:
        """One command's reply, maps as dicts."""
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            code, _, rest = str(error).partition(" ")
            known = code.isupper() and code != "ERR"
            raise NodeError(code if known else "ERR", rest if known else str(error)) from error
        except redis.RedisError as error:
            raise NodeError("UNREACHABLE", str(error)) from error

    def status(self) -> Status:
        found = self.command("CERTAUTH.POLICY", "STATUS")
        return Status(**{name: found[name] for name in Status.__dataclass_fields__})

    def show(self) -> tuple[str, ...]:
        """The lines in force, canonical, sorted."""
        return tuple(sorted(self.command("CERTAUTH.POLICY", "SHOW")))

    def load(
        self, target: Target, lines: Iterable[str], owner: str = "", force: bool = False
    ) -> None:
        """Makes `lines` the whole policy; returns when it is on the node's disk and in force."""
        stamp = ["OWNER", owner, "DIGEST", target.digest] + ["FORCE"] * force
        self.command("CERTAUTH.POLICY", "LOAD", target.generation, *stamp, "LINES", *lines)

    def patch(self, base: int, target: Target, changes: Iterable[str], owner: str) -> None:
        """Adds and takes away `+line`s and `-line`s; as `load`."""
        stamp = ["OWNER", owner, "DIGEST", target.digest]
        generations = (base, target.generation)
        self.command("CERTAUTH.POLICY", "PATCH", *generations, *stamp, "LINES", *changes)


# ---- The plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The write that brings a node to the target. `force`: the node is ahead of us, as after a
    restore of the control plane from a backup."""

    write: Literal["nothing", "patch", "load"]
    changes: tuple[str, ...] = ()
    force: bool = False


def plan(status: Status, target: Target, changes: Sequence[Change] | None) -> Plan:
    """`changes` lead from what the node says it holds to the target; None where that is unknown."""
    if (status.generation, status.digest) == (target.generation, target.digest):
        return Plan("nothing")
    if changes is None or status.generation == 0:
        return Plan("load", force=status.generation >= target.generation)
    return Plan("patch", merged(changes))


def merged(changes: Sequence[Change]) -> tuple[str, ...]:
    """Several changes as one: a line that comes and goes again is none."""
    signs: dict[str, int] = {}
    for change in changes:
        for line, sign in [(line, -1) for line in change.removed] + [
            (line, 1) for line in change.added
        ]:
            signs[line] = signs.get(line, 0) + sign
    return tuple(f"{'+' if sign > 0 else '-'}{line}" for line, sign in signs.items() if sign)


def reconcile(store: Store, bdb_uid: int, owner: str, node: Node) -> Status:
    """Brings one node to the target of its database. Returns what it then holds."""
    status = node.status()
    target = store.target(bdb_uid)
    if status.journal != "ok":
        raise NodeError("NOJOURNAL", status.journal)
    if status.generation and status.owner not in ("", owner):
        raise NodeError("OWNED", f"this node's policy belongs to '{status.owner}'")
    todo = plan(status, target, store.changes(bdb_uid, status.generation, status.digest))
    if todo.write == "nothing":
        return status
    if todo.write == "patch":
        node.patch(status.generation, target, todo.changes, owner)
    else:
        target, lines = store.policy(bdb_uid)
        node.load(target, lines, owner, todo.force)
    return node.status()


# ---- All nodes -----------------------------------------------------------------------------------


@dataclass
class _Line:
    """A node in the worker's care: its connection, and when it is next looked at."""

    node: Node
    access: Access
    failures: int = 0
    due: float = 0.0


class Worker:
    """Reconciles every node of every database in a thread of its own. `authorities` is PEM of the
    CAs that nodes' certificates come from where a database names none."""

    def __init__(self, store: Store, identity: Identity, authorities: str) -> None:
        self._store, self._identity, self._authorities = store, identity, authorities
        self._lines: dict[tuple[int, str, int], _Line] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        self._store.listen(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._pool.shutdown()
        for line in self._lines.values():
            line.node.close()

    def _run(self) -> None:
        while not self._stopping:
            changed = self._wake.wait(INTERVAL)
            self._wake.clear()
            try:
                self._pass(changed)
            except Exception:
                log.exception("the sync worker goes on after an error")

    def _pass(self, changed: bool) -> None:
        databases = self._store.all(Database)
        asked = [(one, endpoint) for one in databases for endpoint in one.endpoints]
        owner = f"{self._store.cluster().identifier}/"
        found = list(self._pool.map(lambda pair: self._look(owner, changed, *pair), asked))
        for database in databases:
            self._report(database, [seen for seen in found if seen.bdb_uid == database.uid])
        self._drop({(seen.bdb_uid, seen.address) for seen in found})

    def _report(self, database: Database, found: Sequence[Seen]) -> None:
        self._store.report(database.uid, found)
        if database.deleting and all(seen.in_step for seen in found):
            self._store.forget_database(database.uid)

    def _look(self, owner: str, changed: bool, database: Database, endpoint: Endpoint) -> Seen:
        """Reconciles one node, unless it failed a moment ago and nothing has changed since."""
        line = self._line(database, endpoint)
        address = f"{endpoint.hosts[0]}:{endpoint.port}"
        if time.monotonic() < line.due and not changed:
            return self._last(database.uid, address)
        target = self._store.target(database.uid)
        try:
            owner = "" if database.deleting else f"{owner}{database.uid}"
            status = self._reconcile(line.node, database, owner)
        except NodeError as error:
            line.failures += 1
            wait = min(PATIENCE, INTERVAL * 2 ** min(line.failures - 1, 5))
            line.due = time.monotonic() + wait * random.uniform(0.5, 1)  # noqa: S311 (jitter)
            return Seen(database.uid, address, 0, False, str(error))
        line.failures, line.due = 0, 0.0
        in_step = (status.generation, status.digest) == (target.generation, target.digest)
        return Seen(database.uid, address, status.generation, in_step, "", status.trust)

    def _reconcile(self, node: Node, database: Database, owner: str) -> Status:
        if not database.deleting:
            return reconcile(self._store, database.uid, owner, node)
        return detach(node, self._store.target(database.uid), self._owner(database))

    def _owner(self, database: Database) -> str:
        return f"{self._store.cluster().identifier}/{database.uid}"

    def _last(self, bdb_uid: int, address: str) -> Seen:
        known = (seen for seen in self._store.nodes(bdb_uid) if seen.address == address)
        return next(known, Seen(bdb_uid, address, 0, False, "not reached yet"))

    def _line(self, database: Database, endpoint: Endpoint) -> _Line:
        key = (database.uid, endpoint.hosts[0], endpoint.port)
        authorities = database.tls_server_ca or self._authorities
        access = Access(endpoint.hosts[0], endpoint.port, authorities, endpoint.dns_name)
        line = self._lines.get(key)
        if line is None or line.access != access:
            line = self._lines[key] = _Line(Node(access, self._identity), access)
        return line

    def _drop(self, kept: set[tuple[int, str]]) -> None:
        for key in [key for key in self._lines if (key[0], f"{key[1]}:{key[2]}") not in kept]:
            self._lines.pop(key).node.close()


def detach(node: Node, target: Target, owner: str) -> Status:
    """Gives a node back: no policy, and no owner, so that another database may have it."""
    status = node.status()
    if status.owner == owner and status.generation:
        node.load(
            Target(max(target.generation, status.generation + 1), target.digest), (), "", True
        )
        status = node.status()
    return status
