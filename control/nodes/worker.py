"""Keeps the nodes in step with the store. `Worker` visits every node of every database
(control/nodes/visit.py): at each change, and once a second; also those that the nodes name as
belonging to them (control/nodes/placement.py)."""

import heapq
import itertools
import logging
import math
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from control.ages import OLD, Pulse
from control.errors import Refusal
from control.nodes import placement
from control.nodes.audit import Collector, Command
from control.nodes.client import MODULE, UNREACHABLE, Identity, Node, NodeError
from control.nodes.lease import LEASE_TRY_SECONDS, Lease
from control.nodes.placement import Transition
from control.nodes.plan import held_by
from control.nodes.tracked import Fleet, Observation, TrackedNode, access_of, note, unknown_node
from control.nodes.visit import VISIT_SECONDS, Visitor
from control.policy import core
from control.records import Database, Target
from control.reports import Node as Seen
from control.store import UNAVAILABLE_ERRORS, Replaced, Store, first_line

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0  # at most, between two visits to a node that does not answer
LAST_SECONDS = 1.0  # for what nodes are asked when this process ends
THREADS = 16  # nodes visited at once; and as many that did not answer the last time
STRANGE_THREADS = 4  # strangers visited at once
AGES_SECONDS = 2.0  # between two writes of when nodes were last visited


class Worker:
    """Reconciles every node of every database: at once when its policy changes, and once a second.
    The nodes are those that the database names, and those that they name.

    One thread keeps the schedule and writes down what was found; a few more visit nodes, and others
    of their own visit nodes that did not answer the last time, so that these delay no other. Of
    several control planes only the holder of the lease does any of it.

    `authorities` is PEM of the CAs that nodes' certificates come from where a database names none;
    `collector` reads each node's log after a visit.
    """

    def __init__(
        self,
        store: Store,
        identity: Identity,
        authorities: str,
        collector: Collector | None = None,
        pulse: Pulse | None = None,
        lease: Lease | None = None,
    ) -> None:
        self._pulse = pulse or Pulse()
        self._store, self._identity, self._authorities = store, identity, authorities
        self.lease = lease or Lease(store)
        self.fleet = Fleet()
        self._databases: dict[int, tuple[Database, Target]] = {}
        self._revision = -1
        self._term = 0  # of the lease, in which the nodes were tracked
        self._ages_written = -math.inf
        self._refusal = ""  # why the store takes nothing from this process
        self._news: set[int] = set()  # databases of which something is to be written down
        # A heap; an entry whose time is not its node's is out of date. The number is the order of
        # entries of the same time.
        self._schedule: list[tuple[float, int, TrackedNode]] = []
        self._number = itertools.count()
        # What visits have found; then the node itself, when its thread is done with it.
        self._found: queue.SimpleQueue[Observation | TrackedNode] = queue.SimpleQueue()
        self._wake, self._stopping = threading.Event(), threading.Event()
        key = core.identity(identity.certificate.read_bytes()).key
        self._visitor = Visitor(
            store, self.fleet, self.lease, collector or Collector(store), key, self._found,
            self._wake,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        self._slow = ThreadPoolExecutor(THREADS, thread_name_prefix="sync-slow")
        self._strange = ThreadPoolExecutor(STRANGE_THREADS, thread_name_prefix="sync-strange")
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        """Starts the thread that keeps the schedule; the others start with their first visits."""
        self._pulse.expect("sync", OLD)
        self._store.listen(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no node is spoken to any more. What a node has not answered after
        LAST_SECONDS is cut off: it does what it was told, or the next leader tells it again."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        cut = threading.Timer(LAST_SECONDS, self._cut_all)
        cut.daemon = True
        cut.start()
        for pool in (self._pool, self._slow, self._strange):
            pool.shutdown(cancel_futures=True)
        cut.cancel()
        for tracked in self.fleet.all():
            tracked.node.close()
        try:
            self.lease.end()
        except Exception as error:
            log.warning("the lease ends by itself: %s", first_line(error))

    def _cut_all(self) -> None:
        for tracked in self.fleet.all():
            tracked.node.cut_overdue(math.inf)

    def ask(
        self,
        bdb_uid: int,
        question: Callable[[Command], Any],
        only: str = "",
        patience: float | None = None,
        of: Database | None = None,
    ) -> dict[str, Any]:
        """Puts a question to each node of a database, or to `only` one of them by its address, in
        any thread: by address the answer, or the NodeError that came of it. `question` gets what
        runs a command on the node. With `patience`, in seconds, nodes that do not answer are not
        waited for; `of` is the database, where it is not stored yet."""
        tracked_nodes = self.fleet.of(bdb_uid)
        nodes = {
            address: tracked.node
            for address, tracked in tracked_nodes.items()
            # Sentinels and aliases have no policy of their own.
            if tracked.seen.role != "sentinel" and not tracked.is_alias
            and not (patience is not None and tracked.away)
        }  # fmt: skip
        connects = not tracked_nodes  # another control plane visits them
        if connects:
            nodes = self._connections(bdb_uid, of, patience is not None)
        if only:
            nodes = {address: node for address, node in nodes.items() if address == only}

        def answer(node: Node) -> Any:
            try:
                return question(node.command)
            except NodeError as error:
                return error
            finally:
                if connects:
                    node.close()

        pool = ThreadPoolExecutor(THREADS, "ask")
        asked = {address: pool.submit(answer, node) for address, node in nodes.items()}
        wait(asked.values(), patience)
        pool.shutdown(wait=False, cancel_futures=True)
        late = NodeError(UNREACHABLE, "no answer in time")
        return {
            one: reply.result() if reply.done() and not reply.cancelled() else late
            for one, reply in asked.items()
        }

    def _connections(self, bdb_uid: int, of: Database | None, hurries: bool) -> dict[str, Node]:
        """Connections to the nodes of a database, for one question; to the endpoints of a database
        that is not stored yet. `hurries`: not to nodes that did not answer the last time."""
        known = [seen for seen in self._store.nodes.of(bdb_uid) if seen.role != "sentinel"]
        if not known and of:
            ends = {end.address: end.dns_name for end in of.endpoints}
            known = [replace(unknown_node(of, one), server_name=name) for one, name in ends.items()]
        if hurries:
            known = [seen for seen in known if not seen.error.startswith(UNREACHABLE)]
        database = of or (self._store.objects.get(Database, bdb_uid) if known else None)
        return {
            seen.address: Node(access_of(database, seen, self._authorities), self._identity)
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
                self._pulse.fail("sync", first_line(error))  # the store tells the log
                self._stopping.wait(VISIT_SECONDS)
            except Exception as error:
                log.exception("the sync worker goes on after an error")
                self._pulse.fail("sync", str(error) or type(error).__name__)
                self._stopping.wait(VISIT_SECONDS)

    def _pause(self) -> float:
        """Seconds until something is due. The store is read anyway: other processes write."""
        due = self._schedule[0][0] if self._schedule else math.inf
        return max(0.0, min(LEASE_TRY_SECONDS, due - time.monotonic()))

    def _turn(self) -> None:
        try:
            self._store.holds.begin_if_older()
            if not self.lease.hold():
                self._let_go()
                return
            if self.lease.terms != self._term:
                self._let_go()  # what another process has reported since is not known here
                self._term = self.lease.terms
            revision = self._store.revision()
            if revision != self._revision:
                self._news |= self._follow()
                self._store.policies.do_piece()  # which counts up the revision
            self._revision = revision
            self._begin()
            self._news |= self._finish()
            self._report()
            self._write_ages()
        except Replaced:
            self.lease.lose()
            self._let_go()
        except Refusal as error:  # the database is another version's by now
            self.lease.lose()
            self._let_go()
            if error.description != self._refusal:
                log.error("nothing is sent to the servers: %s", error.description)
            self._refusal = error.description
            self._stopping.wait(VISIT_SECONDS)

    def _let_go(self) -> None:
        """Another process holds the lease, and visits the nodes."""
        for tracked in self.fleet.all():
            self._drop(tracked)
        self._finish()  # which closes the connections of visits that were under way
        self.fleet.keep(())
        self._databases, self._news, self._revision = {}, set(), -1
        self._ages_written = -math.inf

    # ---- Which nodes are tracked ----

    def _follow(self) -> set[int]:
        """Takes over what has changed in the store. Returns the databases that changed
        themselves."""
        databases, targets = self._store.objects.all(Database), self._store.policies.targets()
        now = {one.uid: (one, targets[one.uid]) for one in databases if one.uid in targets}
        changed = set()
        for uid, (database, target) in now.items():
            before = self._databases.get(uid)
            if before is None:
                self._remember(database)
            if before is None or before[0] != database:
                self._track_all(database, again=before is not None)
                changed.add(uid)
            elif before[1] != target:
                self._visit_soon(uid)
        for tracked in self.fleet.all():
            if tracked.database.uid not in now:
                self._drop(tracked)
        self.fleet.keep(now)
        self._databases = now
        for seen in self._store.nodes.gone():
            lost = self.fleet.get(seen.bdb_uid, seen.address)
            if lost:
                self._drop(lost)
            self._news.add(seen.bdb_uid)
            self._report()  # before somebody names it again
        return changed

    def _remember(self, database: Database) -> None:
        """The nodes that were known before this control plane started."""
        self.fleet.open(database.uid)
        for seen in self._store.nodes.of(database.uid):
            tracked = self._track(database, seen)
            tracked.bound = seen.is_peer
            tracked.visited = time.monotonic() - seen.age
            tracked.known = seen.is_peer or seen.error.startswith(MODULE)

    def _track_all(self, database: Database, again: bool) -> None:
        """The database itself has changed: each of its nodes is visited at once, and until then
        (`again`) what was seen of it before does not count. A server that is named twice is one
        node."""
        names = {end.address: end.dns_name for end in database.endpoints}
        nodes = self.fleet.of(database.uid)
        known = {address: tracked.seen for address, tracked in nodes.items()}
        if again:
            known = {one: replace(seen, generation=0, in_step=False) for one, seen in known.items()}
        for address, name in names.items():
            before = known.get(address) or unknown_node(database, address)
            self._track(database, replace(before, origin="endpoint", server_name=name))
        mapped = dict(database.node_addresses)
        for address, seen in known.items():
            if address not in names and address in mapped:  # it is reached under another name now
                self._drop(nodes[address])
            elif address not in names:
                named = seen.origin == "endpoint"  # before: then it is no longer wanted
                self._track(database, replace(seen, origin="leaving") if named else seen)

    def _track(self, database: Database, seen: Seen) -> TrackedNode:
        """Tracks a node as it is reached now; it is visited at once."""
        access = access_of(database, seen, self._authorities)
        tracked = before = self.fleet.get(database.uid, seen.address)
        if tracked and tracked.access != access:
            self._drop(tracked)
            tracked = None
        if tracked is None:
            held = before.held if before else held_by(seen)
            node = Node(access, self._identity)
            tracked = TrackedNode(database, access, node, seen, held=held)
            self.fleet.put(tracked)
        tracked.database, tracked.seen, tracked.info_time = database, seen, -math.inf
        self._set_due(tracked, 0.0)
        return tracked

    def _visit_soon(self, uid: int) -> None:
        """The policy of a database has changed. A node that does not answer is asked no sooner."""
        for tracked in self.fleet.of(uid).values():
            if not tracked.away:
                self._set_due(tracked, 0.0)

    def _drop(self, tracked: TrackedNode) -> None:
        self.fleet.discard(tracked)
        tracked.due = -1.0  # not a time: what is left of it in the schedule is out of date
        if not tracked.busy:
            tracked.node.close()

    def _set_due(self, tracked: TrackedNode, due: float) -> None:
        tracked.dirty = tracked.busy
        tracked.due = due
        if not tracked.busy:
            heapq.heappush(self._schedule, (due, next(self._number), tracked))

    def _place(self, database: Database) -> None:
        """Tracks the nodes that belong to a database, and drops those that have left it."""
        for move in placement.place(self.fleet, database.uid, time.monotonic()):
            tracked = self.fleet.get(database.uid, move.address)
            if tracked is None:
                found = unknown_node(database, move.address)
                self._track(database, replace(found, origin="found"))
            else:
                self._move(database, tracked, move)

    def _move(self, database: Database, tracked: TrackedNode, move: Transition) -> None:
        tracked.is_alias, tracked.outside_since = move.is_alias, move.outside_since
        if move.action == "back":
            self._track(database, replace(tracked.seen, origin="found"))
        elif move.action == "leave":
            self._track(database, replace(tracked.seen, origin="leaving"))
        elif move.action == "lost":
            note(self._store, tracked, "node_lost")
            self._drop(tracked)
        elif move.action == "drop":
            self._drop(tracked)

    # ---- Visits ----

    def _begin(self) -> None:
        now = time.monotonic()
        for tracked in self.fleet.all():
            tracked.node.cut_overdue(now)
        while self._schedule and self._schedule[0][0] <= now:
            due, _, tracked = heapq.heappop(self._schedule)
            if due == tracked.due and not tracked.busy:
                tracked.busy, tracked.dirty = True, False
                visit = self._visitor.visit
                self._pool_of(tracked).submit(visit, tracked, tracked.database, tracked.seen)

    def _pool_of(self, tracked: TrackedNode) -> ThreadPoolExecutor:
        """A node can name a thousand servers that do not answer: those have few threads of their
        own."""
        if tracked.seen.origin == "found" and not tracked.known:
            return self._strange
        return self._slow if tracked.away or tracked.info is None else self._pool

    def _finish(self) -> set[int]:
        """Takes over what visits have found, and schedules the next ones. A node that fails is
        tried again later and later. Returns the databases of which something is to be written
        down."""
        about = set()
        while not self._found.empty():
            found = self._found.get()
            tracked = found.tracked if isinstance(found, Observation) else found
            there = self.fleet.get(tracked.seen.bdb_uid, tracked.seen.address) is tracked
            if isinstance(found, TrackedNode):
                self._free(tracked, there)
            elif there and self._take(tracked, found):
                about.add(tracked.seen.bdb_uid)
        for uid in about:
            self._place(self._databases[uid][0])
        return about

    def _free(self, tracked: TrackedNode, there: bool) -> None:
        tracked.busy = False
        if not there:
            tracked.node.close()
            return
        pause = min(RETRY_SECONDS, VISIT_SECONDS * 2 ** min(max(tracked.failures - 1, 0), 5))
        wait = 0.0 if tracked.dirty else pause * random.uniform(0.5, 1)  # noqa: S311 (jitter)
        self._set_due(tracked, time.monotonic() + wait)

    def _take(self, tracked: TrackedNode, visit: Observation) -> bool:
        """Whether something is new, or goes on."""
        if visit.seen.error != tracked.seen.error:
            text = visit.seen.error or "in step"
            log.info("%s of '%s': %s", visit.seen.address, tracked.database.name, text)
        before = tracked.seen, tracked.info, tracked.detached
        tracked.visited = now = time.monotonic()
        tracked.seen = replace(visit.seen, origin=tracked.seen.origin)
        if visit.info:
            tracked.info, tracked.info_time = visit.info, now
            since = min(tracked.link_down_since, now)
            tracked.link_down_since = since if visit.info.is_cut else math.inf
        tracked.detached = visit.detached
        if visit.ready and not tracked.ready:  # the others may have waited for it
            self._visit_soon(tracked.database.uid)
        tracked.ready = visit.ready or (tracked.ready and tracked.away)
        tracked.known = tracked.known or tracked.seen.is_peer
        wrong = tracked.seen.error and not tracked.seen.in_step
        tracked.failures = tracked.failures + 1 if wrong else 0
        is_new = before != (tracked.seen, tracked.info, tracked.detached)
        return is_new or tracked.outside_since < math.inf

    def _report(self) -> None:
        """Writes down what is new; again the next time, where the store is away."""
        for uid in self._news & self.fleet.uids():
            nodes = self.fleet.of(uid).values()
            database, epoch = self._databases[uid][0], self.lease.epoch
            now = time.monotonic()
            seen = [replace(one.seen, age=now - one.visited) for one in nodes if not one.is_alias]
            self._store.nodes.report(uid, seen, epoch, database)
            news = [tracked for tracked in nodes if tracked.seen.is_peer != tracked.bound]
            for tracked in news:
                tracked.bound = tracked.seen.is_peer
            if news:
                self._visit_soon(uid)
            if database.deleting and all(tracked.detached for tracked in nodes):
                self._store.nodes.forget_database(uid, epoch)
        self._news = set()

    def _write_ages(self) -> None:
        """Writes down when nodes were visited, also where nothing is new."""
        now, last = time.monotonic(), self._ages_written
        if now < last + AGES_SECONDS:
            return
        ages = {
            uid: {one.seen.address: now - one.visited
                  for one in self.fleet.of(uid).values() if one.visited > last}
            for uid in self.fleet.uids()
        }  # fmt: skip
        if any(ages.values()):
            self._store.nodes.record_looks(ages, self.lease.epoch)
        self._ages_written = now
