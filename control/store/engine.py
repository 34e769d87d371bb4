"""Connections to the database: SQLite's file or PostgreSQL's server, or one connection for all."""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from control.store import patience
from control.store.errors import Locked, Unfit
from control.store.outage import GONE, Outage, sqlstate
from control.store.versions import check_own_version

READ_REVISION = "SELECT revision FROM cluster"
TX_IDLE_SECONDS = 2  # PostgreSQL ends a transaction that does nothing for so long
TX_LONG_IDLE_SECONDS = 60  # the same, while the lines of many users are computed


class Connections(Protocol):
    """Where the kernel gets its connections from."""

    def read(self) -> AbstractContextManager[sa.Connection]:
        """For statements that read, at one moment."""

    def write(self, forgets: bool) -> AbstractContextManager[sa.Connection]:
        """A transaction; with `forgets`, it is rolled back at its end. Raises Refusal 503 where
        another version has changed the tables since this process has opened them: what this version
        would write there may undo what that one has."""

    def write_statement(self) -> AbstractContextManager[sa.Connection]:
        """For one statement that is a transaction by itself: a process that is frozen after it
        holds no lock that others wait for."""

    def rehearsal(self) -> AbstractContextManager[sa.Connection]:
        """A connection in a transaction, of which nothing stays."""

    def read_revision(self) -> int:
        """The number of the last change; 0 before the cluster is made."""

    def listening(self) -> sa.Engine | None:
        """Connections on which PostgreSQL's notifications can be awaited; None without such."""


class Pool:
    """The connections of a process to a database. Raises Unfit, see `make_engine`."""

    def __init__(self, url: str, make: bool) -> None:
        engine = make_engine(sa.make_url(url), make)
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = engine.execution_options(writer=True)
        self._statements = engine.execution_options(isolation_level="AUTOCOMMIT")
        level = "REPEATABLE READ"  # SQLite's only level is as good
        self._engine = (
            engine if self._is_sqlite else engine.execution_options(isolation_level=level)
        )
        self._writing = Queue()
        self._outage = Outage()
        self._thread = threading.local()
        self._revision_readers: list[Any] = []

    def close(self) -> None:
        """Closes all connections, also those of other threads."""
        for reader in self._revision_readers:
            reader.close()
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """On PostgreSQL at REPEATABLE READ. Raises Away while the database is not there."""
        with self._outage.watch(writes=False), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction that writes, whichever version the tables are of. Those who have waited for
        their turn while the one before them waited for a lock in vain do not wait for it again."""
        self._outage.check(writes=True)
        with self._turn(), self._outage.watch(writes=True), self._writer.connect() as connection:
            waits = nullcontext() if self._is_sqlite else patience.for_locks(connection)
            with waits, connection.begin():
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's writers wait for each other by sleeping, up to a tenth of a second at a time;
        so those of this process do it here."""
        if not self._writing.acquire(timeout=patience.LOCK_SECONDS):
            raise Locked(f"another change is not done after {patience.LOCK_SECONDS} seconds")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def write(self, forgets: bool) -> Iterator[sa.Connection]:
        """Locks the version of the tables until the end, so that no other version changes them."""
        with self.begin() as connection:
            check_own_version(connection, " FOR SHARE")
            yield connection
            if forgets:
                connection.rollback()

    @contextmanager
    def write_statement(self) -> Iterator[sa.Connection]:
        """PostgreSQL commits the statement itself; on SQLite, which is local, it is a
        transaction."""
        if self._is_sqlite:
            with self.write(forgets=False) as connection:
                yield connection
        else:
            with (
                self._outage.watch(writes=True),
                self._statements.connect() as connection,
                patience.for_locks(connection),
            ):
                check_own_version(connection)
                yield connection

    @contextmanager
    def rehearsal(self) -> Iterator[sa.Connection]:
        """SQLite: on a copy, so that nobody waits. On PostgreSQL others who write wait."""
        if not self._is_sqlite:
            with self.write(forgets=True) as connection:
                yield connection
            return
        engine = self._copied()
        try:
            with engine.connect() as connection, connection.begin() as whole:
                check_own_version(connection)
                yield connection
                whole.rollback()
        finally:
            engine.dispose()

    def _copied(self) -> sa.Engine:
        """The database as it is now, in a file without a name, which goes with its connection."""

        def connect() -> sqlite3.Connection:
            copy = sqlite3.connect("", check_same_thread=False)
            with self._outage.watch(writes=False), self._engine.connect() as connection:
                source = connection.connection.driver_connection
                if isinstance(source, sqlite3.Connection):
                    source.backup(copy)
            return copy

        engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.StaticPool)
        sa.event.listen(engine, "connect", _begin_by_hand)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def read_revision(self) -> int:
        """Costs one query and, on SQLite, no transaction of SQLAlchemy."""
        # Asked at every request, so without SQLAlchemy's 150 us where possible; and by each thread
        # on a connection of its own: threads would wait for each other longer than for SQLite.
        if self._is_sqlite:
            cursor = self._revision_reader().execute(READ_REVISION)
            rows = cursor.fetchall()  # to the end, which releases SQLite's snapshot
        else:
            with self.read() as connection:
                rows = list(connection.exec_driver_sql(READ_REVISION))
        return int(rows[0][0]) if rows else 0

    def _revision_reader(self) -> Any:
        """This thread's own connection, as sqlite3 has it."""
        if not hasattr(self._thread, "reader"):
            kept = self._engine.raw_connection()
            self._revision_readers.append(kept)
            self._thread.reader = kept.driver_connection
        return self._thread.reader

    def listening(self) -> sa.Engine | None:
        """On PostgreSQL the engine that commits each statement; SQLite notifies nobody."""
        return None if self._is_sqlite else self._statements


class Queue:
    """A lock that threads get in the order in which they came: one that takes it again and again,
    as for the pieces of a large change, lets each of the others in between."""

    def __init__(self) -> None:
        self._lock, self._held = threading.Lock(), False
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """Whether it was had within so many seconds."""
        with self._lock:
            if not self._held:
                self._held = True
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        if gate.acquire(timeout=timeout):
            return True
        with self._lock:
            if gate not in self._waiting:  # it was handed over just now
                return True
            self._waiting.remove(gate)
            return False

    def release(self) -> None:
        """Hands it over to the first that waits."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False


class OneConnection:
    """All that is read and written goes over one connection, within the transaction that its owner
    has begun there."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """The connection itself, with all that was written on it."""
        yield self._connection

    @contextmanager
    def write(self, forgets: bool) -> Iterator[sa.Connection]:
        """A savepoint within the owner's transaction; does not look at the tables' version
        again."""
        with self._connection.begin_nested() as nested:
            yield self._connection
            if forgets:
                nested.rollback()

    def write_statement(self) -> AbstractContextManager[sa.Connection]:
        """Not by itself here: the owner's transaction decides what stays."""
        return self.write(forgets=False)

    def rehearsal(self) -> AbstractContextManager[sa.Connection]:
        """A savepoint that is rolled back."""
        return self.write(forgets=True)

    def read_revision(self) -> int:
        """With changes that the owner's transaction has not committed."""
        return int(self._connection.exec_driver_sql(READ_REVISION).scalar() or 0)

    def listening(self) -> sa.Engine | None:
        """Never: within a transaction PostgreSQL delivers no notification."""
        return None


def make_engine(url: sa.URL, make: bool = True) -> sa.Engine:
    """`make`: also the file of an SQLite database that does not exist; else raises Unfit."""
    if url.get_backend_name() != "sqlite":
        options = patience.options_of(url)
        engine = sa.create_engine(
            url, pool_size=20, pool_timeout=patience.POOL_SECONDS, connect_args=options
        )
        patience.watch(engine)
        sa.event.listen(engine, "connect", _limit_transactions)
        sa.event.listen(engine, "handle_error", _replace_connections)
        return engine
    if not url.database or url.database == ":memory:":
        raise ValueError("the store needs a file: sqlite:///path")
    if not make and not Path(url.database).exists():
        raise Unfit(f"there is no file {url.database}")
    # The file holds private keys and password hashes; its journals get the mode that it has.
    os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))
    options = {"timeout": patience.FILE_LOCK_SECONDS}
    engine = sa.create_engine(url, max_overflow=-1, connect_args=options)
    sa.event.listen(engine, "connect", _set_pragmas)
    sa.event.listen(engine, "begin", _begin)
    return engine


def without_password(url: str) -> str:
    """For people."""
    return sa.make_url(url).render_as_string(hide_password=True)


def _limit_transactions(connection: Any, _record: object) -> None:
    # A process that is frozen within a transaction, or whose machine is gone, loses its locks.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{TX_IDLE_SECONDS}s'")
    # What is not done when its caller has gone is not done behind the caller's back.
    connection.execute(f"SET lock_timeout = '{patience.LOCK_SECONDS}s'")
    connection.commit()


def _replace_connections(context: sa.ExceptionContext) -> None:
    # All of the pool go to the same server, such as one that is a standby by now.
    if sqlstate(context.original_exception) in GONE:
        context.is_disconnect = True


def allow_long_idle(connection: sa.Connection) -> None:
    """For a transaction that computes for long between two statements."""
    if connection.dialect.name == "postgresql":
        wait = f"SET LOCAL idle_in_transaction_session_timeout = '{TX_LONG_IDLE_SECONDS}s'"
        connection.exec_driver_sql(wait)


def _begin_by_hand(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # `_begin` begins transactions, never the driver
    connection.execute("PRAGMA foreign_keys=ON")


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # `_begin` begins transactions, never the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads and then writes fails at once where another one wrote in between, so
    # a writer takes the lock first.
    writer = connection.get_execution_options().get("writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")
