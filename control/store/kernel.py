"""What all services of the store share: transactions, the revision, the cache, who is told of
changes, and what each thread is doing."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import sqlalchemy as sa

from control.errors import refused
from control.records import EventDetail
from control.reports import NewRules
from control.store.cache import Cache
from control.store.engine import Connections
from control.store.errors import UNAVAILABLE_ERRORS, Untried
from control.store.notify import NotificationListener, ReportCounter, notify_others
from control.store.schema import cluster_table
from control.store.statements import COUNT_UP_REVISION
from control.store.transaction import begin_state, state_of
from control.store.trials import find_untried

Known = TypeVar("Known")
MEMORY_SECONDS = 300.0  # for which what was read counts, where the database cannot be asked
REMEMBERED_RECORDS = 1_000  # of an answer; a larger one is not kept for an outage
REVISION_MAX_AGE_SECONDS = 0.005  # reading it at every request, threads wait for each other (GIL)


class ThreadState(threading.local):
    """What a thread is doing. `revision`: which its request reads at. `age`: how many
    seconds ago that was the last one for certain, where the database is away. `actor`: whom the
    event log names for its changes. `moved`: the policies that its changes have moved, and the
    generations that they have made. `forgets`: whether its changes are rolled back. `tried`: which
    ACL rules were tried on the servers, where only such may be written. `unfinished`: databases of
    which its changes have left lines to be rendered."""

    revision: int | None = None
    age: float = 0.0
    actor: Mapping[str, EventDetail] = MappingProxyType({})
    moved: Mapping[int, range] = MappingProxyType({})
    forgets: bool = False
    tried: Callable[[int, str], bool] | None = None
    unfinished: frozenset[int] = frozenset()


class Kernel:
    """`untried`: a list that collects the ACL rules that changes bring and nobody has tried, for a
    rehearsal; without it such a change raises Untried."""

    def __init__(self, connections: Connections, untried: list[NewRules] | None = None) -> None:
        self.thread = ThreadState()
        self.reports = ReportCounter()
        self.cache = Cache(self.revision)
        self._connections, self._untried = connections, untried
        self._sender = secrets.token_hex(8)
        self._changed: list[Callable[[], None]] = []
        self._listener: NotificationListener | None = None
        self._remembered: dict[object, tuple[Any, int, float]] = {}
        self._latest = (0, -1.0)  # a revision, and when it was read
        # The revision that was seen and, behind it, where the database went back since; 0: it did
        # not.
        self.fallen = (0, 0)
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Stops listening to other processes."""
        if self._listener:
            self._listener.stop()

    # ---- The revision ----

    def revision(self) -> int:
        """Counts the changes; 0 before the cluster is made."""
        entered = self.thread.revision
        return self._read_revision() if entered is None else entered

    def recent_revision(self) -> int:
        """The revision, with all changes of this process, and those of other processes up to
        REVISION_MAX_AGE_SECONDS ago; where the database is away, up to MEMORY_SECONDS: the
        thread's `age` says so."""
        revision, read = self._latest
        now, self.thread.age = time.monotonic(), 0.0
        if now < read + REVISION_MAX_AGE_SECONDS:
            return revision
        try:
            return self._note_revision(self._read_revision(), now)
        except UNAVAILABLE_ERRORS:
            if not revision or now > read + MEMORY_SECONDS:
                raise
            self.thread.age = now - read
            return revision

    def _read_revision(self) -> int:
        """The revision now. A lower one than was known before it was asked for is of an older state
        of the database: what was read of the later one does not count any more."""
        known = self._latest[0]
        found = self._connections.read_revision()
        if found < known and self._untried is None:  # a rehearsal's own changes may be undone
            with self._lock:
                self.fallen = (max(known, self.fallen[0]), found)
                self._latest = (found, time.monotonic())
                self._remembered.clear()
            self.cache.clear()
        return found

    def _note_revision(self, revision: int, now: float) -> int:
        """Remembers a revision unless a later one is known. Returns the latest."""
        with self._lock:
            if revision >= self._latest[0]:
                self._latest = (revision, now)
            return self._latest[0]

    def remember(
        self,
        key: object,
        read: Callable[[], Known],
        older: Callable[[Known, float], Known] | None = None,
    ) -> Known:
        """What `read` returns; for a request that reads from memory, what it returned to a request
        before, at the same revision, or made `older` by so many seconds. For what the cache does
        not keep."""
        revision, now = self.thread.revision, time.monotonic()
        if revision is None:
            return read()
        try:
            found = read()
        except UNAVAILABLE_ERRORS:
            known, at, when = self._remembered.get(key, (None, -1, 0.0))
            if not self.thread.age or (at != revision if older is None else at < 0):
                raise
            kept: Known = known
            return older(kept, now - when) if older else kept
        if isinstance(found, Sized) and len(found) > REMEMBERED_RECORDS:
            self._remembered.pop(key, None)
        else:
            self._remembered[key] = found, revision, now
        return found

    # ---- Who is told ----

    def listen(self, changed: Callable[[], None]) -> None:
        """See Store.listen."""
        self._changed.append(changed)
        self.listen_to_others()

    def listen_to_others(self) -> None:
        """Hears from now on of what other processes change, as soon as PostgreSQL tells."""
        with self._lock:
            engine = self._connections.listening()
            if engine and not self._listener:
                self._listener = NotificationListener(engine, self._sender, self._hear)
                self._listener.start()

    def _hear(self) -> None:
        self.reports.count_up()
        self._tell_listeners()

    def _tell_listeners(self) -> None:
        for changed in self._changed:
            changed()

    def notify_others(self, connection: sa.Connection) -> None:
        """Wakes the other processes when this transaction has ended."""
        notify_others(connection, self._sender)

    # ---- Transactions ----

    def read(self) -> AbstractContextManager[sa.Connection]:
        """For statements that read, at one moment."""
        return self._connections.read()

    def write_statement(self) -> AbstractContextManager[sa.Connection]:
        """See Connections."""
        return self._connections.write_statement()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction that writes, without a new revision. Raises Refusal 503, see
        Connections."""
        with self._connections.write(self.thread.forgets) as connection:
            begin_state(connection, self.thread.actor)
            yield connection

    @contextmanager
    def rehearsal(self) -> Iterator[sa.Connection]:
        """A transaction of which nothing stays."""
        with self._connections.rehearsal() as connection:
            begin_state(connection, self.thread.actor)
            yield connection

    @contextmanager
    def log(self) -> Iterator[sa.Connection]:
        """A transaction that writes events, one such after the other: a reader that pages through
        the event log by number misses none."""
        with self.transaction() as connection:
            connection.execute(sa.select(cluster_table.c.revision).with_for_update())
            yield connection

    @contextmanager
    def change(self, kept: Sequence[str] | None = None, but: int = 0) -> Iterator[sa.Connection]:
        """A change of rows, as the next revision. With `kept`, it makes a user with these names, or
        changes the user with the uid `but` in what concerns only itself: the cache keeps all else.
        Raises Refusal 503, see Connections; Untried."""
        with self.transaction() as connection:
            state = state_of(connection)
            revision = self.begin_change(connection)
            state.rules = None if self.thread.tried is None else {}
            yield connection
            if state.rules and self.thread.tried:
                self._check_tried(find_untried(connection, state.rules, self.thread.tried))
        if self.thread.forgets:
            return
        begun = self.thread.moved
        self.thread.moved = {
            **begun,
            **{
                uid: range(begun.get(uid, made).start, made.stop)
                for uid, made in state.moved.items()
            },
        }
        self.thread.unfinished |= state.unfinished
        if kept is not None:
            self.cache.keep(revision, kept, but)
        self.end_change(revision)

    def begin_change(self, connection: sa.Connection) -> int:
        """The next revision; its row is the lock that serialises writers on PostgreSQL."""
        revision = connection.scalar(COUNT_UP_REVISION)
        if revision is None:
            raise refused("not_initialised", "run `redis-certauth init` first")
        self.notify_others(connection)
        return int(revision)

    def end_change(self, revision: int) -> None:
        """After the commit of `begin_change`: tells the listeners."""
        if self.thread.forgets:
            return
        self._note_revision(revision, time.monotonic())
        if self.thread.revision is not None:
            self.thread.revision = revision
        self._tell_listeners()

    def _check_tried(self, untried: tuple[NewRules, ...]) -> None:
        if untried and self._untried is None:
            raise Untried(untried)
        if self._untried is not None:
            # Tried when all that is to be rehearsed is there: nobody waits for servers meanwhile.
            self._untried += untried
