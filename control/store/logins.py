"""Logins to the control plane, and how many wrong passwords lock a user."""

import time

import sqlalchemy as sa

from control.records import EventDetail
from control.store.events import note
from control.store.kernel import Kernel
from control.store.rows import read_cluster
from control.store.schema import ended_logins, login_failures, users


class Logins:
    """Failed logins do not count up the revision, unless they lock a user: strangers cannot empty
    the cache of every process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def succeeded(self, uid: int, now: int, by: str) -> None:
        """Remembers when a user last logged in, and forgets the user's wrong passwords."""
        with self._kernel.change(kept=(), but=uid) as connection:
            where = users.c.uid == uid
            connection.execute(sa.update(users).where(where).values(last_login=now))
            connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
            note(connection, "login", by=by)

    def failed(self, uid: int, now: int, **detail: EventDetail) -> None:
        """Counts a wrong password of a user, or of an unknown name (uid 0), and locks the user
        where it was one too many for the cluster's policy."""
        with self._kernel.log() as connection:
            note(connection, "login_failed", "WARNING", **detail)
            cluster = read_cluster(connection)
            count = _count_failure(connection, uid, now, cluster.login_lockout_counter_reset_after)
            locked = bool(uid) and 0 < cluster.login_lockout_threshold <= count
            if locked:
                where = users.c.uid == uid
                connection.execute(sa.update(users).where(where).values(locked=now))
                connection.execute(sa.delete(login_failures).where(login_failures.c.uid == uid))
                note(connection, "user_locked", "WARNING", user_uid=uid, **detail)
                revision = self._kernel.begin_change(connection)
        if locked:
            self._kernel.end_change(revision)

    # ---- Logins that ended ----

    def end(self, login: str, until: int) -> None:
        """From now on no token of this login counts; `until`: seconds since 1970, when the last of
        them would have expired."""
        with self._kernel.change() as connection:
            old = ended_logins.c.until < int(time.time())
            connection.execute(sa.delete(ended_logins).where(old))
            connection.execute(sa.delete(ended_logins).where(ended_logins.c.login == login))
            connection.execute(sa.insert(ended_logins).values(login=login, until=until))
            note(connection, "logout")

    def has_ended(self, login: str) -> bool:
        """Whether somebody has logged out of it."""

        def load() -> tuple[frozenset[str]]:
            with self._kernel.read() as connection:
                return (frozenset(connection.scalars(sa.select(ended_logins.c.login))),)

        return login in self._kernel.cache.recall("ended logins", load)[0]


def _count_failure(connection: sa.Connection, uid: int, now: int, reset_after: int) -> int:
    """The number of wrong passwords, with this one; it starts again after `reset_after` seconds
    without any."""
    where = login_failures.c.uid == uid
    row = connection.execute(sa.select(login_failures).where(where)).first()
    failures = row.failures + 1 if row and now - row.last < reset_after else 1
    connection.execute(sa.delete(login_failures).where(where))
    connection.execute(sa.insert(login_failures).values(uid=uid, failures=failures, last=now))
    return int(failures)
