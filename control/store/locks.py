"""Locks: whom administrators hold out for the time being."""

import time
from collections.abc import Iterable

import sqlalchemy as sa

from control.errors import missing
from control.policy.core import CoreError
from control.policy.locks import user_line
from control.records import EventDetail
from control.reports import Lock
from control.store.events import note
from control.store.kernel import Kernel
from control.store.lines import all_databases, await_policies, refresh_databases
from control.store.schema import locks
from control.store.statements import TAKE_UID, insert_into, select_all, select_by

KEPT_BY_SERVER = "a server had this lock when the control plane was restored from a backup"


class Locks:
    """A lock is a canonical `lock` line; it holds here and on every database until its end. No
    other record changes with it, so that nothing has to be brought back."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def all(self) -> tuple[Lock, ...]:
        """Those that hold, by uid."""

        def load() -> tuple[tuple[Lock, ...]]:
            with self._kernel.read() as connection:
                rows = connection.execute(select_all(locks))
                return (tuple(Lock(**row._mapping) for row in rows),)

        return self._kernel.cache.recall("locks", load)[0]

    def get(self, uid: int) -> Lock:
        """Raises Refusal 404."""
        with self._kernel.read() as connection:
            return _read(connection, uid)

    def add(self, line: str, reason: str, end: int) -> Lock:
        """Locks. What is locked already stays so for the longer of both times, for this reason."""
        with self._kernel.change() as connection:
            made = _add(connection, line, reason, end)
            _follow(connection)
            await_policies(connection)
            return made

    def remove(self, uid: int) -> None:
        """Takes a lock back. Raises Refusal 404."""
        with self._kernel.change() as connection:
            _remove(connection, _read(connection, uid), "lock_removed")
            _follow(connection)

    def finish(self, now: int) -> None:
        """Takes back those whose time is over."""
        if not any(0 < one.end <= now for one in self.all()):
            return
        with self._kernel.change() as connection:
            over = locks.c.end.between(1, now)
            rows = connection.execute(sa.select(locks).where(over)).all()
            for row in rows:
                _remove(connection, Lock(**row._mapping), "lock_ended")
            if rows:
                _follow(connection)

    def keep(self, held: Iterable[str], **where: EventDetail) -> None:
        """Locks what a server holds as locked and this store does not know: it was locked after the
        backup that this store is from. `where` goes into the event log."""
        lines = sorted(line for line in held if line.startswith("lock "))
        with self._kernel.change() as connection:
            known = set(connection.scalars(sa.select(locks.c.line)))
            for line in (one for one in lines if one not in known):
                _write(connection, None, line, KEPT_BY_SERVER, 0)
                note(connection, "lock_kept", "WARNING", line=line, **where)
            _follow(connection)


def follow_name(connection: sa.Connection, before: str, after: str) -> None:
    """A user has another name now: where the old name is locked, the new name is locked as well,
    for as long. Who may change users may not take locks back."""
    try:
        held = _of_line(connection, user_line(before))
    except CoreError:  # a name of an older version, which no line can hold: nothing locks it
        return
    if held:
        _add(connection, user_line(after), held.reason, held.end)
        _follow(connection)


def _of_line(connection: sa.Connection, line: str) -> Lock | None:
    row = connection.execute(select_by(locks, "line"), {"line": line}).first()
    return Lock(**row._mapping) if row else None


def _add(connection: sa.Connection, line: str, reason: str, end: int) -> Lock:
    before = _of_line(connection, line)
    end = max(end, before.end) if end and before and before.end else 0 if before else end
    made = _write(connection, before, line, reason, end)
    note(connection, "locked", "WARNING", line=line, reason=reason, end=end)
    return made


def _read(connection: sa.Connection, uid: int) -> Lock:
    row = connection.execute(select_by(locks, "uid"), {"uid": uid}).first()
    if row is None:
        raise missing(f"lock {uid}")
    return Lock(**row._mapping)


def _write(
    connection: sa.Connection, before: Lock | None, line: str, reason: str, end: int
) -> Lock:
    """In place of the lock with this line, if there is one."""
    uid = before.uid if before else int(connection.scalar(TAKE_UID, {"name": "lock", "uid": 0}))
    made = Lock(uid, line, reason, before.time if before else int(time.time()), end)
    connection.execute(sa.delete(locks).where(locks.c.uid == uid))
    connection.execute(insert_into(locks), vars(made))
    return made


def _remove(connection: sa.Connection, one: Lock, kind: str) -> None:
    connection.execute(sa.delete(locks).where(locks.c.uid == one.uid))
    note(connection, kind, "WARNING", line=one.line, reason=one.reason)


def _follow(connection: sa.Connection) -> None:
    refresh_databases(connection, all_databases(connection), own=True)
