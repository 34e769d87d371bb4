"""Keeps the nodes in step with the store: one Redis or Valkey server each, spoken to over mutual
TLS. Only this file knows `redis`.

`plan` is pure: from what a node holds and what it should hold to the one write that gets it there.
`reconcile` does it; `Worker` does it for every node, at each change and once a second.
"""

import logging
import random
import secrets
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
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
GRACE = 0.5  # seconds that a look at all nodes waits for the slow ones
THREADS = 16  # nodes spoken to at once
CALL_LINES = 2000  # policy lines in one command: some 3 ms of the node's time


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
            raise NodeError("UNREACHABLE", str(error)) from error

    def status(self) -> Status:
        found = self.command("CERTAUTH.POLICY", "STATUS")
        return Status(**{name: found[name] for name in Status.__dataclass_fields__})

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
        self, target: Target, lines: Iterable[str], owner: str = "", force: bool = False
    ) -> None:
        """Makes `lines` the whole policy; returns when it is on the node's disk and in force."""
        stamp = ["OWNER", owner, "DIGEST", target.digest] + ["FORCE"] * force
        self._write(["LOAD", target.generation, *stamp], list(lines))

    def patch(self, base: int, target: Target, changes: Iterable[str], owner: str) -> None:
        """Adds and takes away `+line`s and `-line`s; as `load`."""
        stamp = ["OWNER", owner, "DIGEST", target.digest]
        self._write(["PATCH", base, target.generation, *stamp], list(changes))

    def _write(self, words: Sequence[str | int], lines: Sequence[str]) -> None:
        """In one call, or staged, so that no call holds the node for long."""
        if len(lines) <= CALL_LINES:
            self.command("CERTAUTH.POLICY", *words, "LINES", *lines)
            return
        name = secrets.token_hex(16)
        for start in range(0, len(lines), CALL_LINES):
            part = lines[start : start + CALL_LINES]
            self.command("CERTAUTH.POLICY", "STAGE", name, "LINES", *part)
        self.command("CERTAUTH.POLICY", "COMMIT", name, len(lines), *words)


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


@dataclass
class _Line:
    """A node in the worker's care: its connection, the look at it that was last begun, with which
    revision of the store, what came of it, and when the next one is due."""

    node: Node
    access: Access
    seen: Seen
    look: Future[None] | None = None
    revision: int = -1
    failures: int = 0
    due: float = 0.0
    detached: bool = False

    @property
    def busy(self) -> bool:
        return self.look is not None and not self.look.done()


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
        """Returns when no node is spoken to any more: at once, or after the timeout of one that
        hangs."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        for line in self._lines.values():
            line.node.close()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            try:
                self._pass()
            except Exception:
                log.exception("the sync worker goes on after an error")

    def _pass(self) -> None:
        """Looks at every node that is due, or that the store has changed for since the last time.
        One that hangs holds up nobody else."""
        revision = self._store.revision()
        databases = self._store.all(Database)
        cared = [(one, self._lines_of(one)) for one in databases]
        looks = []
        for database, lines in cared:
            for line in lines:
                fresh = line.revision == revision and time.monotonic() < line.due
                if not line.busy and not fresh:
                    line.revision = revision
                    line.look = self._pool.submit(self._look, database, line)
                    looks.append(line.look)
        wait(looks, GRACE)
        for database, lines in cared:
            self._report(database, lines)
        self._drop({(one.uid, line.seen.address) for one, lines in cared for line in lines})

    def _report(self, database: Database, lines: Sequence[_Line]) -> None:
        self._store.report(database.uid, [line.seen for line in lines])
        if database.deleting and all(line.detached for line in lines):
            self._store.forget_database(database.uid)

    def _look(self, database: Database, line: _Line) -> None:
        """Reconciles one node. One that fails is tried again later and later."""
        try:
            seen = self._reconcile(database, line)
            line.failures, line.due = 0, 0.0
        except Exception as error:
            text = str(error)
            if not isinstance(error, NodeError):
                log.exception("%s of '%s'", line.seen.address, database.name)
                text = "the control plane failed; its log says why"
            line.failures += 1
            patience = min(PATIENCE, INTERVAL * 2 ** min(line.failures - 1, 5))
            line.due = time.monotonic() + patience * random.uniform(0.5, 1)  # noqa: S311 (jitter)
            seen = replace(line.seen, generation=0, in_step=False, error=text)
        if seen.error != line.seen.error:
            log.info("%s of '%s': %s", seen.address, database.name, seen.error or "in step")
        line.seen = seen

    def _reconcile(self, database: Database, line: _Line) -> Seen:
        owner = f"{self._store.cluster().identifier}/{database.uid}"
        target = self._store.target(database.uid)
        if database.deleting:
            status = detach(line.node, target, owner)
            line.detached = in_step = status.owner != owner
        else:
            status = reconcile(self._store, database.uid, owner, line.node)
            in_step = (status.generation, status.digest) == (target.generation, target.digest)
        return Seen(database.uid, line.seen.address, status.generation, in_step, "", status.trust)

    def _lines_of(self, database: Database) -> list[_Line]:
        """A server that is named twice is one node."""
        ends = {(end.hosts[0], end.port): end for end in database.endpoints}
        return [self._line(database, end) for end in ends.values()]

    def _line(self, database: Database, endpoint: Endpoint) -> _Line:
        host, port = endpoint.hosts[0], endpoint.port
        authorities = database.tls_server_ca or self._authorities
        access = Access(host, port, authorities, endpoint.dns_name)
        line = self._lines.get((database.uid, host, port))
        if line is None or line.access != access:
            seen = Seen(database.uid, f"{host}:{port}", 0, False, "not reached yet")
            line = _Line(Node(access, self._identity), access, seen)
            self._lines[database.uid, host, port] = line
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
