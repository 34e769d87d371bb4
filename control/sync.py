"""Keeps the nodes in step with the store: one Redis or Valkey server each, spoken to over mutual
TLS. Only this file knows `redis`.

`plan` is pure: from what a node holds and what it should hold to the one write that gets it there.
`reconcile` does it; `Worker` does it for every node, at each change and once a second.
"""

import heapq
import itertools
import logging
import math
import queue
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.audit import Collector, Command
from control.records import Change, Database, Target
from control.records import Node as Seen
from control.store import Store

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at a node that answers
PATIENCE = 10.0  # at most, between two tries at one that does not
THREADS = 16  # nodes spoken to at once; and as many that did not answer the last time
UNREACHABLE = "UNREACHABLE"


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
        # No CLIENT SETINFO: it is not ours to run, and the node would log each try.
        self.lib_name = self.lib_version = self.driver_info = None

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
            ssl_check_hostname=True,  # off by default before redis-py 6
            ssl_min_version=ssl.TLSVersion.TLSv1_2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            # A retry of its own would hide a refusal, and count it several times on the node.
            retry=Retry(NoBackoff(), 0),
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
            raise NodeError(UNREACHABLE, str(error)) from error

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
    if status.journal != "ok":
        raise NodeError("NOJOURNAL", status.journal)
    if status.generation and status.owner not in ("", owner):
        raise NodeError("OWNED", f"this node's policy belongs to '{status.owner}'")
    target = store.target(bdb_uid)
    changes = store.changes(bdb_uid, status.generation, status.digest)
    if changes is not None:  # they may lead further than the target that was read before them
        last = changes[-1] if changes else status
        target = Target(last.generation, last.digest)
    todo = plan(status, target, changes)
    if todo.write == "nothing":
        return status
    if todo.write == "patch":
        node.patch(status.generation, target, todo.changes, owner)
    else:
        target, lines = store.policy(bdb_uid)
        node.load(target, lines, owner, todo.force)
    return node.status()


# ---- All nodes -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Care:
    """A node in the worker's care: its connection, what was last seen of it, and when it is looked
    at next. The thread of the worker alone changes it, but for `detached`."""

    database: Database
    access: Access
    node: Node
    seen: Seen
    due: float = 0.0
    failures: int = 0
    busy: bool = False
    again: bool = False  # something changed while it was looked at
    detached: bool = False

    @property
    def away(self) -> bool:
        """It did not answer the last time, so the next time may take as long."""
        return self.seen.error.startswith(UNREACHABLE)


class Worker:
    """Reconciles every node of every database: at once when its policy changes, and once a second.
    One thread keeps the schedule and writes down what was found; a few more speak to nodes, and
    others of their own to those that did not answer the last time, which hold up nobody else.
    `authorities` is PEM of the CAs that nodes' certificates come from where a database names none;
    `collector` reads each node's log when it was looked at.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        authorities: str,
        collector: Collector | None = None,
    ) -> None:
        self._store, self._identity, self._authorities = store, identity, authorities
        self._collector = collector or Collector(store)
        self._cares: dict[tuple[int, str], _Care] = {}
        self._databases: dict[int, tuple[Database, Target]] = {}
        self._revision = -1
        self._schedule: list[tuple[float, int, _Care]] = []  # a heap; others' times are out of date
        self._number = itertools.count()  # of entries in it: those of the same time are in turn
        self._found: queue.SimpleQueue[tuple[_Care, Seen]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stopping = False
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        self._slow = ThreadPoolExecutor(THREADS, thread_name_prefix="sync-slow")
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        self._store.listen(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no node is spoken to any more: at once, or after the timeout of one that
        hangs."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        for pool in (self._pool, self._slow):
            pool.shutdown(cancel_futures=True)
        for care in self._cares.values():
            care.node.close()

    def ask(self, bdb_uid: int, question: Callable[[Command], Any]) -> dict[str, Any]:
        """Puts a question to each node of a database, in any thread: by address what it says, or
        the NodeError that came of it. `question` gets what runs a command on the node."""
        nodes = {key[1]: care.node for key, care in list(self._cares.items()) if key[0] == bdb_uid}

        def answer(node: Node) -> Any:
            try:
                return question(node.command)
            except NodeError as error:
                return error

        with ThreadPoolExecutor(THREADS, "ask") as pool:
            return dict(zip(nodes, pool.map(answer, nodes.values()), strict=True))

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._pause())
            self._wake.clear()
            try:
                self._turn()
            except Exception:
                log.exception("the sync worker goes on after an error")

    def _pause(self) -> float:
        """Seconds until something is due. The store is looked at anyway: other processes write."""
        due = self._schedule[0][0] if self._schedule else math.inf
        return max(0.0, min(INTERVAL, due - time.monotonic()))

    def _turn(self) -> None:
        revision = self._store.revision()
        changed = self._follow() if revision != self._revision else set()
        self._revision = revision
        self._begin()
        self._report(changed | self._finish())

    # ---- What is to be cared for ----

    def _follow(self) -> set[int]:
        """Takes over what has changed in the store. Databases whose nodes are others now."""
        databases, targets = self._store.all(Database), self._store.targets()
        now = {one.uid: (one, targets[one.uid]) for one in databases if one.uid in targets}
        changed = set()
        for uid, (database, target) in now.items():
            before = self._databases.get(uid)
            if before is None or before[0] != database:
                self._care_for(database)
                changed.add(uid)
            elif before[1] != target:
                self._poke(uid)
        for key in [key for key in self._cares if key[0] not in now]:
            self._drop(key)
        self._databases = now
        return changed

    def _care_for(self, database: Database) -> None:
        """Its nodes are those that it names now; each is looked at at once. A server that is named
        twice is one node."""
        wanted = {f"{end.hosts[0]}:{end.port}": end for end in database.endpoints}
        for key in [key for key in self._cares if key[0] == database.uid]:
            if key[1] not in wanted:
                self._drop(key)
        for address, end in wanted.items():
            authorities = database.tls_server_ca or self._authorities
            access = Access(end.hosts[0], end.port, authorities, end.dns_name)
            care = self._cares.get((database.uid, address))
            if care and care.access != access:
                self._drop((database.uid, address))
                care = None
            if care is None:
                seen = Seen(database.uid, address, 0, False, "not reached yet")
                care = _Care(database, access, Node(access, self._identity), seen)
                self._cares[database.uid, address] = care
            care.database = database
            self._set_due(care, 0.0)

    def _poke(self, uid: int) -> None:
        """The policy of a database has changed. Who does not answer is not asked any sooner."""
        for key, care in self._cares.items():
            if key[0] == uid and not care.away:
                self._set_due(care, 0.0)

    def _drop(self, key: tuple[int, str]) -> None:
        care = self._cares.pop(key)
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
        while self._schedule and self._schedule[0][0] <= now:
            due, _, care = heapq.heappop(self._schedule)
            if due == care.due and not care.busy:
                care.busy, care.again = True, False
                pool = self._slow if care.away else self._pool
                pool.submit(self._look, care, care.database)

    def _finish(self) -> set[int]:
        """Takes over what looks have found, and says when the next ones are. A node that fails is
        tried again later and later. The databases that it is about."""
        about = set()
        while not self._found.empty():
            care, seen = self._found.get()
            care.busy = False
            if self._cares.get((seen.bdb_uid, seen.address)) is not care:
                care.node.close()
                continue
            if seen.error != care.seen.error:
                name, text = care.database.name, seen.error or "in step"
                log.info("%s of '%s': %s", seen.address, name, text)
            care.seen = seen
            care.failures = care.failures + 1 if seen.error else 0
            patience = min(PATIENCE, INTERVAL * 2 ** min(max(care.failures - 1, 0), 5))
            wait = 0.0 if care.again else patience * random.uniform(0.5, 1)  # noqa: S311 (jitter)
            self._set_due(care, time.monotonic() + wait)
            about.add(seen.bdb_uid)
        return about

    def _report(self, uids: set[int]) -> None:
        for uid in uids:
            cares = [care for key, care in self._cares.items() if key[0] == uid]
            self._store.report(uid, [care.seen for care in cares])
            deleting = any(care.database.deleting for care in cares)
            if deleting and all(care.detached for care in cares):
                self._store.forget_database(uid)

    def _look(self, care: _Care, database: Database) -> None:
        """Reconciles one node, in a thread of the pool."""
        try:
            seen = self._reconcile(care, database)
        except Exception as error:
            text = str(error)
            if not isinstance(error, NodeError):
                log.exception("%s of '%s'", care.seen.address, database.name)
                text = "the control plane failed; its log says why"
            seen = replace(care.seen, generation=0, in_step=False, error=text)
        if not seen.error.startswith(UNREACHABLE):
            self._collector.collect(database, seen.address, care.node.command)
        self._found.put((care, seen))
        self._wake.set()

    def _reconcile(self, care: _Care, database: Database) -> Seen:
        owner = f"{self._store.cluster().identifier}/{database.uid}"
        if database.deleting:
            status = detach(care.node, self._store.target(database.uid), owner)
            care.detached = in_step = status.owner != owner
        else:
            status = reconcile(self._store, database.uid, owner, care.node)
            target = self._store.target(database.uid)
            in_step = (status.generation, status.digest) == (target.generation, target.digest)
        return Seen(database.uid, care.seen.address, status.generation, in_step, "", status.trust)


def detach(node: Node, target: Target, owner: str) -> Status:
    """Gives a node back: no policy, and no owner, so that another database may have it."""
    status = node.status()
    if status.owner == owner and status.generation:
        node.load(
            Target(max(target.generation, status.generation + 1), target.digest), (), "", True
        )
        status = node.status()
    return status
